"""The decision: where a photo's own probabilities say that its map is best cut.

A localizer's probabilities on generators that it never saw are too low for a fixed threshold. Of
all thresholds t the decision takes the one with the highest expected IoU, the probabilities p taken
at their word: expected intersection over expected union::

                       sum of p over the marked pixels
    r(t) = --------------------------------------------------------,  marked: p > t
           number of marked pixels + sum of p over the other pixels

A pixel is worth marking where p > r / (1 + r) for the best r, so the best t is r / (1 + r), at most
0.5. Dinkelbach's iteration (Management Science 13, 1967) finds it without a sort: from r = 0 on,
mark what is above r / (1 + r) and take the r of that, until it grows no more.

A photo whose peak is below a floor, which is chosen on validation photos, stays unmarked: the best
cut of a map exists whether anything was manipulated or not. The peak is the 98th percentile.
"""

import numpy as np
from torch import Tensor

from declip_pl.metrics.batches import each_map
from declip_pl.metrics.ranking import Map

PEAK = 0.98
"""Share of a map's pixels that may lie below its peak."""

FLOORS = tuple(step / 100 for step in range(101))
"""What a floor is chosen from: 0 to 1."""

NOTHING = 1.0
"""The threshold of a photo that stays unmarked: no probability is above it."""


def peaks(probabilities: Tensor) -> Tensor:
    """Return the highest probability that at least 2 % of each map's pixels reach.

    Args:
        probabilities: ``[B, H, W]`` float in [0, 1].

    Returns:
        ``[B]`` float32 on the CPU.

    Raises:
        ValueError: If the argument is anything else.
    """
    return each_map(peak, probabilities)


def photo_thresholds(probabilities: Tensor, floor: float) -> Tensor:
    """Return the threshold of each photo by the decision; what is above it is marked.

    Args:
        probabilities: ``[B, H, W]`` float in [0, 1], at the size at which they are to be cut.
        floor: The lowest peak of a photo that is marked, in [0, 1].

    Returns:
        ``[B]`` float32 on the CPU: at most 0.5, or 1 where the peak is below the floor.

    Raises:
        ValueError: If an argument is anything else.
    """
    check_floor(floor)
    return each_map(lambda p: photo_threshold(p, floor), probabilities)


def check_floor(floor: float) -> None:
    """Check that a floor is in [0, 1].

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"expected a floor in [0, 1]; found {floor}")


def peak(probabilities: Map) -> float:
    """Return the peak of one map, ``[H, W]`` float32."""
    rank = probabilities.size - _at_peak(probabilities)
    return float(np.partition(probabilities.ravel(), rank)[rank])


def photo_threshold(probabilities: Map, floor: float) -> float:
    """Return the threshold of one map, ``[H, W]`` float32, as of :func:`photo_thresholds`."""
    if np.count_nonzero(probabilities >= np.float32(floor)) < _at_peak(probabilities):
        return NOTHING
    return best_threshold(probabilities)


def best_threshold(probabilities: Map) -> float:
    """Return the threshold of the highest expected IoU of one map, ``[H, W]`` float32."""
    marked = probabilities.ravel()
    total = found = marked.sum(dtype=np.float64)
    if not total:
        return 0.0
    count = int(np.count_nonzero(marked > 0))
    threshold = best = 0.0
    # The threshold only rises: what was left unmarked stays so.
    while (reached := float(found / (count + total - found))) > best:
        best = reached
        threshold = _rounded_down(best / (1 + best))
        marked = marked[marked > threshold]
        count, found = marked.size, marked.sum(dtype=np.float64)
    return threshold


def _at_peak(probabilities: Map) -> int:
    """Return how many pixels have to reach the peak: at least one."""
    return probabilities.size - int(PEAK * probabilities.size)


def _rounded_down(value: float) -> float:
    """Return the largest float32 up to a value: the same pixels are above either."""
    rounded = np.float32(value)
    return float(rounded if float(rounded) <= value else np.nextafter(rounded, np.float32(0)))
