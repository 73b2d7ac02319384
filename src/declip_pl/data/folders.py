"""Walking folders for photos, the same everywhere: what is taken, and what is left out."""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from pathlib import Path

from declip_pl.data.images import SUFFIXES
from declip_pl.errors import UserError

ENDINGS = tuple(SUFFIXES)
LEFTOVERS = {"__MACOSX", "@eaDir"}
"""Folders that archivers and network drives leave behind; what they hold looks like photos."""

SHOWN = 3
"""Left-out files of one kind that are named before the rest is only counted."""


@dataclass
class Walk:
    """What lies below a folder; every list is sorted.

    Attributes:
        photos: Files that are photos or masks by their suffix.
        to_nothing: Links named like photos whose target does not exist.
        left_out: Everything else: other files, hidden files and folders as a whole, and links that
            lead back to a folder above.
    """

    photos: list[Path] = field(default_factory=list)
    to_nothing: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)


@dataclass
class Stems:
    """The photos below a folder by name.

    Attributes:
        photos: By their path below the folder without suffix, or by their name alone.
        problems: Files that can't be used, and why.
        left_out: As of :class:`Walk`.
    """

    photos: dict[str, Path]
    problems: list[tuple[Path, str]]
    left_out: list[Path]


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is no data by its name: ``.DS_Store``, ``._photo.png``."""
    return name.startswith(".") or name in LEFTOVERS


def walk(folder: Path, skip: Path | None = None) -> Walk:
    """Find the photos below a folder, to the bottom and through links to other folders.

    Args:
        folder: Where to look; there is nothing in a folder that does not exist.
        skip: A folder that is not looked into.

    Raises:
        UserError: If a folder can't be listed.
    """
    found = Walk()
    skipped = os.path.realpath(skip) if skip else ""
    if folder.is_dir() and not (skip and Path(os.path.realpath(folder)).is_relative_to(skipped)):
        _into(folder, found, above=(skipped,))
    return found


def by_stem(folder: Path, flat: bool = False) -> Stems:
    """Return the photos below a folder by their names without suffix, sorted.

    Args:
        folder: Where to look; there is nothing in a folder that does not exist.
        flat: Take the name alone, whatever folder below it a photo lies in.

    Raises:
        UserError: If a folder can't be listed.
    """
    below, start = walk(folder), len(str(folder / "_")) - 1
    problems = [(path, f"{path}: a link to nothing") for path in below.to_nothing]
    found = Stems({}, problems, below.left_out)
    for path in below.photos:
        # Of every file at every start, where Path's own methods take most of the time.
        relative = path.name if flat else str(path)[start:].replace(os.sep, "/")
        stem = relative.rpartition(".")[0]
        there = found.photos.setdefault(stem, path)
        if there is not path:
            apart = "" if flat else " but for its suffix"
            found.problems.append((path, f"{path}: the same name as {there}{apart}"))
    return found


@cache
def in_circle(folder: Path) -> bool:
    """Return whether a path leads through the same folder twice, by a link back to it."""
    path = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow links
    real = [os.path.realpath(part) for part in (path, *path.parents)]
    return len(set(real)) < len(real)


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones.

    Raises:
        UserError: If the folder can't be listed.
    """
    return [e.name for e in _entries(folder) if not is_hidden(e.name) and _is_folder(e)]


def describe_left_out(folder: Path, files: Iterable[Path]) -> str:
    """Return one line that counts left-out files by kind and names the first of each."""
    kinds = defaultdict(list)
    for path in files:
        name = os.path.relpath(path, folder)
        kinds[_kind(path)].append(name)
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)})"
        for kind, names in sorted(kinds.items())
    ]
    return f"{folder}: left out what is no photo by its name: {', '.join(parts)}"


def _into(folder: Path, found: Walk, above: tuple[str, ...]) -> None:
    """Add what lies below a folder.

    Args:
        folder: Where to look.
        found: What is added to.
        above: Real paths of the folder that is skipped and of all folders on the way here.
    """
    above = (*above, os.path.realpath(folder))
    for entry in _entries(folder):
        path = folder / entry.name
        if is_hidden(entry.name):
            found.left_out.append(path)
        elif _is_folder(entry):
            real = os.path.realpath(path)
            if real not in above:
                _into(path, found, above)
            elif real != above[0]:
                found.left_out.append(path)
        elif not entry.name.lower().endswith(ENDINGS):
            found.left_out.append(path)
        elif entry.is_symlink() and not path.is_file():
            found.to_nothing.append(path)
        else:
            (found.photos if entry.is_file() else found.left_out).append(path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, sorted by name, so that whatever is found below it is, too."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=attrgetter("name"))
    except OSError as error:
        raise UserError(f"can't look into the folder {folder}: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link may lead in a circle, at which the entry's own method raises an error.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # noqa: PTH112


def _kind(path: Path) -> str:
    if is_hidden(path.name):
        return "hidden"
    if path.is_dir():
        return "link to a folder above"
    suffix = path.suffix.lower()
    return "no ordinary file" if suffix in SUFFIXES else suffix or "without suffix"
