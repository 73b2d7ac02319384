"""Which untouched photos are forged, and which of them for training."""

import hashlib
from bisect import bisect
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Interval

from declip_pl.data.folders import walk
from declip_pl.data.images import size_of
from declip_pl.data.layout import REAL, Layout, Split, find_samples
from declip_pl.errors import UserError
from declip_pl.files import expanded, sha256
from declip_pl.model.description import Seed

VALID_EVERY = 8
"""Of further photos one in so many is for validation."""

SMALLEST = 64
"""Px of a side; photos with a smaller one are left out."""

OWN = "own"
"""Stands where a folder's name stands, for the data set's own photos, which are always forged."""

Versions = Annotated[int, Interval(ge=1, le=1000)]


@dataclass(frozen=True)
class Forgeries:
    """Forgeries of untouched photos, as a further source of training photos.

    Made of the data set's own real photos for training and validation, and of further ones.

    Args:
        photos: Folders of further untouched photos. Of those an eighth is for validation.
        versions: Forgeries of each photo; each epoch sees the next.
        seed: Decides on the forgeries; that of the training does not.
    """

    photos: list[str] = field(default_factory=list)
    versions: Versions = 4
    seed: Seed = 0


def as_forgeries(said: Any) -> Forgeries | None:
    """Return what a recipe or a configuration says of forgeries.

    Args:
        said: A mapping with some of the arguments, the class itself, or None.

    Raises:
        UserError: If it is anything else.
    """
    if said is None or isinstance(said, Forgeries):
        return said
    try:
        return Forgeries(**said)
    except TypeError as error:
        raise UserError(f"forgeries: {error}; expected photos, versions and seed") from error


def split_folders(text: str) -> list[str]:
    """Return the folders in a list of them, joined by commas; ``own`` adds none."""
    return [part for part in text.split(",") if part not in ("", OWN)]


class Source(NamedTuple):
    """A photo to be forged.

    Attributes:
        sha256: Of its file.
        photo: The file.
        split: Which forgeries it is for.
        folder: Name of the folder of photos that it is from; ``real`` for the data set's own.
    """

    sha256: str
    photo: Path
    split: Literal["train", "valid"]
    folder: str


def find_sources(layout: Layout, folders: Sequence[str]) -> list[Source]:
    """Return the photos to be forged, sorted by the hashes of their files.

    Equal files are one photo. One that is among the data set's photos for testing is left out,
    and one among those for validation is for that. Small photos are left out
    (:data:`SMALLEST`).

    Args:
        layout: The data set, whose own real photos are forged.
        folders: Of further untouched photos; what lies in the data set is no further photo.

    Raises:
        UserError: If a folder holds no photo, a file can't be read, or none is left for training
            or for validation.
    """
    own = {split: _own(layout, split) for split in ("test", "valid", "train")}
    further = [(path, name) for folder in folders for path, name in _further(layout, folder)]
    files = [path for paths in own.values() for path in paths] + [path for path, _ in further]
    with ThreadPoolExecutor() as pool:  # hashes are computed outside the interpreter lock
        hash_of = dict(zip(files, pool.map(sha256, files), strict=True))
    tested = {hash_of[path] for path in own["test"]}
    found: dict[str, Source] = {}
    for path in own["valid"]:
        found.setdefault(hash_of[path], Source(hash_of[path], path, "valid", REAL))
    for path in own["train"]:
        found.setdefault(hash_of[path], Source(hash_of[path], path, "train", REAL))
    for path, name in further:
        key = hash_of[path]
        found.setdefault(key, Source(key, path, _split_of(key), name))
    sources = [found[key] for key in sorted(found.keys() - tested)]
    return _usable(sources, layout.root)


def partners(sources: Sequence[Source]) -> list[Source]:
    """Return for each photo another one of its split, whose pixels it may get; itself if alone.

    It is the next one from a place that the photo's hash gives, so that further photos change few
    of the choices.

    Args:
        sources: Sorted by their hashes.
    """
    found = {}
    for split in {source.split for source in sources}:
        part = [source for source in sources if source.split == split]
        hashes = [source.sha256 for source in part]
        for index, source in enumerate(part):
            place = bisect(hashes, hashlib.sha256(source.sha256.encode()).hexdigest()) % len(part)
            found[source] = part[(place + (place == index)) % len(part)]
    return [found[source] for source in sources]


def _own(layout: Layout, split: Split) -> list[Path]:
    samples, _ = find_samples(layout, split, REAL)
    return [sample.image for sample in samples]


def _further(layout: Layout, folder: str) -> Iterator[tuple[Path, str]]:
    path = Path(expanded(folder))
    if not path.is_dir():
        raise UserError(f"there is no folder {path} of photos to forge")
    photos = walk(path, skip=layout.root).photos
    if not photos:
        raise UserError(f"{path} holds no photo to forge beside those of {layout.root}")
    return ((photo, path.absolute().name or "photos") for photo in photos)


def _split_of(key: str) -> Literal["train", "valid"]:
    return "train" if int(key, 16) % VALID_EVERY else "valid"


def _usable(sources: list[Source], root: Path) -> list[Source]:
    large = [source for source in sources if min(size_of(source.photo)) >= SMALLEST]
    if small := len(sources) - len(large):
        print(f"forgeries: left out {small} photos with a side of less than {SMALLEST} px")
    for split in ("train", "valid"):
        if not any(source.split == split for source in large):
            raise UserError(
                f"there is no untouched {split} photo to forge: put some into {root / REAL / split}"
                ", or name a folder of further ones (--forgeries DIR)"
            )
    return large
