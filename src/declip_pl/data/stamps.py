"""Files that must stay as they are while a run reads them, and after an interruption."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from declip_pl.data.layout import FORGERIES, REAL, Sample
from declip_pl.errors import UserError
from declip_pl.files import sha256


class Stamps:
    """Size and time of change of files, as they were when a run began.

    Masks are read in every epoch, photos again for pictures of them: a file that was replaced in
    the meantime would be mixed with what was made of the first one.

    Args:
        files: Photos and masks.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._first: dict[Path, tuple[int, int] | None] = {}
        self.add(files)

    def add(self, files: Iterable[Path]) -> None:
        """Note what further files are now."""
        self._first |= {path: _stamp(path) for path in files}

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


def content_hash(files: Sequence[Sample], mask_rule_key: str) -> str:
    """Return a SHA-256 over names and contents of photos and masks, and how masks are read.

    Of how the masks of forgeries are read nothing is in it: all are read alike.
    """
    with ThreadPoolExecutor() as pool:  # hashes are computed outside the interpreter lock
        hashes = pool.map(sha256, files_of(files))
        lines = [mask_rule_key]
        for sample in files:
            lines += [sample.name, next(hashes), next(hashes) if sample.mask else REAL]
            if isinstance(sample.mask_rule, str) and sample.generator != FORGERIES:
                lines.append(sample.mask_rule)
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


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


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # whoever reads it says why
        return None
    return status.st_size, status.st_mtime_ns
