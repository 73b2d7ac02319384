"""Where Dolos keeps which file, and what its masks mean.

ROOT/fake/<generator>/images/{train,valid,test}/NAME.*
ROOT/fake/<generator>/masks/{train,valid,test}/NAME.*     paired by relative path, any suffix
ROOT/real/{train,valid,test}/NAME.*
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from declip_pl.errors import UserError

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

Convention = Literal["dolos", "autosplice", "coco-sd"]
FAKE_VALUE: dict[Convention, int] = {"dolos": 0, "autosplice": 255, "coco-sd": 255}
"""The grey value of fake pixels in the masks of each data set."""

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}

REAL = "real"
"""Stands where a generator's name stands, for untouched photos."""

DOLOS_HELP = (
    "expected Dolos' layout: ROOT/fake/<generator>/{images,masks}/{train,valid,test}/ and "
    "ROOT/real/{train,valid,test}/"
)


SOURCES = ("celebahq", "ffhq")
"""The parts of Dolos."""

EIGHT_BIT_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"}
"""PIL's modes that convert to 8-bit RGB without clipping."""


@dataclass(frozen=True)
class Sample:
    """A photo, and the mask that says which of its pixels are fake (None for a real photo).

    ``name`` is the photo's path inside its split, without suffix.
    """

    name: str
    image: Path
    mask: Path | None


def source_root(root: Path, source: str | None = None) -> Path:
    """Return the folder that holds ``fake/``: ``root`` itself or ``root/source``.

    Args:
        root: A source, or the folder above several.
        source: One of :data:`SOURCES`; by default the first, where there is a choice.

    Raises:
        UserError: If there is no ``fake/``, or ``root`` is another source than the one named.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; {DOLOS_HELP}")
    inner = root / (source or SOURCES[0])
    if (root / "fake").is_dir():
        if source and root.name in SOURCES and root.name != source:
            raise UserError(f"{root} is not {source}; name the folder above it, or {source}'s own")
        return root
    if (inner / "fake").is_dir():
        return inner
    raise UserError(f"neither {root} nor {inner} holds a folder 'fake'; {DOLOS_HELP}")


def is_stand_in(root: Path) -> bool:
    """Return whether a folder is the built-in ``mini``, not a published data set."""
    return (root / "mini.json").is_file()


def generators(root: Path) -> list[str]:
    """Return the names of the generators under ``root/fake``, sorted.

    Raises:
        UserError: If one has a name that means something else.
    """
    names = sorted(p.name for p in (root / "fake").iterdir() if p.is_dir())
    for name in names:
        if name in (REAL, "all") or name.startswith("all-but-") or "+" in name:
            raise UserError(f"{root / 'fake' / name}: {name!r} is no generator's name; rename it")
    return names


def select_generators(root: Path, choice: str) -> list[str]:
    """Resolve a choice such as ``ldm``, ``ldm+lama``, ``all`` or ``all-but-ldm``.

    Raises:
        UserError: If a generator of that name does not exist under ``root/fake``, or none is left.
    """
    known = generators(root)
    left_out = choice.startswith("all-but-")
    named = [] if choice == "all" else choice.removeprefix("all-but-").split("+")
    for name in named:
        if name not in known:
            raise UserError(
                f"there is no generator {name!r} in {root / 'fake'}; found: {', '.join(known)} "
                "(join several by '+', or write all or all-but-NAME)"
            )
    chosen = named if named and not left_out else [name for name in known if name not in named]
    if not chosen:
        raise UserError(f"{choice!r} leaves no generator in {root / 'fake'}")
    return list(dict.fromkeys(chosen))


def image_files(folder: Path) -> list[Path]:
    """Return all image files below ``folder``, sorted by relative path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def samples(root: Path, generator: str, split: Split) -> list[Sample]:
    """List a generator's photos with their masks, or the real photos (``generator="real"``).

    Raises:
        UserError: If there is none, or a photo or mask lacks its partner (all are named).
    """
    found, problems = find_samples(root, generator, split)
    if problems:
        raise UserError("\n".join(problems))
    return found


