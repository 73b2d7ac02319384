"""Of what kind a photo's file is: its size, and how strongly JPEG has compressed it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from declip_pl.data.images import Photo, opened, read_photo
from declip_pl.errors import UserError
from declip_pl.model.description import SeenPhotos

SAMPLED = 1000
"""Training photos whose files are looked at; of more, so many are taken, evenly spread."""

RANGE = (0.01, 0.99)
"""Quantiles that a range of the training photos begins and ends with."""

_LUMINANCE = 3688
"""Sum of the JPEG standard's table for luminance, which is that of quality 50."""


class Picture(NamedTuple):
    """A photo that was read.

    Attributes:
        pixels: ``[H, W, 3]`` uint8 RGB, upright.
        quality: Of its JPEG file, as of :func:`jpeg_quality`; None where it is none.
    """

    pixels: NDArray[np.uint8]
    quality: float | None


def read_picture(source: Photo | Picture) -> Picture:
    """Read a photo and the quality of its file; one that was read already is returned.

    Args:
        source: What :func:`declip_pl.data.images.read_photo` takes.

    Raises:
        UserError: If it can't be used.
    """
    if isinstance(source, Picture):
        return source
    pixels = read_photo(source)
    if isinstance(source, Image.Image):
        return Picture(pixels, jpeg_quality(source))
    if isinstance(source, (str, Path)):
        return Picture(pixels, _kind(Path(source).expanduser())[1])
    return Picture(pixels, None)


def jpeg_quality(image: Image.Image) -> float | None:
    """Return the quality from 1 to 100 of a JPEG's quantisation tables, or None if it is none.

    It is the number that libjpeg's users choose; tables of a camera's own get that of the standard
    tables that are as coarse. Below 20, where tables end at 255, it comes out higher.
    """
    tables: dict[int, Sequence[int]] = getattr(image, "quantization", None) or {}
    if 0 not in tables:
        return None
    percent = 100 * sum(tables[0]) / _LUMINANCE
    quality = 100 - percent / 2 if percent <= 100 else 5000 / percent  # noqa: PLR2004 - libjpeg's
    return min(100.0, max(1.0, quality))


def seen_photos(files: Sequence[Path]) -> SeenPhotos | None:
    """Return of what kind training photos are, from the heads of their files; None of none."""
    chosen = files[:: max(1, -(-len(files) // SAMPLED))]
    with ThreadPoolExecutor() as pool:
        kinds = list(pool.map(_kind, chosen))
    sides = [side for side, _ in kinds if side]
    qualities = [quality for _, quality in kinds if quality is not None]
    if not sides:
        return None
    return SeenPhotos(_range(sides), _range(qualities) if qualities else None)


def _kind(file: Path) -> tuple[int, float | None]:
    """Return a file's longer side in px and its quality; no side if it can't be read."""
    try:
        with opened(file) as image:
            return max(image.size), jpeg_quality(image)
    except UserError:  # said where its pixels are read
        return 0, None


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, RANGE).round(1).tolist()
    return low, high
