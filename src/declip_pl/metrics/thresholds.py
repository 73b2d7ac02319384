"""Thresholds of a model: how they are chosen on validation photos, the same wherever it is done."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from declip_pl.metrics.decision import FLOORS
from declip_pl.metrics.detection import best_accuracy_threshold
from declip_pl.metrics.localization import THRESHOLDS

UNTOUCHED_AREA = 1.0
"""Percent of the untouched photos' pixels that the decision may always mark, where its floor is
chosen."""


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a model that are best on validation photos; None where none was chosen.

    Attributes:
        pixel: The one of the highest mean IoU, in [0, 1].
        image: For each pooling the one with the most correct decisions, in [0, 1].
        floor: The lowest peak of a photo that the decision marks, in [0, 1]
            (:mod:`declip_pl.metrics.decision`).
    """

    pixel: float | None
    image: dict[str, float | None]
    floor: float | None = None


def choose_thresholds(
    iou: Tensor | None,
    scores: Mapping[str, Tensor],
    labels: Tensor,
    area: Tensor | None = None,
    area_fixed: float = 0.0,
) -> Thresholds:
    """Choose a model's thresholds: the lowest of equally good ones.

    Args:
        iou: ``[len(THRESHOLDS)]`` mean IoU of the manipulated photos at each of
            :data:`declip_pl.metrics.THRESHOLDS`; None without such photos.
        scores: ``[N]`` float scores in [0, 1] of all photos, by pooling.
        labels: ``[N]`` 1 = fake, 0 = real; without one of them no image threshold is chosen.
        area: ``[len(FLOORS)]`` percent of the untouched photos' pixels that the decision marks with
            each of :data:`declip_pl.metrics.FLOORS`; the floor is the lowest that keeps it within
            :data:`UNTOUCHED_AREA` or ``area_fixed``, whichever is more, or else 1. None without
            such photos.
        area_fixed: Percent of these pixels that are marked at 0.5.

    Raises:
        ValueError: If an argument is anything else.
    """
    if iou is not None and iou.shape != (len(THRESHOLDS),):
        raise ValueError(f"expected an IoU for each of THRESHOLDS; found {list(iou.shape)}")
    if area is not None and area.shape != (len(FLOORS),):
        raise ValueError(f"expected an area for each of FLOORS; found {list(area.shape)}")
    both = labels.numel() > 0 and bool(labels.min() != labels.max())
    return Thresholds(
        None if iou is None else THRESHOLDS[int(iou.argmax())],
        {
            name: best_accuracy_threshold(values, labels) if both else None
            for name, values in scores.items()
        },
        None if area is None else _lowest_floor(area, max(UNTOUCHED_AREA, area_fixed)),
    )


def _lowest_floor(area: Tensor, allowed: float) -> float:
    within = (area <= allowed).tolist()
    return FLOORS[within.index(True)] if any(within) else FLOORS[-1]
