"""Pictures for people: photo, true mask, heat map and overlay side by side."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from declip_pl.metrics import THRESHOLD

HEIGHT = 256
TITLES = (
    "photo",
    "true mask (white = fake)",
    "heat map (bright = fake)",
    "overlay (green true, red found)",
)
OPACITY = 0.6
"""Of the heat map in an overlay where the probability is 1; it grows with it from 0."""
_OUTLINE_TRUE, _OUTLINE_FOUND = (0, 255, 0), (255, 0, 0)


def panel(
    photo: NDArray[np.uint8], mask: NDArray[np.bool_], probabilities: NDArray[np.float32]
) -> Image.Image:
    """Draw one photo's panel, 256 px high.

    Args:
        photo: ``[H, W, 3]`` RGB.
        mask: ``[h, w]``, True = fake.
        probabilities: ``[h', w']`` in [0, 1].

    Returns:
        Four pictures side by side under their titles; in the overlay the true region is
        outlined in green and the region found (probability over 0.5) in red.
    """
    width = round(HEIGHT * photo.shape[1] / photo.shape[0])
    size = (width, HEIGHT)
    image = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
    nearest = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    truth = np.asarray(nearest, np.uint8)
    heat = np.asarray(cv2.resize(probabilities, size), np.float32)
    parts = [image, _grey(truth), heat_map(heat), overlay(image, heat, heat > THRESHOLD, truth > 0)]
    return _titled(np.concatenate(parts, axis=1), width)


def heat_map(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour ``[H, W]`` probabilities: black = 0, yellow-white = 1 (inferno), as RGB."""
    levels = (probabilities.clip(0, 1) * 255).astype(np.uint8)
    coloured = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(coloured[..., ::-1])


def overlay(
    photo: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    found: NDArray[np.bool_],
    truth: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Lay a heat map over its photo; where nothing is found, the photo is seen as it is.

    Args:
        photo: ``[H, W, 3]`` RGB.
        probabilities: ``[H, W]`` in [0, 1].
        found: ``[H, W]``, the region to outline in red.
        truth: ``[H, W]``, the region to outline in green.

    Returns:
        ``[H, W, 3]`` RGB.
    """
    opacity = OPACITY * probabilities.clip(0, 1).astype(np.float32)
    mixed = cv2.blendLinear(photo, heat_map(probabilities), 1 - opacity, opacity)
    width = max(2, max(found.shape) // 400)
    for region, colour in ((truth, _OUTLINE_TRUE), (found, _OUTLINE_FOUND)):
        if region is not None:
            area = region.astype(np.uint8)
            outlines, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(mixed, outlines, -1, colour, width)
    return np.asarray(mixed, np.uint8)


def _grey(region: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(255 * region[..., None], 3, axis=2)


def _titled(row: NDArray[np.uint8], width: int) -> Image.Image:
    bar = 16
    canvas = Image.new("RGB", (row.shape[1], row.shape[0] + bar), "white")
    canvas.paste(Image.fromarray(row), (0, bar))
    draw = ImageDraw.Draw(canvas)
    for index, title in enumerate(TITLES):
        draw.text((index * width + 4, 2), title, fill="black")
    return canvas
