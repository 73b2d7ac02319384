"""Files that must stay as they are while a run reads them."""

from collections.abc import Iterable
from pathlib import Path

from declip_pl.errors import UserError


class Stamps:
    """Size and time of change of files, as they were when a run began.

    Masks are read in every epoch, photos again for pictures of them: a file that was replaced in
    the meantime would be mixed with what was made of the first one.

    Args:
        files: Photos and masks.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._first = {path: _stamp(path) for path in files}

    def check(self, path: Path) -> None:
        """Make sure that a file is still the one that it was.

        Call it behind reading the file, so that what was read is known to be the first one's.

        Raises:
            UserError: If it was replaced, changed or deleted.
        """
        if path in self._first and _stamp(path) != self._first[path]:
            raise UserError(
                f"{path} has changed since this run began to read the data; start again with data "
                "that stay as they are"
            )


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # whoever reads it says why
        return None
    return status.st_size, status.st_mtime_ns
