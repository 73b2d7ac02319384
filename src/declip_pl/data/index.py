"""The index of a data set: what was read of its files once need not be read at every start.

It lies in the cache folder, and holds for a file as long as its size and time of change do. Files
that were changed within two seconds before a run looked at them are read by the next one again. How
photos and masks are decoded for the check is written here as well, as nobody else does.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from declip_pl.data.file_index import FileIndex
from declip_pl.data.images import read_photo, size_of
from declip_pl.data.masks import MaskRule, is_fake, read_grey, read_mask
from declip_pl.data.stamps import Stamps
from declip_pl.errors import UserError
from declip_pl.files import NAME_BYTES, cache_folder, sha256, shortened
from declip_pl.records import json_hash


class FileFacts(NamedTuple):
    """What was read of a photo or mask; what was not has its default.

    Attributes:
        sha256: Of the file.
        width: In px; of what was decoded, upright.
        height: Likewise.
        pixels: SHA-256 of a photo's pixels, the same whatever file they are stored in.
        rule: Which pixels of a mask are fake, in words.
        levels: How many grey values a mask has; 0 if it is black and white, or read by a layout.
        fake_share: Share of a mask's pixels that are fake, in [0, 1].
    """

    sha256: str = ""
    width: int = 0
    height: int = 0
    pixels: str = ""
    rule: str = ""
    levels: int = 0
    fake_share: float = 0.0


class DataIndex:
    """Facts of the files of one data set, and of further ones that are used beside it.

    Within a run what was read is not read again; :attr:`stamps` notices what changes meanwhile.

    Args:
        of: The data set's folder or file, or several folders.
        anew: Use nothing that was read by others.

    Attributes:
        stamps: What the files were when they were first looked at.
        decoded: Photos and masks that were decoded, as nothing was known of them.
    """

    def __init__(self, *of: Path, anew: bool = False) -> None:
        self.stamps = Stamps()
        self.decoded: set[Path] = set()
        self._anew = anew
        self._facts: dict[Path, FileFacts] = {}
        self._file = FileIndex(_place(of), ", ".join(map(_text, of)), FileFacts)

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file.

        Raises:
            UserError: If it can't be read.
        """
        return self._known(path).sha256 or self._add(path, sha256=self._hash(path)).sha256

    def hashes(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the SHA-256 of each file; those that are not known are read on all cores.

        Raises:
            UserError: If one can't be read.
        """
        found = {path: self._known(path).sha256 for path in paths}
        unknown = [path for path, known in found.items() if not known]
        with ThreadPoolExecutor() as pool:  # hashes are computed outside the interpreter lock
            found.update(zip(unknown, pool.map(self.sha256, unknown), strict=True))
        return found

    def knows_hash(self, path: Path) -> bool:
        """Return whether a file's content need not be read for its SHA-256."""
        return self._known(path).sha256 != ""

    def sides(self, path: Path) -> tuple[int, int]:
        """Return the two sides of a photo or mask in px, in either order; it is not decoded.

        Raises:
            UserError: If it can't be read.
        """
        facts = self._known(path)
        if not facts.width:
            width, height = size_of(path)
            facts = self._add(path, width=width, height=height)
        return facts.width, facts.height

    def knows_photo(self, path: Path) -> bool:
        """Return whether :meth:`photo` need not decode a file."""
        return bool(self._known(path).pixels)

    def photo(self, path: Path) -> FileFacts:
        """Return what a photo is; it is decoded to its end if that is not known.

        Raises:
            UserError: If it can't be decoded.
        """
        known = self._known(path)
        if known.pixels:
            return known
        self.decoded.add(path)
        photo = read_photo(path)
        height, width = photo.shape[:2]
        found = {"width": width, "height": height, "pixels": _content(photo)}
        return self._add(path, sha256=self._hash(path), **found)

    def knows_mask(self, path: Path, rule: str) -> bool:
        """Return whether :meth:`mask` need not decode a file."""
        return rule != "" and self._known(path).rule == rule

    def mask(self, path: Path, rule: MaskRule, said: str) -> FileFacts:
        """Return what a mask is; it is decoded if that is not known.

        Args:
            path: Its file.
            rule: Which of its pixels are fake.
            said: The same in words; "" if there are none, and then it is always decoded.

        Raises:
            UserError: If it can't be decoded, or is no mask.
        """
        known = self._known(path)
        if said and known.rule == said:
            return known
        self.decoded.add(path)
        if callable(rule):
            fake, levels = read_mask(path, rule), 0
        else:
            grey = read_grey(path)
            fake, levels = is_fake(grey, rule), _levels(grey)
        height, width = fake.shape
        found = {"width": width, "height": height, "rule": said, "levels": levels}
        return self._add(path, sha256=self._hash(path), fake_share=float(fake.mean()), **found)

    def forget(self, files: Sequence[Path]) -> None:
        """Forget files that have been made anew."""
        self.stamps.forget(files)
        for path in files:
            self._facts.pop(path, None)

    def save(self) -> None:
        """Keep what was read for the next run."""
        self._file.save()

    def _known(self, path: Path) -> FileFacts:
        facts = self._facts.get(path)
        if facts is None:
            stamp = self.stamps.of(path)
            kept = self._file.find(path, stamp) if stamp and not self._anew else None
            facts = self._facts[path] = kept or FileFacts()
        return facts

    def _hash(self, path: Path) -> str:
        return self._known(path).sha256 or sha256(path)

    def _add(self, path: Path, **found: Any) -> FileFacts:
        facts = self._facts[path] = self._known(path)._replace(**found)
        stamp = self.stamps.of(path)
        if stamp and self.stamps.lasts(path):
            self._file.add(path, stamp, facts)
        return facts


def _place(of: Sequence[Path]) -> Path | None:
    """Return the file of an index; None for a user without a home folder, which is said."""
    try:
        folder = cache_folder() / "index"
    except UserError as error:
        print(f"no index is kept, every start reads all files: {error}")
        return None
    digest = json_hash([_text(path) for path in of])[:16]
    name = shortened(of[0].absolute().name, NAME_BYTES - len(digest) - len("-.jsonl"))
    return folder / f"{name}-{digest}.jsonl"


def _text(path: Path) -> str:
    return str(path.absolute())


def _content(photo: NDArray[np.uint8]) -> str:
    """Return a hash of a photo's pixels, the same whatever file they are stored in."""
    digest = hashlib.sha256(str(photo.shape).encode())
    digest.update(photo.data)
    return digest.hexdigest()


def _levels(grey: NDArray[np.uint8]) -> int:
    """Return how many grey values a mask has, or 0 if it is black and white."""
    return 0 if np.isin(grey, (0, 255)).all() else len(np.unique(grey))
