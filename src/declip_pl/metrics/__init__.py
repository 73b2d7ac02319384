"""Scores of heat maps: one table of metrics, and the pure functions behind it.

Shapes and units are the same everywhere: probabilities ``[B, H, W]`` float in [0, 1], masks
``[B, H, W]`` bool with True = fake, scores ``[B]`` float in percent. Where a score is not defined
for an image (no fake pixel to rank, say) its entry is NaN; means leave such images out and say
how many images they are made of.

:func:`metric` adds a metric to the table; tests, cross-evaluations, reports and W&B then show it.
The classes that add up batches stand in :mod:`declip_pl.metrics.accumulate`, with torchmetrics.
"""

from declip_pl.metrics.calibration import (
    CALIBRATION_BINS,
    calibration_histogram,
    level_counts,
)
from declip_pl.metrics.decision import FLOORS, PEAK, peaks, photo_thresholds
from declip_pl.metrics.detection import best_accuracy_threshold
from declip_pl.metrics.localization import (
    THRESHOLD,
    THRESHOLDS,
    average_precision,
    best_f1,
    best_f1_border,
    f1,
    f1_border,
    iou,
    localization_scores,
    threshold_curves,
)
from declip_pl.metrics.ranking import DILATE, ERODE, Counts, Ranking
from declip_pl.metrics.sizes import by_size, resize_to
from declip_pl.metrics.table import (
    Metric,
    all_metrics,
    find_metric,
    map_metrics,
    metric,
    untouched_metrics,
)
from declip_pl.metrics.thresholds import (
    UNTOUCHED_AREA,
    UNTOUCHED_MARKED,
    Thresholds,
    Untouched,
    choose_thresholds,
)
from declip_pl.metrics.untouched import floor_areas, untouched_scores

__all__ = [
    "CALIBRATION_BINS",
    "DILATE",
    "ERODE",
    "FLOORS",
    "PEAK",
    "THRESHOLD",
    "THRESHOLDS",
    "UNTOUCHED_AREA",
    "UNTOUCHED_MARKED",
    "Counts",
    "Metric",
    "Ranking",
    "Thresholds",
    "Untouched",
    "all_metrics",
    "average_precision",
    "best_accuracy_threshold",
    "best_f1",
    "best_f1_border",
    "by_size",
    "calibration_histogram",
    "choose_thresholds",
    "f1",
    "f1_border",
    "find_metric",
    "floor_areas",
    "iou",
    "level_counts",
    "localization_scores",
    "map_metrics",
    "metric",
    "peaks",
    "photo_thresholds",
    "resize_to",
    "threshold_curves",
    "untouched_metrics",
    "untouched_scores",
]
