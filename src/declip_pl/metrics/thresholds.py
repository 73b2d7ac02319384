"""Thresholds of a model: how they are chosen on validation photos, the same wherever it is done."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from declip_pl.metrics.decision import FLOORS
from declip_pl.metrics.detection import best_accuracy_threshold
from declip_pl.metrics.localization import THRESHOLDS

UNTOUCHED_AREA, UNTOUCHED_MARKED = 1.0, 20.0
"""Percent of the untouched photos' pixels that the decision may always mark, and of the photos that
may always have a mark, where its floor is chosen."""


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


@dataclass(frozen=True)
class Untouched:
    """What is marked of untouched photos, in percent.

    Attributes:
        area: ``[len(FLOORS)]`` share of their pixels that the decision marks with each of
            :data:`declip_pl.metrics.FLOORS`.
        marked: ``[len(FLOORS)]`` share of the photos that then have a mark.
        area_fixed: Share of the pixels that are marked at 0.5.
        marked_fixed: Share of the photos that then have a mark.
    """

    area: Tensor
    marked: Tensor
    area_fixed: float
    marked_fixed: float

    def lowest_floor(self) -> float:
        """Return the lowest floor that marks no more than is allowed, or else 1.

        Allowed are :data:`UNTOUCHED_AREA` of the pixels and :data:`UNTOUCHED_MARKED` of the photos,
        or as much as at 0.5 where that is more.

        Raises:
            ValueError: If there is not a share for each floor.
        """
        if not self.area.shape == self.marked.shape == (len(FLOORS),):
            raise ValueError(f"expected shares for each of FLOORS; found {list(self.area.shape)}")
        area = self.area <= max(UNTOUCHED_AREA, self.area_fixed)
        within = (area & (self.marked <= max(UNTOUCHED_MARKED, self.marked_fixed))).tolist()
        return FLOORS[within.index(True)] if any(within) else FLOORS[-1]


def choose_thresholds(
    iou: Tensor | None,
    scores: Mapping[str, Tensor],
    labels: Tensor,
    untouched: Untouched | None = None,
) -> Thresholds:
    """Choose a model's thresholds: the lowest of equally good ones.

    Args:
        iou: ``[len(THRESHOLDS)]`` mean IoU of the manipulated photos at each of
            :data:`declip_pl.metrics.THRESHOLDS`; None without such photos.
        scores: ``[N]`` float scores in [0, 1] of all photos, by pooling.
        labels: ``[N]`` 1 = fake, 0 = real; without one of them no image threshold is chosen.
        untouched: What is marked of the untouched photos, by which the floor is chosen; None
            without such photos.

    Raises:
        ValueError: If an argument is anything else.
    """
    if iou is not None and iou.shape != (len(THRESHOLDS),):
        raise ValueError(f"expected an IoU for each of THRESHOLDS; found {list(iou.shape)}")
    both = labels.numel() > 0 and bool(labels.min() != labels.max())
    return Thresholds(
        None if iou is None else THRESHOLDS[int(iou.argmax())],
        {
            name: best_accuracy_threshold(values, labels) if both else None
            for name, values in scores.items()
        },
        untouched.lowest_floor() if untouched else None,
    )
