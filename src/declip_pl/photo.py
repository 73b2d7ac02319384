"""Any photo that a user hands over, as the 8-bit RGB pixels that a localizer sees."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor

from declip_pl.data.layout import EIGHT_BIT_MODES, decoding
from declip_pl.errors import UserError

Photo = str | Path | Image.Image | NDArray[np.generic] | Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""What files may be: photos, and nothing for which PIL would call another program (EPS)."""

MAX_PIXELS = 175_000_000
"""A file that claims more is refused before it is decoded; just below PIL's own limit."""

_EXPECTED_ARRAY = "expected [H, W], [H, W, 3] or [H, W, 4] of uint8, uint16 or floats in [0, 1]"
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""


def read_photo(source: Photo) -> NDArray[np.uint8]:
    """Return a photo's pixels, upright, ``[H, W, 3]`` uint8 RGB.

    Files and PIL images are turned as their EXIF orientation says, and of several frames or pages
    the first is taken. Transparency is dropped and the colours below it kept, as in training; CMYK
    is converted without its colour profile; of 16 bits the upper 8 count, which is also how PIL
    reads colour PNGs of 16 bits.

    Args:
        source: A file, a PIL image, an array (``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]``), or a
            tensor with the channels first (``[H, W]``, ``[3, H, W]`` or ``[4, H, W]``). Arrays and
            tensors are uint8, uint16, or floats in [0, 1].

    Raises:
        UserError: If it is anything else, damaged, or has over :data:`MAX_PIXELS` pixels.
    """
    if isinstance(source, (str, Path)):
        return _from_file(Path(source).expanduser())
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "the PIL image"
        with decoding(name):
            return _from_image(source, name)
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, "the array")
    raise UserError(
        f"expected a photo's path, a PIL image, an array or a tensor, found {type(source).__name__}"
    )


def _from_file(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise UserError(f"there is no photo {path}")
    with decoding(path), warnings.catch_warnings():
        # PIL warns from half its limit on, where large photos are still fine.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as image:
            return _from_image(image, path)


def _from_image(image: Image.Image, name: object) -> NDArray[np.uint8]:
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{name}: {image.width} x {image.height} px are over the limit of {MAX_PIXELS:,} "
            "pixels; cut it into pieces"
        )
    image.load()
    method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    upright = image if method is None else image.transpose(method)
    if image.mode.startswith("I;16"):
        return _from_array(np.asarray(upright), name)
    if image.mode not in EIGHT_BIT_MODES:
        raise UserError(f"{name}: expected 8 or 16 bits a channel, found PIL mode {image.mode}")
    if image.mode == "P":  # PIL warns of palettes with transparency, but not on this way
        upright = upright.convert("RGBA")
    return np.array(upright.convert("RGB"))


def _from_tensor(tensor: Tensor) -> NDArray[np.uint8]:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # unknown to numpy
        tensor = tensor.float()
    array = tensor.numpy()
    return _from_array(np.moveaxis(array, 0, -1) if array.ndim == 3 else array, "the tensor")  # noqa: PLR2004


def _from_array(array: NDArray[np.generic], name: object) -> NDArray[np.uint8]:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))  # noqa: PLR2004
    if not shaped or not array.size:
        raise UserError(f"{name}: {_EXPECTED_ARRAY}; its shape is {array.shape}")
    pixels = _eight_bit(array, name)
    grey = pixels.ndim == 2 or pixels.shape[2] == 1  # noqa: PLR2004
    rgb = np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1)[..., :3], (*pixels.shape[:2], 3))
    return np.array(rgb) if grey else np.ascontiguousarray(rgb)


def _eight_bit(array: NDArray[np.generic], name: object) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array.astype(np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # noqa: PLR2004 - either byte order
        return (array.astype(np.uint16) >> 8).astype(np.uint8)
    if array.dtype.kind != "f":
        raise UserError(f"{name}: {_EXPECTED_ARRAY}; its values are {array.dtype}")
    if not (array.min() >= 0 and array.max() <= 1):  # False for NaN too
        raise UserError(f"{name}: {_EXPECTED_ARRAY}; found {array.min()} to {array.max()}")
    return (array * 255).round().astype(np.uint8)
