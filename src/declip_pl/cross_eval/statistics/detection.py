"""How well image scores tell fakes from reals, for every resample at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from declip_pl.cross_eval.statistics.arrays import (
    Array,
    Indices,
    Statistic,
    mean_over,
    product,
    ratio,
)

Counts = NDArray[np.int32]

_BLOCK = 2**17
"""Counts that are ranked at once: few enough to stay in a core's cache."""


def detection(fakes: Array, reals: Array, thresholds: Sequence[Sequence[float]]) -> Statistic:
    """Return how well image scores tell fakes from reals, in percent, mean over seeds.

    A drawn photo brings its fake and its real, if it has both. Equal scores count as in
    scikit-learn: half for AUROC, one step for AP. NaN where one of the classes is missing.

    Args:
        fakes: ``[S, P]`` scores in [0, 1] of manipulated photos, NaN where there is none.
        reals: ``[S, P]`` scores of the real ones.
        thresholds: For each accuracy each seed's threshold: a score above it says fake.

    Returns:
        What computes average precision, the area under the ROC curve, and the share of right
        decisions for each of ``thresholds``.
    """
    seeds_scores = [
        (_Ranks.of(*pair), _Decisions.of(*pair, [each[seed] for each in thresholds]))
        for seed, pair in enumerate(zip(fakes, reals, strict=True))
    ]

    def statistic(counts: Array, seeds: Indices) -> Array:
        rates = [_rates(counts, *scores) for scores in seeds_scores]
        return mean_over(np.stack(rates, -1), seeds[..., None, :])

    return statistic


class _Ranks(NamedTuple):
    """One seed's fakes and reals in falling order of their score.

    Attributes:
        fakes: ``[F]``, the fakes' photos.
        reals: ``[R]``, the reals' photos.
        found: ``[F]``, how many fakes have at least a fake's score.
        above: ``[F]``, how many reals have more than a fake's score.
        alarms: ``[F]``, how many reals have at least a fake's score.
    """

    fakes: Indices
    reals: Indices
    found: Indices
    above: Indices
    alarms: Indices

    @classmethod
    def of(cls, fakes: Array, reals: Array) -> "_Ranks":
        """Sort ``[P]`` scores of fakes and of reals; NaN are left out."""
        falling, places = _falling(fakes)
        falling_reals, real_places = _falling(reals)
        return cls(
            places,
            real_places,
            np.searchsorted(-falling, -falling, "right"),
            np.searchsorted(-falling_reals, -falling, "left"),
            np.searchsorted(-falling_reals, -falling, "right"),
        )

    def rates(self, counts: Array) -> Array:
        """Return average precision and AUROC in [0, 1] for ``[N, P]`` counts: ``[N, 2]``."""
        size = max(1, _BLOCK // counts.shape[-1])
        # Whole numbers of 4 bytes are added up eight times as fast as those of 8 with a fraction.
        blocks = [
            self._rates(counts[start : start + size].astype(np.int32))
            for start in range(0, len(counts), size)
        ]
        return np.concatenate(blocks)

    def _rates(self, counts: Counts) -> Array:
        fakes = counts.take(self.fakes, -1)
        sum_fakes, sum_reals = _running(fakes), _running(counts.take(self.reals, -1))
        found, alarms = sum_fakes.take(self.found, -1), sum_reals.take(self.alarms, -1)
        # A real of equal score is half above: whole numbers and halves, so sums are exact.
        above = (alarms + sum_reals.take(self.above, -1)) / 2
        # Their product has more than 4 bytes.
        right, wrong = (sums[..., -1].astype(np.float64) for sums in (sum_fakes, sum_reals))
        precision = found / np.maximum(found + alarms, 1)
        auroc = ratio((fakes * (wrong[..., None] - above)).sum(-1), right * wrong)
        return np.stack([ratio((fakes * precision).sum(-1), right), auroc], -1)


class _Decisions(NamedTuple):
    """How many images of each photo there are and are decided rightly, all whole numbers.

    Attributes:
        counted: ``[2, P]``: fakes and reals.
        right: ``[T, P]``, for T thresholds.
    """

    counted: Array
    right: Array

    @classmethod
    def of(cls, fakes: Array, reals: Array, thresholds: Sequence[float]) -> "_Decisions":
        """Decide ``[P]`` scores of fakes and of reals; NaN are not counted."""
        limits = np.array(thresholds)[:, None]
        right = (fakes > limits).astype(np.float64) + (reals <= limits)
        return cls(np.isfinite(np.stack([fakes, reals])).astype(np.float64), right)


def _rates(counts: Array, ranks: _Ranks, decisions: _Decisions) -> Array:
    """Return AP, AUROC and accuracies in percent for ``[..., P]`` counts, NaN without a class."""
    counted = product(counts, decisions.counted)
    ranked = ranks.rates(counts.reshape(-1, counts.shape[-1])).reshape(*counts.shape[:-1], 2)
    accuracy = ratio(product(counts, decisions.right), counted.sum(-1, keepdims=True))
    both = (counted > 0).all(-1, keepdims=True)
    return np.where(both, 100 * np.concatenate([ranked, accuracy], -1), np.nan)


def _falling(scores: Array) -> tuple[Array, Indices]:
    """Return the ``[P]`` scores that are not NaN in falling order, and their places."""
    order = np.argsort(-scores)[: np.isfinite(scores).sum()]  # NaN come last
    return scores[order], order


def _running(counts: Counts) -> Counts:
    """Return for ``[N, I]`` counts how many the first 0, 1, ... I of them are: ``[N, I + 1]``."""
    sums = np.zeros((len(counts), counts.shape[-1] + 1), np.int32)
    np.cumsum(counts, -1, np.int32, sums[:, 1:])
    return sums
