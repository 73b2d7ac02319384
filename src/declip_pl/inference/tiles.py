"""Large photos at their own resolution: overlapping tiles, and one heat map out of theirs."""

import math

import numpy as np
from numpy.typing import NDArray

from declip_pl.model.features import OUTPUT_SIZE

Window = tuple[slice, slice]
"""Rows and columns of a tile."""

TILE = OUTPUT_SIZE
"""Side of a tile in px: that of training photos (Dolos: 256 px), so that traces have the scale they
had there, and that of the decoder's map, which then fits the tile pixel by pixel."""

OVERLAP = 64
"""Least overlap of neighbouring tiles in px. Twice of it finds no more and takes twice the time
(six canvases of :mod:`benchmarks.tiles`: IoU 22.8 against 23.1, pixel AP 60.7 for both)."""


def windows(height: int, width: int) -> list[Window]:
    """Cut a photo into overlapping tiles, row by row.

    They all have the same size, :data:`TILE` on each side or as far as the photo goes, and are
    spread evenly from edge to edge.
    """
    return [(rows, columns) for rows in _cuts(height) for columns in _cuts(width)]


class Blend:
    """The mean of overlapping tiles' heat maps, each fading towards its edges (a Hann window).

    It holds one map of the photo's size, whatever the number of tiles.

    Args:
        height: Of the photo in px.
        width: Of the photo in px.
    """

    def __init__(self, height: int, width: int) -> None:
        self._sum = np.zeros((height, width), np.float32)
        self._fades = [_fade(min(side, TILE)) for side in (height, width)]

    def add(self, window: Window, probabilities: NDArray[np.float32]) -> None:
        """Add the heat map of one of the :func:`windows`, of its size and in [0, 1]."""
        rows, columns = self._fades
        self._sum[window] += probabilities * rows[:, None] * columns

    def heatmap(self) -> NDArray[np.float32]:
        """Return the ``[H, W]`` mean once every window was added."""
        rows, columns = (
            _total(side, fade) for side, fade in zip(self._sum.shape, self._fades, strict=True)
        )
        self._sum /= rows[:, None]  # the weights of a grid are a product as well
        self._sum /= columns
        return self._sum.clip(0, 1, out=self._sum)


def _cuts(side: int) -> list[slice]:
    count = max(1, math.ceil((side - OVERLAP) / (TILE - OVERLAP)))
    size = min(side, TILE)
    starts = np.linspace(0, side - size, count).round().astype(int).tolist()
    return [slice(start, start + size) for start in starts]


def _fade(size: int) -> NDArray[np.float32]:
    """Return a Hann window that is nowhere zero: at a photo's edge there is no other tile."""
    return (np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2).astype(np.float32)


def _total(side: int, fade: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.zeros(side, np.float32)
    for cut in _cuts(side):
        total[cut] += fade
    return total
