"""The doors for inpainters and for what chooses the pixels that they fill.

Both take ``[H, W, 3]`` uint8 RGB. A class in the place of a function is built once in each process,
for what has to be loaded first; its objects are then called like the function.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
