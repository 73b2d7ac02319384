"""The untouched photos that data are made of, and which split each belongs to."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from declip_pl.data.folders import subfolders, walk
from declip_pl.data.images import size_of
from declip_pl.data.layout import SPLITS, Split
from declip_pl.data.partners import SMALLEST
from declip_pl.errors import UserError
from declip_pl.files import sha256

PARTS = 10
"""Without folders for the splits, of so many photos one is for validation and two for testing."""

SHOWN = 5
"""Files that an error names."""


class Photo(NamedTuple):
    """An untouched photo.

    Attributes:
        path: Its file.
        name: What it is called in the data: its path inside the split, without suffix.
        split: Where it goes.
        sha256: Of its file.
    """

    path: Path
    name: str
    split: Split
    sha256: str

    @property
    def key(self) -> str:
        """Split and name, ``train/NAME``."""
        return f"{self.split}/{self.name}"


def find_photos(folder: Path, skip: Path) -> list[Photo]:
    """Return a folder's photos, sorted by the hashes of their files.

    Where the folder holds ``train/``, ``valid/`` or ``test/``, what lies there is of that split.
    Otherwise a hash of each photo's file decides (:data:`PARTS`). Of equal files one is taken;
    photos with a side of less than :data:`declip_pl.data.partners.SMALLEST` px are left out. A line
    says how many.

    Args:
        folder: Where they are.
        skip: Folder that is not looked into.

    Raises:
        UserError: If there is none, a file can't be read, two have the same name but for the
            suffix, or the same file is in two splits.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} of photos")
    splits = [split for split in SPLITS if split in subfolders(folder)]
    places: list[tuple[Split | None, Path]] = [(s, folder / s) for s in splits] or [(None, folder)]
    files = [
        (split, path, path.relative_to(place).with_suffix("").as_posix())
        for split, place in places
        for path in walk(place, skip).photos
    ]
    if splits and (outside := len(walk(folder, skip).photos) - len(files)):
        print(f"left out {outside} photos outside of {', '.join(splits)} in {folder}")
    if not files:
        raise UserError(f"{folder} holds no photo")
    with ThreadPoolExecutor() as pool:  # files are read outside the interpreter lock
        hashes = pool.map(sha256, [path for _, path, _ in files])
        sizes = pool.map(size_of, [path for _, path, _ in files])
        known = list(zip(files, hashes, sizes, strict=True))
    large = [entry for entry in known if min(entry[2]) >= SMALLEST]
    if small := len(known) - len(large):
        print(f"left out {small} photos with a side of less than {SMALLEST} px")
    found = [Photo(path, name, s or _split_of(key), key) for (s, path, name), key, _ in large]
    if not found:
        raise UserError(f"{folder} holds no photo of at least {SMALLEST} px a side")
    return _distinct(found)


def _split_of(key: str) -> Split:
    part = int(key, 16) % PARTS
    return "valid" if part == 0 else "test" if part <= 2 else "train"  # noqa: PLR2004


def _distinct(photos: Sequence[Photo]) -> list[Photo]:
    """Return photos sorted by hash, one of each file.

    Raises:
        UserError: If one is in two splits, or two would have the same name.
    """
    files: dict[str, list[Photo]] = defaultdict(list)
    names: dict[str, list[Photo]] = defaultdict(list)
    for photo in sorted(photos, key=lambda photo: (photo.sha256, photo.path)):
        files[photo.sha256].append(photo)
        names[photo.key].append(photo)
    leaks = [same for same in files.values() if len({photo.split for photo in same}) > 1]
    if leaks:
        raise UserError(
            f"the same photo is in two splits: {_listed(leaks)}; take it out of one, or every "
            "score on it is one of a photo that was trained on"
        )
    if clashes := [same for same in names.values() if len(same) > 1]:
        raise UserError(f"the same name but for the suffix: {_listed(clashes)}; rename one")
    if again := len(photos) - len(files):
        print(f"left out {again} photos that are copies of others")
    return [same[0] for same in files.values()]


def _listed(groups: Sequence[Sequence[Photo]]) -> str:
    shown = [" and ".join(str(photo.path) for photo in same) for same in groups[:SHOWN]]
    return "; ".join(shown) + (f"; and {len(groups) - SHOWN} more" if len(groups) > SHOWN else "")
