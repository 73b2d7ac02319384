"""What names a data set: its folder or file, and before it, if wanted, how that is laid out."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from declip_pl.data.layout import LAYOUTS
from declip_pl.errors import UserError
from declip_pl.files import expanded
from declip_pl.parts import Spec

PREFIXED = re.compile(r"([A-Za-z_][\w.-]+):(.+)", re.DOTALL)
"""``LAYOUT:PATH``; one letter is a drive's."""


@dataclass(frozen=True)
class Place:
    """Where a data set is.

    Attributes:
        root: Its folder, or the file that lists it.
        layout: How it is laid out, if its name says so.
    """

    root: Path
    layout: Spec | None = None

    def __str__(self) -> str:
        """Return the name as it was given."""
        return f"{self.layout}:{self.root}" if isinstance(self.layout, str) else str(self.root)


def read_place(named: str | Path) -> Place:
    """Return what the name of a data set says: ``PATH`` or ``LAYOUT:PATH``.

    What exists under the whole name is a path, and so is what begins with a drive's letter.

    Raises:
        UserError: If it begins with the name of no layout.
    """
    text = str(expanded(named))
    found = PREFIXED.fullmatch(text)
    if not found or Path(text).exists():
        return Place(Path(text))
    layout, path = found[1], found[2]
    if LAYOUTS.knows(layout):
        return Place(Path(expanded(path)), layout)
    near = get_close_matches(layout, LAYOUTS.names(), 1)
    raise UserError(
        f"there is no data set {text}, and no layout {layout!r} that could stand before its path; "
        + (f"did you mean {near[0]}:{path}?" if near else "declip-pl data info lists all layouts")
    )


def read_places(named: str) -> list[str]:
    """Return the names of one data set, or of several that are separated by blanks.

    The name of what exists is one name, whatever blanks are in it. So is one of whose parts any
    does not exist: an error then shows what was given.
    """
    words = named.split()
    if len(words) > 1 and not _exists(named) and all(map(_exists, words)):
        return words
    return [named]


def _exists(named: str) -> bool:
    try:
        return read_place(named).root.exists()
    except UserError:
        return False
