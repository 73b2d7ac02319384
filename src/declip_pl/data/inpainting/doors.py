"""The doors for inpainters and for what chooses the pixels that they fill.

Both take ``[H, W, 3]`` uint8 RGB. A class in the place of a function is built once in each process,
for what has to be loaded first; its objects are then called like the function.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from declip_pl.errors import UserError
from declip_pl.parts import Registry

Pixels = NDArray[np.uint8]
"""``[H, W, 3]`` RGB."""

Mask = NDArray[np.bool_]
"""``[H, W]``, True where an inpainter fills."""

INPAINTERS: Registry[Any] = Registry("inpainter")
"""Functions of ``photo, mask, rng`` that return as many pixels.

One with a parameter ``other`` also gets another photo of the same split, of any size; one with a
parameter ``prompt``, a text. None in place of pixels leaves the photo out.
"""

MASKS: Registry[Any] = Registry("source of masks")
"""Functions of ``photo, rng`` that return a mask, a segmenter's for example; None leaves the photo
out."""


def call(name: str, code: Callable[[], Any]) -> Any:
    """Return what a user's code returns.

    Args:
        name: What it is called in an error.
        code: The code, with what it gets.

    Raises:
        UserError: If it fails.
    """
    try:
        return code()
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a user's code may raise anything
        raise UserError(f"{name} failed: {type(error).__name__}: {error}") from error


def kind_of(found: Any) -> str:
    """Return in words what a user's code returned in place of an array as expected."""
    return f"{getattr(found, 'dtype', type(found).__name__)} {getattr(found, 'shape', '')}"
