"""Is a difference more than chance? Paired tests, and their correction for many tests."""

from collections.abc import Sequence
from math import isnan, nan

import numpy as np
from scipy import stats

from declip_pl.cross_eval.statistics.arrays import SEED, Array, batch_size

PERMUTATIONS = 9999


def paired_p_value(differences: Array) -> float:
    """Return the two-sided p-value of "the mean of these differences is zero".

    A sign-flip permutation test: under that hypothesis each difference could as well have had the
    other sign. Exact for up to 13 photos, else with :data:`PERMUTATIONS` random flips.

    Args:
        differences: ``[P]``, one for each photo; NaN are left out.

    Returns:
        The p-value; 1 if all are zero, NaN if none is defined.
    """
    defined = differences[np.isfinite(differences)]
    if not len(defined):
        return nan
    if len(defined) == 1 or not defined.any():
        return 1.0
    result = stats.permutation_test(
        (defined,), np.mean, permutation_type="samples", vectorized=True,
        n_resamples=PERMUTATIONS, batch=batch_size(len(defined)), rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method, in the given order.

    Reporting those below 0.05 is then wrong about any of them in at most 5 % of cases. NaN stay
    NaN and don't count.
    """
    corrected = [nan] * len(p_values)
    tested = sorted((p, index) for index, p in enumerate(p_values) if not isnan(p))
    highest = 0.0
    for rank, (p, index) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[index] = highest
    return corrected
