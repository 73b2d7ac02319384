"""Which file of a folder is the heat map of which photo."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from declip_pl.data.folders import is_hidden
from declip_pl.data.images import SUFFIXES as PHOTO_SUFFIXES
from declip_pl.data.layout import Sample
from declip_pl.data.map_files import SUFFIXES
from declip_pl.files import sha256
from declip_pl.model.checkpoint import BEST, CONFIG_FILE, STARTER
from declip_pl.records import json_hash

SHOWN = 3
"""Photos and files that are named before the rest is only counted."""

Photo = tuple[str, str]
"""A generator, or ``real``, and the name of a photo."""


def is_map_folder(path: str | Path) -> bool:
    """Return whether a path is a folder that holds no localizer, but files that maps may be in."""
    return is_other_folder(path) and any(map_files(Path(path).expanduser()))


def is_other_folder(path: str | Path) -> bool:
    """Return whether a path is a folder that holds no localizer."""
    folder = Path(path).expanduser()
    holds_one = (folder / CONFIG_FILE).is_file() or (folder / BEST).is_file()
    return path != STARTER and folder.is_dir() and not holds_one


def content_of(folder: Path) -> str:
    """Return a hash of the names and contents of all maps in a folder."""
    files = sorted(map_files(folder))
    with ThreadPoolExecutor() as pool:
        return json_hash(
            [[path.relative_to(folder).as_posix(), digest]
             for path, digest in zip(files, pool.map(sha256, files), strict=True)]
        )  # fmt: skip


def photos_by_name(photos: Mapping[Photo, Sample], root: Path) -> dict[str, Photo]:
    """Return the photos by each name that a map of theirs may have."""
    folder = root if root.is_dir() else root.parent
    short = Counter(stem_of(s.name) for s in photos.values())
    last = Counter(stem_of(Path(s.name).name) for s in photos.values())
    found: dict[str, Photo] = {}
    for photo, sample in photos.items():
        stem = stem_of(sample.name)
        found[stem_of(Path(os.path.relpath(sample.image, folder)).as_posix())] = photo
        found[f"{sample.generator}/{stem}"] = photo
        if short[stem] == 1:
            found.setdefault(stem, photo)
        if last[stem_of(Path(stem).name)] == 1:
            found.setdefault(stem_of(Path(stem).name), photo)
    return found


def map_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder that maps may be in, by their suffix; hidden ones are none."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in names:
            if not is_hidden(name) and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)


def stem_of(name: str) -> str:
    """Return a map's or photo's name without its suffixes, the photo's before the map's."""
    path = Path(name)
    if path.suffix.lower() in SUFFIXES:
        path = path.with_suffix("")
    return (path.with_suffix("") if path.suffix.lower() in PHOTO_SUFFIXES else path).as_posix()


def in_short(names: Sequence[str] | Mapping[str, str], between: str = ", ") -> str:
    """Return the first names of several, and whether there are more."""
    shown = between.join(list(names)[:SHOWN])
    return shown + (f"{between}..." if len(names) > SHOWN else "")