def find_samples(root: Path, generator: str, split: Split) -> tuple[list[Sample], list[str]]:
    """List samples as :func:`samples` does, with one line for each problem in place of an error."""
    problems: list[str] = []
    if generator == REAL:
        folder = root / REAL / split
        photo_of, problems = _by_stem(folder)
        found = [Sample(stem, path, None) for stem, path in photo_of.items()]
    else:
        folder = root / "fake" / generator / "images" / split
        pairs, problems = pair(folder, root / "fake" / generator / "masks" / split)
        found = [Sample(_stem(image, folder), image, mask) for image, mask in pairs]
    if not found:
        problems.append(f"{folder}: no image; {DOLOS_HELP}")
    return found, problems


def pair(images: Path, masks: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pair images and masks by relative path without suffix.

    Returns:
        The pairs, and one line for each image or mask without exactly one partner.
    """
    photo_of, twins = _by_stem(images)
    mask_of, mask_twins = _by_stem(masks)
    problems = twins + mask_twins
    for stem in photo_of.keys() - mask_of:
        problems.append(f"{photo_of[stem]}: no mask at {masks / stem}.*")
    for stem in mask_of.keys() - photo_of:
        problems.append(f"{mask_of[stem]}: no image at {images / stem}.*")
    pairs = [(photo_of[stem], mask_of[stem]) for stem in sorted(photo_of.keys() & mask_of)]
    return pairs, sorted(problems)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return a photo as ``[H, W, 3]`` uint8 RGB.

    Raises:
        UserError: If the file is damaged, truncated or no image; it is named.
    """
    return decode(path, "RGB")


def read_mask(path: Path, fake_value: int) -> NDArray[np.uint8]:
    """Return a mask as ``[H, W]`` uint8, 1 = fake and 0 = real.

    Args:
        path: File of the mask.
        fake_value: Grey value of fake pixels, 0 or 255; the cut is half-way.

    Raises:
        UserError: If the file is damaged, truncated or no image; it is named.
    """
    return is_fake(decode(path, "L"), fake_value).astype(np.uint8)


def is_fake(grey: NDArray[np.uint8], fake_value: int) -> NDArray[np.bool_]:
    """Cut a mask's grey values ``[H, W]`` half-way; True = fake."""
    white = grey > 127  # noqa: PLR2004 - half of 255
    return np.asarray(white == (fake_value > 0))


def decode(path: Path, mode: str) -> NDArray[np.uint8]:
    """Return a file's pixels in a PIL mode, ``[H, W, 3]`` for RGB and ``[H, W]`` for L.

    Raises:
        UserError: If the file is damaged, truncated, no image, or has more than 8 bits a
            channel (PIL would clip it); it is named.
    """
    with decoding(path), Image.open(path) as image:
        if image.mode not in EIGHT_BIT_MODES:
            raise UserError(f"{path}: expected 8 bits a channel, found PIL mode {image.mode}")
        return np.asarray(image.convert(mode))


@contextmanager
def decoding(name: object) -> Iterator[None]:
    """Turn what PIL raises at damaged files into a :class:`UserError` that names the file."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: can't be decoded as an image ({error})") from error


def file_list_hash(root: Path, files: Sequence[Sample]) -> str:
    """Return a SHA-256 over the relative paths and sizes of all files of a data set."""
    digest = hashlib.sha256()
    for sample in files:
        for path in filter(None, (sample.image, sample.mask)):
            digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _by_stem(folder: Path) -> tuple[dict[str, Path], list[str]]:
    found: dict[str, Path] = {}
    twins = []
    for path in image_files(folder):
        stem = _stem(path, folder)
        if stem in found:
            twins.append(f"{path}: the same name as {found[stem]} but for its suffix")
        found.setdefault(stem, path)
    return found, twins
