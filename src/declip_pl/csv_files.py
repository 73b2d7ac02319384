"""Tables as CSV that a spreadsheet shows and never runs, and the tables of others."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from declip_pl.errors import UserError
from declip_pl.files import atomic_path

RISKY = ("=", "+", "-", "@", "\t", "\r", "\n", "\N{FULLWIDTH EQUALS SIGN}",
         "\N{FULLWIDTH PLUS SIGN}", "\N{FULLWIDTH HYPHEN-MINUS}",
         "\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip
"""What the text of a cell must not begin with: spreadsheets take the rest for a formula."""

MARK = "'"
"""Stands before such text, and before text that begins with the mark itself."""


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically, as UTF-8; bytes of names that are not UTF-8 stay as they are.

    Text that a spreadsheet would run gets an apostrophe before it. So the inverse is: take one
    apostrophe away where a cell begins with one. Numbers stay numbers, None is an empty cell.

    Args:
        path: The file.
        columns: Their names.
        rows: A cell for each column.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        for row in chain([columns], rows):
            file.write(",".join(map(_cell, row)) + "\n")


def read_csv(path: Path, delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table by column, each with the number of the line that it ends on.

    What :func:`write_csv` wrote comes back as it was. Empty lines are skipped.

    Args:
        path: The file.
        delimiter: What stands between cells.

    Raises:
        UserError: If it can't be read, a row has too few or too many cells, or there are two
            columns of one name; the line is named.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            columns = [read_cell(name).strip() for name in next(reader, [])]
            if twice := {name for name in columns if columns.count(name) > 1}:
                raise UserError(f"{path}, line 1: there are two columns {min(twice)!r}")
            for cells in reader:
                if cells and len(cells) != len(columns):
                    raise UserError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells under {len(columns)} "
                        "columns"
                    )
                if cells:
                    yield reader.line_num, dict(zip(columns, map(read_cell, cells), strict=True))
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} can't be read as CSV ({error})") from error


def read_cell(text: str) -> str:
    """Return what :func:`write_csv` wrote as the text of a cell; other text stays as it is."""
    marked = text.removeprefix(MARK)
    return marked if marked != text and _is_risky(marked) else text


def _is_risky(text: str) -> bool:
    return text.lstrip(" ").startswith((*RISKY, MARK))


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = MARK + value if _is_risky(value) else value
    # The csv module leaves a lone carriage return bare, where readers begin a new row.
    return '"' + text.replace('"', '""') + '"' if set(',"\r\n') & set(text) else text
