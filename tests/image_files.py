"""Photos and masks as the bytes of files."""

import io

import numpy as np
from conftest import make_photo
from PIL import ExifTags, Image

PHOTO = make_photo(np.random.default_rng(0), 40)[:, :24]  # 24 wide, 40 high
GREY = PHOTO[..., 0]


def file_of(array: np.ndarray, format_: str, mode: str | None = None, **options) -> bytes:
    """Return an array as a file of a format, converted to one of PIL's modes."""
    image = Image.fromarray(array)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format_, **options)
    return buffer.getvalue()


def turned(format_: str, orientation: int, array: np.ndarray) -> bytes:
    """Return an array as a file that says by EXIF how it is to be shown."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 100, "subsampling": 0} if format_ == "JPEG" else {}
    return file_of(array, format_, exif=exif, **options)


CUT_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x03\x01\x12\0"
"""A block that announces three entries and ends within the first: PIL warns."""
SHORT_EXIF = b"Exif\0\0MM\0*\0\0"
"""A block that ends within its header: ``struct.error`` in PIL."""
