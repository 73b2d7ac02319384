"""What happens to photos on their way, where albumentations has no transform for it.

Each leaves a photo's content where it is, or has a method ``move`` that masks follow it by.
"""

import io
from typing import Any, Literal

import albumentations as A
import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from declip_pl.data.transforms import CHANGES
from declip_pl.errors import UserError

GRID = 8
"""Side of a JPEG block in pixels."""

Format = Literal["JPEG", "WEBP", "AVIF"]


@CHANGES.register("encode")
class Encode(A.ImageOnlyTransform):  # type: ignore[misc]
    """Save a photo in a lossy format, and read it again.

    Args:
        format: One of Pillow's: JPEG, WEBP or AVIF.
        quality: 1 to 100, as Pillow counts.

    Raises:
        UserError: If this Pillow can't write the format.
    """

    def __init__(self, format: Format, quality: int) -> None:
        super().__init__(p=1.0)
        if format != "JPEG" and not features.check(format.lower()):
            raise UserError(f"this Pillow can't write {format}; install one that can")
        self.format = format
        self.quality = quality

    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """Encode and decode ``[H, W, 3]``."""
        return _encoded(img, self.format, self.quality)


@CHANGES.register("double-jpeg")
class DoubleJpeg(A.ImageOnlyTransform):  # type: ignore[misc]
    """Save a photo as JPEG twice, the second time with its blocks shifted against the first.

    As after a crop between the two; the edge that would be cut off is repeated and removed again.

    Args:
        first: Quality of the first, 1 to 100.
        second: Quality of the second.
        shift: By how many pixels, right and down, 0 to 7.
    """

    def __init__(self, first: int, second: int, shift: int = 3) -> None:
        super().__init__(p=1.0)
        if not 0 <= shift < GRID:
            raise UserError(f"double-jpeg: shift is {shift}; expected 0 to {GRID - 1} pixels")
        self.first = first
        self.second = second
        self.shift = shift

    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """Encode and decode ``[H, W, 3]`` twice."""
        before = _encoded(img, "JPEG", self.first)
        shifted = np.pad(before, ((self.shift, 0), (self.shift, 0), (0, 0)), mode="edge")
        return _encoded(shifted, "JPEG", self.second)[self.shift :, self.shift :]


@CHANGES.register("rescale")
class Rescale(A.ImageOnlyTransform):  # type: ignore[misc]
    """Resize a photo, and back to its size if asked to.

    Args:
        factor: Of both sides.
        back: Whether it is resized back.
    """

    def __init__(self, factor: float, back: bool = False) -> None:
        super().__init__(p=1.0)
        if factor <= 0:
            raise UserError(f"rescale: factor is {factor}; expected more than 0")
        self.factor = factor
        self.back = back

    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """Resize ``[H, W, 3]`` by PIL's bicubic filter."""
        height, width = img.shape[:2]
        size = (max(1, round(width * self.factor)), max(1, round(height * self.factor)))
        resized = Image.fromarray(img).resize(size, Image.Resampling.BICUBIC)
        if self.back:
            resized = resized.resize((width, height), Image.Resampling.BICUBIC)
        return np.array(resized)


@CHANGES.register("crop")
class Crop(A.ImageOnlyTransform):  # type: ignore[misc]
    """Keep the middle of a photo; its mask follows.

    Args:
        share: Of both sides, more than 0 and at most 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__(p=1.0)
        if not 0 < share <= 1:
            raise UserError(f"crop: share is {share}; expected more than 0 and at most 1")
        self.share = share

    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """Cut ``[H, W, 3]``."""
        return self.move(img)

    def move(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Cut a photo ``[H, W, 3]`` or its mask ``[H, W]``."""
        height, width = picture.shape[:2]
        inner = max(1, round(height * self.share)), max(1, round(width * self.share))
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        return np.ascontiguousarray(picture[top : top + inner[0], left : left + inner[1]])


def _encoded(img: NDArray[np.uint8], kind: Format, quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(img).save(file, kind, quality=quality)
    return np.array(Image.open(file).convert("RGB"))
