"""What was read of files, on disk: it holds for a file while its size and time of change do.

Lines of JSON: what the index is and what it is of, then a file each, last a SHA-256 of them all.
Nothing is unpickled, and whatever is wrong with an index, the files are read instead.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import PIL

from declip_pl import __version__
from declip_pl.data.collector import no_collection
from declip_pl.files import LOCK, atomic_path, locked, remove_leftovers

FORMAT = 1
"""Raise it with any change to what is read of files, or to how."""

MADE_BY = f"format {FORMAT}, declip-pl {__version__}, Pillow {PIL.__version__}"
"""What decides on what is read of a file; an index of others is not used."""


class Stamp(NamedTuple):
    """Size in bytes of a file, and when it was last changed, in nanoseconds."""

    size: int
    mtime_ns: int


Facts = TypeVar("Facts", bound=tuple[Any, ...])
Entries = Mapping[str, tuple[Stamp, Facts]]


class FileIndex(Generic[Facts]):
    """Facts of files by their paths.

    Args:
        path: Where they are kept; None keeps nothing.
        of: What the files are of: an index of something else is not used.
        kind: Makes the facts of a file from a line's values, which its ``tuple`` must be.
    """

    def __init__(self, path: Path | None, of: str, kind: Callable[..., Facts]) -> None:
        self.path = path
        self._of = of
        self._kind = kind
        self._here = f"{Path.cwd()}{os.sep}"
        self._kept: Entries[Facts] = {}
        self._new: dict[str, tuple[Stamp, Facts]] = {}
        try:
            self._kept = self._read()
        except (ValueError, TypeError, IndexError, RecursionError, OSError) as error:
            print(f"{path} can't be used ({error}); the files that it is about are read again")

    def find(self, file: Path, stamp: Stamp) -> Facts | None:
        """Return what was read of a file; None if it was not, or was of other size or time."""
        known = self._kept.get(self._key(file))
        return known[1] if known and known[0] == stamp else None

    def add(self, file: Path, stamp: Stamp, facts: Facts) -> None:
        """Note what was read of a file."""
        self._new[self._key(file)] = (stamp, facts)

    def save(self) -> None:
        """Write what was added, beside what other processes have written meanwhile.

        Files that are gone are left out. Where nothing can be written, a line says so.
        """
        if not self._new or self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.parent / LOCK, "writing an index"):
                remove_leftovers(self.path.parent)
                self._write(self.path)
        except OSError as error:
            print(
                f"{self.path} can't be written ({error.strerror or error}); the next start reads "
                "all files again"
            )
        self._new = {}

    def _key(self, file: Path) -> str:
        text = os.fspath(file)
        return text if os.path.isabs(text) else self._here + text  # noqa: PTH117 - half the time

    @no_collection()
    def _read(self) -> Entries[Facts]:
        """Return what is on disk; nothing where there is no file.

        Raises:
            OSError: If it can't be read.
            ValueError: If it is damaged, or of something else; TypeError and others likewise.
        """
        if self.path is None or not self.path.exists():
            return {}
        lines = self.path.read_bytes().splitlines()
        made_by, of = json.loads(lines[0])
        if made_by != MADE_BY:
            raise ValueError(f"it was made by {made_by}, not by {MADE_BY}")
        if of != self._of:
            raise ValueError(f"it is of {of}, not of {self._of}")
        if json.loads(lines[-1]) != hashlib.sha256(b"".join(lines[:-1])).hexdigest():
            raise ValueError("it is damaged: its content does not have its SHA-256")
        rows = json.loads(b"[%b]" % b",".join(lines[1:-1]))  # line by line it takes twice as long
        return {row[0]: (Stamp(row[1], row[2]), self._kind(*row[3:])) for row in rows}

    def _write(self, path: Path) -> None:
        others: Entries[Facts] = {}
        with suppress(ValueError, TypeError, IndexError, RecursionError):  # said when it was opened
            others = self._read()
        digest = hashlib.sha256()
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            for row in self._rows({**others, **self._new}):
                line = json.dumps(row, separators=(",", ":")).encode()
                digest.update(line)
                file.write(line + b"\n")
            file.write(json.dumps(digest.hexdigest()).encode() + b"\n")

    def _rows(self, entries: Entries[Any]) -> Iterator[list[Any]]:
        yield [MADE_BY, self._of]
        for key, (stamp, facts) in entries.items():
            if key in self._new or os.path.exists(key):  # noqa: PTH110 - half the time
                yield [key, *stamp, *facts]
