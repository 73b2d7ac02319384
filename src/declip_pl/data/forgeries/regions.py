"""Random regions: which part of a photo is manipulated."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from declip_pl.errors import UserError

SHARE = (0.03, 0.45)
"""Bounds on a region's share of the photo."""

SHAPES = ("ellipse", "box", "polygon", "stroke")
"""What a region is drawn of."""

TRIES = 1000
"""Regions that are drawn before none of the wanted share is expected any more."""

_USUAL = 50
"""Regions after which shapes become larger or smaller, for shares that are hard to meet."""

_SIZE = (0.08, 0.75)
"""Bounds on the sides of a shape, as shares of the photo's, for regions within SHARE."""


def random_region(
    shape: tuple[int, int],
    rng: np.random.Generator,
    kinds: Sequence[str] = SHAPES,
    share: tuple[float, float] = SHARE,
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Draw one to three ellipses, boxes, polygons or brush strokes.

    Args:
        shape: Height and width in px.
        rng: Source of randomness.
        kinds: Some of :data:`SHAPES`.
        share: Bounds on the region's share of the photo; sides follow them.

    Returns:
        ``[H, W]``, True inside, and the kinds that were drawn.

    Raises:
        UserError: If none of :data:`TRIES` regions is within the bounds.
    """
    scale = math.sqrt(sum(share) / sum(SHARE))
    for tries in range(TRIES):
        canvas = np.zeros(shape, np.uint8)
        drawn = tuple(_draw(canvas, rng, kinds, scale) for _ in range(rng.integers(1, 4)))
        region = canvas > 0
        if share[0] <= region.mean() <= share[1]:
            return region, drawn
        if tries >= _USUAL:
            scale *= 1.05 if region.mean() < share[0] else 1 / 1.05
    raise UserError(
        f"no {' or '.join(kinds)} covers {share[0]:g} to {share[1]:g} of a photo of "
        f"{shape[1]} x {shape[0]} px; widen the range"
    )


def _draw(
    canvas: NDArray[np.uint8], rng: np.random.Generator, kinds: Sequence[str], scale: float
) -> str:
    """Draw one shape of a random kind and return the kind."""
    size = np.array(canvas.shape[::-1])
    centre, sides = size * rng.uniform(0.1, 0.9, 2), size * rng.uniform(*_SIZE, 2) * scale
    kind = kinds[int(rng.integers(len(kinds)))]
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
        steps = rng.normal(0, 0.15, (rng.integers(2, 7), 2)) * size * scale
        points = (centre + np.cumsum(steps, 0)).round().astype(np.int32)
        width = max(2, round(float(min(size) * rng.uniform(0.04, 0.16) * scale)))
        cv2.polylines(canvas, [points], False, 1, width)
    return kind
