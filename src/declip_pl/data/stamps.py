"""Files that must stay as they are while a run reads them, and after an interruption."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from declip_pl.data.collector import no_collection
from declip_pl.data.file_index import Stamp
from declip_pl.data.layout import FORGERIES, REAL, Sample
from declip_pl.errors import UserError
from declip_pl.files import all_sha256

YOUNG_NS = 2 * 10**9
"""A file that was changed less than this before it was looked at may change again without another
time of change: file systems count in steps of up to two seconds."""


class Stamps:
    """Size and time of change of files, as they were when a run began.

    Masks are read in every epoch, photos again for pictures of them: a file that was replaced in
    the meantime would be mixed with what was made of the first one.

    Args:
        files: Photos and masks.
    """

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self._first: dict[Path, Stamp | None] = {}
        self._young: set[Path] = set()
        self.add(files)

    @no_collection()
    def add(self, files: Iterable[Path]) -> None:
        """Note what further files are now; of those that are noted nothing changes."""
        for path in files:
            self.of(path)

    def of(self, path: Path) -> Stamp | None:
        """Return what a file was at first, noting it if it is a further one; None if not there."""
        try:
            return self._first[path]
        except KeyError:
            now = time.time_ns()
            stamp = self._first[path] = _stamp(path)
            if stamp and stamp.mtime_ns > now - YOUNG_NS:
                self._young.add(path)
            return stamp

    def forget(self, files: Iterable[Path]) -> None:
        """Forget what files were, as they have been made anew."""
        for path in files:
            self._first.pop(path, None)
            self._young.discard(path)

    def lasts(self, path: Path) -> bool:
        """Return whether what was just read of a file holds as long as its stamp does.

        It does if the file is still what it was at first, and was old enough then.
        """
        first = self._first.get(path)
        return first is not None and path not in self._young and _stamp(path) == first

    def check(self, *files: Path) -> None:
        """Make sure that files are still what they were.

        Call it after reading them, so that what was read is known to be what was there at first.

        Raises:
            UserError: If one was replaced, changed or deleted.
        """
        for path in files:
            if path in self._first and _stamp(path) != self._first[path]:
                raise UserError(
                    f"{path} has changed since this run began to read the data; start again with "
                    "data that stay as they are"
                )


def files_of(samples: Iterable[Sample]) -> Iterator[Path]:
    """Yield the photos and masks of samples."""
    for sample in samples:
        yield sample.image
        if sample.mask is not None:
            yield sample.mask


def content_hash(
    files: Sequence[Sample],
    mask_rule_key: str,
    hashes: Callable[[Iterable[Path]], Mapping[Path, str]] = all_sha256,
) -> str:
    """Return a SHA-256 over names and contents of photos and masks, and how masks are read.

    Of how the masks of forgeries are read nothing is in it: all are read alike.

    Args:
        files: The photos.
        mask_rule_key: How masks are read.
        hashes: Returns the SHA-256 of each of some files.
    """
    hash_of = hashes(files_of(files))
    lines = [mask_rule_key]
    for sample in files:
        lines += [sample.name, hash_of[sample.image]]
        lines.append(hash_of[sample.mask] if sample.mask else REAL)
        if isinstance(sample.mask_rule, str) and sample.generator != FORGERIES:
            lines.append(sample.mask_rule)
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def file_list_hash(root: Path, files: Sequence[Sample], stamps: Stamps) -> str:
    """Return a SHA-256 over the relative paths and sizes of all files of a data set.

    With what a photo says itself of how its mask is read.

    Args:
        root: The data set.
        files: The photos.
        stamps: Knows, or finds out, what the files are.

    Raises:
        UserError: If one is gone.
    """
    digest = hashlib.sha256()
    for sample in files:
        for path in filter(None, (sample.image, sample.mask)):
            stamp = stamps.of(path)
            if stamp is None:
                raise UserError(f"{path} is gone since it was listed; start again")
            digest.update(os.fsencode(f"{_relative(path, root)}\0{stamp.size}\n"))
        if isinstance(sample.mask_rule, str):
            digest.update(f"{sample.mask_rule}\n".encode())
    return digest.hexdigest()


def check_contents(theirs: Mapping[str, str], ours: Mapping[str, str], root: Path) -> None:
    """Refuse other contents under the same names and sizes.

    That names or sizes differ is noticed elsewhere, and then there is more to say.

    Args:
        theirs: ``files_sha256`` and ``content_sha256`` of what a run was trained on.
        ours: The same of what is there now.
        root: The data set.

    Raises:
        UserError: If the contents differ.
    """
    if theirs["files_sha256"] == ours["files_sha256"] and theirs != ours:
        raise UserError(
            f"photos or masks in {root} are others than those that this run was trained on, under "
            "the same names; bring those back, or give the new run a name of its own (--name; "
            "fit: --run.name; make: RUN=)"
        )


def _relative(path: Path, root: Path) -> str:
    """Return a file's path below a folder, or from there."""
    name = str(path).removeprefix(f"{root}{os.sep}")
    if name == str(path) or os.pardir in name:
        name = os.path.relpath(path, root)
    return Path(name).as_posix() if os.sep != "/" else name


def _stamp(path: Path) -> Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - of every file at every start, and Path's is slower
    except OSError:  # whoever reads it says why
        return None
    return Stamp(status.st_size, status.st_mtime_ns)
