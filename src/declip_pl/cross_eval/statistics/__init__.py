"""How sure a score is: bootstrap intervals, paired tests, calibration.

Scores are float64 arrays whose last axis is the photos, aligned by name: column ``p`` is the same
photo in every cell and seed, however it was manipulated. NaN stands where a photo is not in a test
set or a score is not defined for it. Scores are percent, probabilities in [0, 1].

A photo is the unit that is drawn, with everything that was made of it: a resample never holds a
photo's manipulation by one generator and not that by another. Resamples are counted, not gathered:
how often each photo was drawn, times its scores, is one matrix product for all resamples, and one
order of a cell's scores serves them all.
"""

from declip_pl.cross_eval.statistics.arrays import Array, Indices, Statistic, mean_of_defined
from declip_pl.cross_eval.statistics.bootstrap import (
    RESAMPLES,
    Estimate,
    Sampled,
    combined,
    mean_of_cells,
    means_of,
    sampled,
    sampled_difference,
)
from declip_pl.cross_eval.statistics.calibration import (
    BINS,
    calibration_error,
    image_histogram,
    reliability,
)
from declip_pl.cross_eval.statistics.detection import detection
from declip_pl.cross_eval.statistics.significance import PERMUTATIONS, holm, paired_p_value

__all__ = [
    "BINS",
    "PERMUTATIONS",
    "RESAMPLES",
    "Array",
    "Estimate",
    "Indices",
    "Sampled",
    "Statistic",
    "calibration_error",
    "combined",
    "detection",
    "holm",
    "image_histogram",
    "mean_of_cells",
    "mean_of_defined",
    "means_of",
    "paired_p_value",
    "reliability",
    "sampled",
    "sampled_difference",
]
