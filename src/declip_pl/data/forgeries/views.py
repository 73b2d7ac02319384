"""Which part of a photo is forged, and at which size."""

import math

import numpy as np
from PIL import Image

from declip_pl.data.forgeries.operations import Pixels
from declip_pl.data.partners import SMALLEST

SIDES = (256, 512)
"""Bounds on the sides in px of what is forged; a smaller photo is forged whole."""

_FILTERS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)


def draw_view(photo: Pixels, rng: np.random.Generator, native: bool) -> Pixels:
    """Return a part of a photo as it is, or the whole photo made smaller.

    A photo of at most 512 px is returned as it is.

    Args:
        photo: ``[H, W, 3]`` RGB, no side less than 64 px.
        rng: Decides on part and size.
        native: Whether to take a part: a rectangle with sides of 256 to 512 px. Otherwise the photo
            is resampled to as many pixels as a square of such a side has.
    """
    height, width = photo.shape[:2]
    if max(height, width) <= SIDES[1]:
        return photo
    if native:
        sides = [min(side, int(rng.integers(SIDES[0], SIDES[1] + 1))) for side in (height, width)]
        top, left = (
            int(rng.integers(whole - side + 1))
            for whole, side in zip((height, width), sides, strict=True)
        )
        return np.ascontiguousarray(photo[top : top + sides[0], left : left + sides[1]])
    scale = rng.uniform(*SIDES) / math.sqrt(height * width)
    scale = min(1.0, max(scale, SMALLEST / min(height, width)))
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(photo).resize(size, _FILTERS[rng.integers(len(_FILTERS))]))
