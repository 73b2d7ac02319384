"""What is marked of photos of which nothing was manipulated: all of it is wrong."""

import numpy as np
from torch import Tensor

from declip_pl.metrics.batches import each_map
from declip_pl.metrics.decision import (
    FLOORS,
    best_threshold,
    check_floor,
    peak,
    photo_threshold,
)
from declip_pl.metrics.localization import THRESHOLD
from declip_pl.metrics.ranking import Map, Scores
from declip_pl.metrics.table import untouched_metrics


def untouched_scores(probabilities: Tensor, floor: float | None = None) -> dict[str, Tensor]:
    """Measure what is marked of each untouched photo, at 0.5 and by the decision.

    Args:
        probabilities: ``[B, H, W]`` float in [0, 1].
        floor: Of the decision, in [0, 1]; without one there are no scores by the decision.

    Returns:
        ``[B]`` percentages on the CPU by name: the share of pixels that are marked, and 100 where
        any is, else 0.

    Raises:
        ValueError: If an argument is anything else.
    """
    if floor is not None:
        check_floor(floor)

    def scores(p: Map) -> list[float]:
        cuts = [THRESHOLD] if floor is None else [THRESHOLD, photo_threshold(p, floor)]
        areas = [100 * float((p > cut).mean()) for cut in cuts]
        return areas + [100.0 * (area > 0) for area in areas]

    columns = each_map(scores, probabilities).unbind(1)
    names = [entry.name for entry in untouched_metrics(floor is not None)]
    return dict(zip(names, columns, strict=True))


def floor_areas(probabilities: Tensor) -> Tensor:
    """Measure what the decision marks of each photo with each of :data:`FLOORS` for its floor.

    Args:
        probabilities: ``[B, H, W]`` float in [0, 1].

    Returns:
        ``[B, len(FLOORS)]`` share of the pixels in percent, on the CPU.

    Raises:
        ValueError: If the argument is anything else.
    """
    floors = np.array(FLOORS, np.float32)

    def areas(p: Map) -> Scores:
        marked = 100 * float((p > best_threshold(p)).mean())
        return np.where(peak(p) >= floors, marked, 0.0)

    return each_map(areas, probabilities)
