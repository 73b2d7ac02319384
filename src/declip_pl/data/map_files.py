"""The one reader of other methods' heat maps and masks: from a file to probabilities."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from declip_pl.data.images import EIGHT_BIT_MODES, MAX_PIXELS, opened, upright
from declip_pl.data.masks import Polarity, beside_grey
from declip_pl.errors import UserError

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".npz")
"""Of files that hold maps, in lower case."""

MAP, SCORE = "map", "score"
"""Arrays of a ``.npz``: the map (or it is the only one), and the photo's own score."""

LEVELS = {np.dtype(np.bool_): 1, np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
"""What stands for 1 in arrays that are not floats."""

_EXPECTED = "expected a heat map [H, W]: bool, uint8, uint16, or floats from 0 to 1"


class GivenMap(NamedTuple):
    """What a file says of a photo.

    Attributes:
        probabilities: ``[H, W]`` float32 in [0, 1], 1 = fake.
        score: The photo's own in [0, 1], where a ``.npz`` has one.
        highest: The highest level, of a file of integers of several levels.
    """

    probabilities: NDArray[np.float32]
    score: float | None = None
    highest: int | None = None


def read_map(path: Path, polarity: Polarity = "white") -> GivenMap:
    """Read a heat map or a mask: PNG or TIFF in grey, ``.npy`` or ``.npz``. Nothing is unpickled.

    Args:
        path: The file.
        polarity: Whether high values (``white``) or low ones (``black``) mean fake.

    Raises:
        UserError: If it is damaged, in colour, no map, or has values outside [0, 1].
    """
    score = None
    if path.suffix.lower() == ".npz":
        array, score = _from_archive(path)
    elif path.suffix.lower() == ".npy":
        with _decoding(path):
            array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    else:
        array = _from_picture(path)
    flat = _flat(array, path)
    probabilities, highest = _in_range(flat, path)
    if polarity == "black":
        probabilities = 1 - probabilities
    return GivenMap(probabilities, score, highest)


def has_score(path: Path) -> bool:
    """Return whether a file holds its photo's own score.

    Raises:
        UserError: If it is a damaged ``.npz``.
    """
    if path.suffix.lower() != ".npz":
        return False
    with _decoding(path), zipfile.ZipFile(path) as archive:
        return f"{SCORE}.npy" in archive.namelist()


def _from_archive(path: Path) -> tuple[NDArray[Any], float | None]:
    with _decoding(path), zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    names = [name.removesuffix(".npy") for name in sizes if name.endswith(".npy")]
    maps = [name for name in names if name != SCORE]
    name = MAP if MAP in names else maps[0] if len(maps) == 1 else None
    if name is None:
        found = ", ".join(names) or "none"
        raise UserError(f"{path}: expected an array {MAP!r}, or one array alone; found {found}")
    if sum(sizes[f"{wanted}.npy"] for wanted in {name, SCORE} & {*names}) > 8 * MAX_PIXELS:
        raise UserError(f"{path}: its map has more than {MAX_PIXELS:,} pixels")
    with _decoding(path), np.load(path, allow_pickle=False) as arrays:
        array, score = arrays[name], arrays[SCORE] if SCORE in names else None
    return array, None if score is None else checked_score(score, f"{path}: its score")


def checked_score(value: Any, what: str) -> float:
    """Return a photo's score.

    Raises:
        UserError: If it is not one number in [0, 1]; ``what`` begins the error.
    """
    try:
        score = float(np.asarray(value).reshape(()))
    except (TypeError, ValueError):
        raise UserError(f"{what}: expected a number from 0 to 1; found {value!s:.40}") from None
    if not 0 <= score <= 1:  # False for NaN too
        raise UserError(f"{what}: expected a number from 0 to 1; found {score:g}")
    return score


def _from_picture(path: Path) -> NDArray[Any]:
    with opened(path) as image:
        if getattr(image, "is_animated", False):
            raise UserError(f"{path}: expected one map, found several frames or pages")
        grey = upright(image, path)
        if grey.mode == "1":
            return np.asarray(grey)
        if grey.mode in EIGHT_BIT_MODES:
            if found := beside_grey(grey):
                advice = "save the probabilities themselves, not a picture in colour"
                raise UserError(f"{path}: expected a heat map in grey; {found}; {advice}")
            return np.asarray(grey.convert("L"))
        return _deep(grey, path)


def _deep(image: Image.Image, path: Path) -> NDArray[Any]:
    """Return the values of a picture of more than 8 bits."""
    array = np.asarray(image)
    if image.mode.startswith("I;16"):
        return array.astype(np.uint16)
    if image.mode == "F":
        return array
    raise UserError(f"{path}: expected 8 or 16 bits or floats; found PIL mode {image.mode}")


def _flat(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Return an array without axes of length 1 that stand before or behind height and width."""
    found = array
    while found.ndim > 2 and found.shape[0] == 1:  # noqa: PLR2004
        found = found[0]
    if found.ndim == 3 and found.shape[-1] == 1:  # noqa: PLR2004
        found = found[..., 0]
    if found.ndim != 2 or not found.size:  # noqa: PLR2004
        raise UserError(f"{path}: {_EXPECTED}; found the shape {array.shape}")
    if found.size > MAX_PIXELS:
        raise UserError(f"{path}: more than {MAX_PIXELS:,} pixels")
    return found


def _in_range(array: NDArray[Any], path: Path) -> tuple[NDArray[np.float32], int | None]:
    kind = array.dtype.newbyteorder("=")
    if kind in LEVELS:
        probabilities = array.astype(np.float32) / np.float32(LEVELS[kind])
        return probabilities, int(array.max()) if LEVELS[kind] > 1 else None
    if kind.kind != "f":
        raise UserError(f"{path}: {_EXPECTED}; found {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # False for NaN too
        said = "NaN" if np.isnan([low, high]).any() else f"values from {low:g} to {high:g}"
        raise UserError(
            f"{path}: {_EXPECTED}; found {said} (bring logits into this range by a sigmoid, and "
            "what goes to 255 by a division)"
        )
    return array.astype(np.float32), None


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn whatever numpy raises at a file into a :class:`UserError` that names it."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except Exception as error:  # damaged headers raise whatever Python's own parsers do
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: can't be read as numbers of NumPy ({reason}); nothing is unpickled"
        ) from error
