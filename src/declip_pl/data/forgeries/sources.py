"""Which untouched photos are forged, and which of them for training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Interval

from declip_pl.data.folders import walk
from declip_pl.data.index import DataIndex
from declip_pl.data.layout import NONE, REAL, Layout, Sample, Split, build_layout, find_samples
from declip_pl.data.masks import Polarity
from declip_pl.data.partners import SMALLEST
from declip_pl.errors import UserError
from declip_pl.files import expanded
from declip_pl.model.description import Seed
from declip_pl.parts import Spec

VALID_EVERY = 8
"""Of further photos one in so many is for validation."""

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
        without: What they are made without: operations, autoencoders, places that pixels come from
            (``near``, ``far``, ``other``), ``everywhere``; or patterns such as ``autoencoder-*``.
    """

    photos: list[str] = field(default_factory=list)
    versions: Versions = 4
    seed: Seed = 0
    without: list[str] = field(default_factory=list)


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
        raise UserError(
            f"forgeries: {error}; expected photos, versions, seed and without"
        ) from error


def split_folders(text: str) -> list[str]:
    """Return the folders in a list of them, joined by commas; ``own`` adds none."""
    return [part for part in text.split(",") if part not in ("", OWN)]


class Source(NamedTuple):
    """A photo to be forged.

    Attributes:
        sha256: Of its file.
        photo: The file.
        split: Which forgeries it is for.
        folder: The folder of photos that it is from, by as much of the end of its path as tells it
            from the others; ``real`` for the data set's own.
        further: Whether it is none of the layout's photos.
    """

    sha256: str
    photo: Path
    split: Literal["train", "valid"]
    folder: str
    further: bool = False


class PhotoFolders:
    """Folders of untouched photos in the place of a data set: no fakes, and nothing to test on.

    Args:
        folders: Of the photos that are forged. An eighth of them is for validation.

    Attributes:
        root: ``none``, as no folder holds a data set.
        index: What earlier runs have read of the photos.

    Raises:
        UserError: If a folder holds no photo.
    """

    polarity: Polarity = "black"

    def __init__(self, folders: Sequence[str]) -> None:
        self.root = Path(NONE)
        self.index = DataIndex(*(Path(expanded(folder)) for folder in folders))
        self._photos = list(_further(folders))

    @cached_property
    def sources(self) -> list[Source]:
        """The photos, sorted by the hashes of their files.

        Raises:
            UserError: If none is left for training or for validation.
        """
        hash_of = self.index.hashes(path for path, _ in self._photos)
        found = _sources(self._photos, hash_of, further=False)
        advice = (
            f"a hash of its file decides which photo is for which, every {VALID_EVERY}th for "
            "validation: name folders with more photos (--forgeries DIR,DIR)"
        )
        return _usable([found[key] for key in sorted(found)], self.index, advice)

    def generators(self) -> list[str]:
        """Return no name."""
        return []

    def samples(self, split: Split) -> list[Sample]:
        """Return the untouched photos of a split; there are none for testing."""
        own = (source.photo for source in self.sources if source.split == split)
        return [Sample(photo.stem, photo, None, REAL) for photo in own]


def layout_of(root: str | Path, layout: Spec, forgeries: Forgeries | None) -> Layout:
    """Return the layout of a data set; of the root ``none``, that of the photos that are forged.

    Raises:
        UserError: If there is no data set, or no photo.
    """
    if str(root) != NONE:
        return build_layout(layout, Path(root))
    if not forgeries or not forgeries.photos:
        raise UserError(
            "without a data set (--data none) there are only the photos that are forged; name "
            "their folders: --forgeries DIR,DIR. A folder called none is ./none"
        )
    return PhotoFolders(forgeries.photos)


def index_of(layout: Layout) -> DataIndex:
    """Return what earlier runs have read of a data set's files."""
    return layout.index if isinstance(layout, PhotoFolders) else DataIndex(layout.root)


def find_sources(layout: Layout, folders: Sequence[str], index: DataIndex) -> list[Source]:
    """Return the photos to be forged, sorted by the hashes of their files.

    Equal files are one photo. One that is among the data set's photos for testing is left out,
    and one among those for validation is for that. Small photos are left out
    (:data:`declip_pl.data.partners.SMALLEST`).

    Args:
        layout: The data set, whose own real photos are forged; or :class:`PhotoFolders` of the same
            folders.
        folders: Of further untouched photos; what lies in the data set is no further photo.
        index: What is known of the files.

    Raises:
        UserError: If a folder holds no photo, a file can't be read, or none is left for training
            or for validation.
    """
    if isinstance(layout, PhotoFolders):
        return layout.sources
    own = {split: _own(layout, split) for split in ("test", "valid", "train")}
    further = list(_further(folders, layout.root))
    files = [path for paths in own.values() for path in paths] + [path for path, _ in further]
    hash_of = index.hashes(files)
    tested = {hash_of[path] for path in own["test"]}
    found: dict[str, Source] = {}
    for path in own["valid"]:
        found.setdefault(hash_of[path], Source(hash_of[path], path, "valid", REAL))
    for path in own["train"]:
        found.setdefault(hash_of[path], Source(hash_of[path], path, "train", REAL))
    found = _sources(further, hash_of, further=True) | found
    advice = f"{layout.root} has too few; name a folder of more (--forgeries DIR)"
    return _usable([found[key] for key in sorted(found.keys() - tested)], index, advice)


def _own(layout: Layout, split: Split) -> list[Path]:
    samples, _ = find_samples(layout, split, REAL)
    return [sample.image for sample in samples]


def _further(folders: Sequence[str], skip: Path | None = None) -> Iterator[tuple[Path, str]]:
    """Yield the photos of folders, but for those of a data set, and what the folder is called."""
    paths = [Path(expanded(folder)) for folder in folders]
    for path, name in zip(paths, _names(paths), strict=True):
        if not path.is_dir():
            raise UserError(f"there is no folder {path} of photos to forge")
        photos = walk(path, skip).photos
        if not photos:
            beside = f" beside those of {skip}" if skip else ""
            raise UserError(f"{path} holds no photo to forge{beside}")
        yield from ((photo, name) for photo in photos)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return as much of the end of each path as tells it from the others and the data set."""
    parts = [folder.absolute().parts[1:] or ("photos",) for folder in folders]
    return [_name(part, [other for other in parts if other != part]) for part in parts]


def _name(path: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    ends = (path[-depth:] for depth in range(1, len(path) + 1))
    own = (e for e in ends if e != (REAL,) and all(other[-len(e) :] != e for other in others))
    return "/".join(next(own, path))


def _sources(
    photos: Sequence[tuple[Path, str]], hash_of: Mapping[Path, str], further: bool
) -> dict[str, Source]:
    """Return photos of folders by the hashes of their files, the first of equal ones."""
    found: dict[str, Source] = {}
    for path, name in photos:
        key = hash_of[path]
        found.setdefault(key, Source(key, path, _split_of(key), name, further))
    return found


def _split_of(key: str) -> Literal["train", "valid"]:
    return "train" if int(key, 16) % VALID_EVERY else "valid"


def _usable(sources: list[Source], index: DataIndex, advice: str) -> list[Source]:
    large = [source for source in sources if min(index.sides(source.photo)) >= SMALLEST]
    if small := len(sources) - len(large):
        print(f"forgeries: left out {small} photos with a side of less than {SMALLEST} px")
    for split in ("train", "valid"):
        if not any(source.split == split for source in large):
            raise UserError(f"there is no untouched {split} photo to forge: {advice}")
    return large
