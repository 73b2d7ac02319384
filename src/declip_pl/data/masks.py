"""The one reader of masks: which pixels of a photo are fake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from declip_pl.data.images import EIGHT_BIT_MODES, opened, read_photo, upright
from declip_pl.errors import UserError

Polarity = Literal["black", "white"]
"""Which grey value in a mask means fake."""

MaskReader = Callable[[Path], NDArray[np.bool_]]
"""From a mask's file to ``[H, W]`` bool, True = fake."""

MaskRule = Polarity | MaskReader
"""What says which pixels of a mask are fake: a grey value, or a layout's own reader."""

COLOURS = ("red", "green", "blue")
GREY_TOLERANCE = 16
"""Levels by which the channels of a grey mask may differ after lossy compression."""

NOISE = 48
"""Levels from black and from white that compression may add.

What lies further from both is an edge, softened by compression or resizing, as long as it is thin:
see :data:`BAND`. JPEG of quality 10 stays within bands of 1 px, of quality 5 within 3 px, masks
enlarged 8 times (nearest to bicubic, thin lines among them) within 5 px.
"""

BAND = 8
"""Side in pixels, a JPEG block's, of a square that holds no softened edge alone.

Where all of such a square, or most of the mask, is further than :data:`NOISE` from black and from
white, the mask has a third value.
"""

_EXPECTED = "expected a mask in black and white, 0 and 255"
_ADVICE = "save it as these two, or read it by a layout of your own (read_mask)"


def read_mask(path: Path, rule: MaskRule) -> NDArray[np.bool_]:
    """Return a mask as ``[H, W]``, True = fake, upright as photos are.

    Args:
        path: File of the mask.
        rule: Which grey value means fake, the cut being half-way; or what reads the file.

    Raises:
        UserError: If the file is damaged or says anything but black and white (see
            :func:`read_grey`), or the layout's own reader returns something else; it is named.
    """
    if not callable(rule):
        return is_fake(read_grey(path), rule)
    found = rule(path)
    if not (isinstance(found, np.ndarray) and found.dtype == bool and found.ndim == 2):  # noqa: PLR2004
        raise UserError(
            f"{path}: the layout's read_mask must return a bool array [H, W]; found "
            f"{getattr(found, 'dtype', type(found).__name__)} {getattr(found, 'shape', '')}"
        )
    return found


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Return a mask's grey levels ``[H, W]``, black and white but for softened edges.

    Any mode of 8 bits a channel or less is read, palettes and CMYK included, as long as it shows
    greys without transparency.

    Raises:
        UserError: If the file can't be decoded, has several frames or more than 8 bits a channel,
            or says something in colour, in transparency or in a third grey value; it is named.
    """
    with opened(path) as image:
        mask = upright(image, path)
        if getattr(image, "is_animated", False):
            raise UserError(f"{path}: expected one mask, found several frames or pages")
        if mask.mode not in EIGHT_BIT_MODES:
            raise UserError(f"{path}: expected 8 bits a channel, found PIL mode {mask.mode}")
        if found := beside_grey(mask):
            raise UserError(f"{path}: {_EXPECTED}; {found}; {_ADVICE}")
        grey = np.asarray(mask.convert("L"))
    if found := _beside_black_and_white(grey):
        raise UserError(f"{path}: {found}")
    return grey


def wholly_fake(photo: Path) -> NDArray[np.bool_]:
    """Return the mask ``[H, W]`` of a photo of which every pixel is fake; it is its own mask."""
    return np.ones(read_photo(photo).shape[:2], dtype=np.bool_)


def is_fake(grey: NDArray[np.uint8], polarity: Polarity) -> NDArray[np.bool_]:
    """Cut a mask's grey levels ``[H, W]`` half-way; True = fake."""
    white = grey > 127  # noqa: PLR2004 - half of 255
    return np.asarray(white == (polarity == "white"))


def mostly_fake(what: str, share: float, rule: MaskRule) -> str:
    """Return the finding that masks may be inverted, and the switch for that, if most is fake.

    It proves nothing, as more than half of a photo may well be painted.

    Args:
        what: The masks: a generator or a test set.
        share: Mean share of fake pixels, in [0, 1]; up to a half there is no finding: "".
        rule: How they are read.
    """
    if share <= 0.5:  # noqa: PLR2004
        return ""
    found = f"{what}: {100 * share:.0f} % of all pixels are fake"
    if callable(rule):
        return f"{found}; if that is not meant, correct the layout's read_mask"
    other = "black" if rule == "white" else "white"
    return (
        f"{found} if {rule} means fake; if the masks are inverted, say --polarity {other} "
        f"(POLARITY={other}, --data.polarity {other})"
    )


def beside_grey(mask: Image.Image) -> str:
    """Return in words what a mask says in colour or transparency, which grey levels would lose."""
    if mask.mode in ("1", "L"):
        return ""
    *colours, alpha = mask.convert("RGB").convert("RGBA").split()
    if mask.has_transparency_data:
        alpha = mask.convert("RGBA").getchannel("A")
    low, high = alpha.getextrema()
    if low != high:
        return f"its alpha channel goes from {low} to {high}"
    for first, second in ((0, 1), (1, 2), (0, 2)):
        difference: Any = ImageChops.difference(colours[first], colours[second])
        most = difference.getextrema()[1]
        if most > GREY_TOLERANCE:
            names = f"{COLOURS[first]} and {COLOURS[second]}"
            return f"its {names} channels differ by up to {most} levels"
    return ""


def _beside_black_and_white(grey: NDArray[np.uint8]) -> str:
    """Return in words where grey levels ``[H, W]`` are neither black nor white."""
    if 0 < grey.max() < 128:  # noqa: PLR2004 - half of 255
        return f"{_EXPECTED}; found grey values up to {grey.max()}; {_ADVICE}"
    between = ((grey > NOISE) & (grey < 255 - NOISE)).astype(np.uint8)
    if not between.any():
        return ""
    # The border is no part of an edge: outside nothing is between.
    square = np.ones((BAND, BAND), np.uint8)
    third = cv2.erode(between, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if between.mean() > 0.5:  # noqa: PLR2004 - noise has no such square
        third = between
    if not third.any():
        return ""
    y, x = np.argwhere(third)[0]
    where = f"{grey[y, x]} at column {x}, row {y} and around"
    return f"{_EXPECTED}; found the grey value {where}; {_ADVICE}"
