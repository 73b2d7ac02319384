"""A contact sheet: forgeries as people look at them, with their regions and operations."""

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from declip_pl.data.forgeries.folder import ForgeryFolder
from declip_pl.data.forgeries.manifest import Forged
from declip_pl.data.forgeries.operations import Pixels
from declip_pl.data.images import read_photo
from declip_pl.data.masks import read_mask

TILE, COLUMNS, ROWS = 256, 6, 4
"""Side of a forgery in px, forgeries beside and below each other."""

_LINES, _LETTERS, _HEIGHT = 3, 42, 12
_OUTLINE = (0, 255, 0)


def contact_sheet(folder: ForgeryFolder, count: int = COLUMNS * ROWS) -> Image.Image:
    """Draw some forgeries, evenly spread over all, with what was done below each.

    Args:
        folder: The forgeries.
        count: How many at most.

    Returns:
        Rows of six; regions are outlined in green.
    """
    made = folder.manifest.forgeries
    chosen = [made[index * len(made) // count] for index in range(min(count, len(made)))]
    rows = [chosen[start : start + COLUMNS] for start in range(0, len(chosen), COLUMNS)]
    height = TILE + _LINES * _HEIGHT + 4
    sheet = Image.new("RGB", (COLUMNS * TILE, len(rows) * height), "white")
    for place, row in enumerate(rows):
        _draw_row(sheet, folder, row, place * height)
    return sheet


def _draw_row(sheet: Image.Image, folder: ForgeryFolder, row: Sequence[Forged], top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for column, forged in enumerate(row):
        left = column * TILE
        mask = None
        if forged.about.mask_sha256:
            mask = read_mask(folder.mask(forged.name), "white")
        sheet.paste(tile(read_photo(folder.image(forged.name)), mask), (left, top))
        words = " > ".join(forged.about.operations) or "nothing"
        text = textwrap.wrap(words, _LETTERS, max_lines=_LINES, placeholder=" ...")
        draw.multiline_text((left + 4, top + TILE + 2), "\n".join(text), fill="black", spacing=1)


def tile(pixels: Pixels, mask: NDArray[np.bool_] | None = None) -> Image.Image:
    """Return a picture inside a square of :data:`TILE` px.

    Args:
        pixels: ``[H, W, 3]`` RGB.
        mask: ``[H, W]``; its edge is drawn in green.
    """
    if mask is not None:
        outlines, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        pixels = pixels.copy()
        cv2.drawContours(pixels, outlines, -1, _OUTLINE, max(1, max(mask.shape) // 200))
    return ImageOps.pad(Image.fromarray(pixels), (TILE, TILE), color="white")
