"""Random regions: which part of a photo is forged."""

import cv2
import numpy as np
from numpy.typing import NDArray

SHARE = (0.03, 0.45)
"""Bounds on a region's share of the photo."""

_SHAPES = ("ellipse", "box", "polygon", "stroke")
_SIZE = (0.08, 0.75)
"""Bounds on the sides of a shape, as shares of the photo's."""


def random_region(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw one to three ellipses, boxes, polygons or brush strokes.

    Args:
        shape: Height and width in px.
        rng: Source of randomness.

    Returns:
        ``[H, W]``, True inside; its share is within :data:`SHARE`.
    """
    while True:
        canvas = np.zeros(shape, np.uint8)
        for _ in range(rng.integers(1, 4)):
            _draw(canvas, rng)
        region = canvas > 0
        if SHARE[0] <= region.mean() <= SHARE[1]:
            return region


def _draw(canvas: NDArray[np.uint8], rng: np.random.Generator) -> None:
    size = np.array(canvas.shape[::-1])
    centre, sides = size * rng.uniform(0.1, 0.9, 2), size * rng.uniform(*_SIZE, 2)
    kind = _SHAPES[rng.integers(len(_SHAPES))]
    if kind == "ellipse":
        box = (tuple(centre.tolist()), tuple(sides.tolist()), float(rng.uniform(0, 180)))
        cv2.ellipse(canvas, box, 1, cv2.FILLED)
    elif kind == "box":
        corners = np.array([centre - sides / 2, centre + sides / 2]).round().astype(int)
        cv2.rectangle(canvas, corners[0].tolist(), corners[1].tolist(), 1, cv2.FILLED)
    elif kind == "polygon":
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        reach = rng.uniform(0.4, 1, len(angles)) / 2
        around = np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None]
        cv2.fillPoly(canvas, [(centre + around * sides).round().astype(np.int32)], 1)
    else:
        steps = rng.normal(0, 0.15, (rng.integers(2, 7), 2)) * size
        points = (centre + np.cumsum(steps, 0)).round().astype(np.int32)
        width = max(2, round(float(min(size) * rng.uniform(0.04, 0.16))))
        cv2.polylines(canvas, [points], False, 1, width)
