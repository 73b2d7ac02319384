"""The one reader of photos, for training, evaluation and inference alike."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from declip_pl.data.optional_blocks import without_damaged_blocks
from declip_pl.errors import UserError

Photo = str | Path | Image.Image | NDArray[Any] | Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
"""What files may be: photos, and nothing for which PIL would call another program (EPS)."""

SUFFIXES = {s for s, format_ in Image.registered_extensions().items() if format_ in FORMATS}
"""Suffixes of photos and masks in folders, in lower case: those of the formats PIL reads here."""

EIGHT_BIT_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"}
"""PIL's modes that convert to 8-bit RGB without clipping."""

MAX_PIXELS = 175_000_000
"""A file that claims more is refused before it is decoded; just below PIL's own limit."""

_TOO_LARGE = f"more than {MAX_PIXELS:,} pixels; cut it into pieces"
_EXPECTED = (
    "expected uint8, uint16 or floats in [0, 1], as an array [H, W], [H, W, 3] or [H, W, 4], or as "
    "a tensor [H, W], [3, H, W] or [4, H, W]"
)
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


_SIDEWAYS = 5
"""The EXIF orientations from here on swap width and height."""


def read_photo(source: Photo) -> NDArray[np.uint8]:
    """Return a photo's pixels, upright, ``[H, W, 3]`` uint8 RGB.

    Files and PIL images are turned as their EXIF orientation says, and of several frames or pages
    the first is taken. Transparency is dropped and the colours below it kept; CMYK
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


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height of a file's pixels as stored, without decoding them."""
    with opened(path) as image:
        return image.size


def upright_size(path: Path) -> tuple[int, int]:
    """Return width and height of a file's pixels as they are shown, without decoding them."""
    with opened(path) as image:
        turned = _orientation(image) >= _SIDEWAYS
        return image.size[::-1] if turned else image.size


@contextmanager
def decoding(name: object) -> Iterator[None]:
    """Turn whatever a decoder raises at a damaged file into a :class:`UserError` that names it."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no file {name}") from error
    except MemoryError as error:
        raise UserError(f"{name}: there is not enough memory to decode it") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: {_TOO_LARGE}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is no photo: expected {', '.join(FORMATS)}") from error
    except Exception as error:  # each of PIL's decoders has exceptions of its own
        raise UserError(f"{name}: can't be decoded as an image ({error})") from error


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a file of one of :data:`FORMATS`, without its damaged optional blocks if it has any.

    Raises:
        UserError: If it can't be decoded, or what is done with it can't.
    """
    with decoding(path), warnings.catch_warnings():
        # PIL warns from half its limit on, where large photos are still fine.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with _identified(path) as image:
            yield image


def _identified(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        content = without_damaged_blocks(path)
        if content is None:
            raise
        return Image.open(BytesIO(content), formats=FORMATS)


def _from_file(path: Path) -> NDArray[np.uint8]:
    with opened(path) as image:
        return _from_image(image, path)


def upright(image: Image.Image, name: object) -> Image.Image:
    """Decode an image and turn it as its EXIF orientation says.

    Raises:
        UserError: If it has over :data:`MAX_PIXELS` pixels.
    """
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{name}: {_TOO_LARGE}")
    image.load()  # which turns a TIFF, and takes its orientation away
    method = _UPRIGHT.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where the optional EXIF block is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Corrupt EXIF data")
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # struct.error, ValueError, SyntaxError, ...: the pixels are intact
        return 1


def _from_image(image: Image.Image, name: object) -> NDArray[np.uint8]:
    photo = upright(image, name)
    if image.mode.startswith("I;16"):
        return _from_array(np.asarray(photo), name)
    if image.mode not in EIGHT_BIT_MODES:
        raise UserError(f"{name}: expected 8 or 16 bits a channel, found PIL mode {image.mode}")
    if image.mode == "P":  # PIL warns of palettes with transparency, but not on this way
        photo = photo.convert("RGBA")
    return np.array(photo.convert("RGB"))


def _from_tensor(tensor: Tensor) -> NDArray[np.uint8]:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # unknown to numpy
        tensor = tensor.float()
    if tensor.ndim == 3:  # noqa: PLR2004
        tensor = tensor.movedim(0, -1)
    return _from_array(tensor.numpy(), "the tensor")


def _from_array(array: NDArray[Any], name: object) -> NDArray[np.uint8]:
    layers = array[..., None] if array.ndim == 2 else array  # noqa: PLR2004
    if layers.ndim != 3 or layers.shape[2] not in (1, 3, 4) or not array.size:  # noqa: PLR2004
        raise UserError(f"{name}: {_EXPECTED}; found the shape {array.shape}")
    pixels = _eight_bit(layers, name)
    grey = pixels.shape[2] == 1
    return pixels.repeat(3, axis=2) if grey else np.ascontiguousarray(pixels[..., :3])


def _eight_bit(array: NDArray[Any], name: object) -> NDArray[np.uint8]:
    kind = array.dtype.newbyteorder("=")
    if kind == np.uint8:
        return array.copy()
    if kind == np.uint16:
        return (array >> 8).astype(np.uint8)
    if kind.kind != "f":
        raise UserError(f"{name}: {_EXPECTED}; found {array.dtype}")
    if not (array.min() >= 0 and array.max() <= 1):  # False for NaN too
        raise UserError(f"{name}: {_EXPECTED}; found values from {array.min()} to {array.max()}")
    return (array * 255).round().astype(np.uint8)
