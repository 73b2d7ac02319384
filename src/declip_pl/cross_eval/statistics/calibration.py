"""How far predicted probabilities are from the share of fakes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from declip_pl.cross_eval.statistics.arrays import (
    Array,
    Indices,
    Sums,
    mean_over,
    occurring,
    ratio,
)
from declip_pl.metrics import CALIBRATION_BINS

BINS = CALIBRATION_BINS


def calibration_error(histograms: Array) -> Sums:
    """Return the expected calibration error in percent, mean over seeds.

    The mean distance between what was predicted and what was true in each of :data:`BINS` bins,
    weighted by the bin's share. Noise within bins adds to it, and in resamples once more: on few
    images even a perfectly calibrated model has several percent, and the interval lies too high.

    Args:
        histograms: ``[S, P, 3, BINS]``: count, sum of probabilities, count of fakes.
    """
    trained = len(histograms)
    sizes = np.nan_to_num(histograms[:, :, 0].sum(-1))
    own = occurring(sizes > 0)
    _, probability, fake = np.moveaxis(histograms[:, own], -2, 0)
    # Of each photo only what the error is made of: how far apart the two are in each bin, and size.
    gaps = np.nan_to_num(fake - probability).swapaxes(1, 2)
    table = np.concatenate([gaps, sizes[:, None, own]], 1).reshape(trained * (BINS + 1), -1)

    def scores(sums: Array, seeds: Indices) -> Array:
        summed = sums.reshape(*sums.shape[:-1], trained, BINS + 1)
        errors = 100 * ratio(abs(summed[..., :BINS]).sum(-1), summed[..., BINS])
        return mean_over(errors, seeds)[..., None]

    return Sums(own, table, scores)


def image_histogram(scores: Array, labels: NDArray[Any]) -> Array:
    """Return each image's histogram for :func:`calibration_error`: one entry, none if NaN.

    Args:
        scores: ``[N]`` in [0, 1].
        labels: ``[N]`` 1 = fake, 0 = real.

    Returns:
        ``[N, 3, BINS]``: count, sum of probabilities, count of fakes.
    """
    histogram = np.zeros((len(scores), 3, BINS))
    (scored,) = np.isfinite(scores).nonzero()
    bins = np.minimum((scores[scored] * BINS).astype(np.intp), BINS - 1)
    histogram[scored, 0, bins] = 1
    histogram[scored, 1, bins] = scores[scored]
    histogram[scored, 2, bins] = labels[scored]
    return histogram


def reliability(histogram: Array) -> dict[str, list[float | None]]:
    """Return what a reliability diagram shows of a summed histogram.

    Args:
        histogram: ``[3, BINS]``: count, sum of probabilities, count of fakes.

    Returns:
        For each bin the mean ``probability`` and the share that is ``fake``, both None where it is
        empty, and the bin's ``share`` of everything. All in [0, 1].
    """
    count, probability, fake = histogram
    return {
        "probability": _optional(ratio(probability, count)),
        "fake": _optional(ratio(fake, count)),
        "share": _optional(ratio(count, count.sum())),
    }


def _optional(values: Array) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
