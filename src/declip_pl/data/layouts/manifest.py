"""``manifest``: any data set, listed in a CSV, JSON lines or parquet file."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from declip_pl.csv_files import read_csv, write_csv
from declip_pl.data.facts import DataSetFacts
from declip_pl.data.layout import LAYOUTS, REAL, Sample, Split, expected
from declip_pl.data.layouts.listed import BY_HASH, ListedLayout, Placed, Sharing
from declip_pl.data.layouts.parquet import read_rows
from declip_pl.data.masks import MaskRule, wholly_fake
from declip_pl.errors import UserError
from declip_pl.files import expanded, write_text

WHOLLY = "all"
"""Stands where a mask's path stands, for a photo that is fake as a whole."""

UNKNOWN = "fake"
"""The generator of forgeries for which none is named."""

SPLIT_NAMES: dict[str, Split] = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"valid": "valid", "val": "valid", "validation": "valid"},
}
POLARITIES: dict[str, MaskRule] = {"white": "white", "black": "black"}
SUFFIXES = (".csv", ".jsonl", ".parquet")
MOST = 20
"""Faults that are listed before the rest is only counted."""


@dataclass(frozen=True)
class Row:
    """A line of a manifest; all of it is text, and empty where nothing is said.

    Attributes:
        image: Path of the photo, relative to the manifest.
        mask: Path of the mask; empty for an untouched photo, ``all`` for one that is fake as a
            whole.
        generator: What made it.
        split: ``train``, ``valid`` or ``test``.
        source: Name of the photo that it was made of.
        polarity: Which grey value of the mask means fake, ``white`` or ``black``.
    """

    image: str
    mask: str = ""
    generator: str = ""
    split: str = ""
    source: str = ""
    polarity: str = ""


COLUMNS = tuple(field.name for field in fields(Row))
NEEDED = ("image", "mask")


@LAYOUTS.register("manifest")
class ManifestLayout(ListedLayout):
    """Photos and masks wherever they lie, listed in one file."""

    facts = DataSetFacts(
        title="any data set, listed in one file",
        source="declip-pl",
        layout="a file .csv, .jsonl (an object a line) or .parquet with the columns image and mask "
        "(empty: untouched; all: fake as a whole) and, if wanted, generator, split, source and "
        "polarity; paths are relative to the file",
        masks="white, or as the column polarity says",
        splits="the column split, or " + BY_HASH,
        traps=(
            "the column source names the photo that others were made of, and keeps them together "
            "when the set is split",
            "a photo or mask that is called all is ./all",
        ),
    )
    shared: Sharing = "hashed"

    def listed(self) -> Iterator[Placed]:
        """Yield the photos of the file."""
        rows = read_manifest(self.root, expected(self))
        if not any(row.split or row.source for _, row in rows):
            self._guesses.append(
                f"{self.root}: without the columns split and source it is split photo by photo; "
                "what was made of one photo may be in two splits"
            )
        for place, row in rows:
            yield SPLIT_NAMES.get(row.split), self._sample(place, row)

    def _sample(self, place: str, row: Row) -> Sample:
        image, untouched = self._path(row.image), not row.mask
        whole = row.mask == WHOLLY
        mask = None if untouched else image if whole else self._path(row.mask)
        missing = [path for path in (image, mask) if path and not path.is_file()]
        problem = f"{place}: there is no file {missing[0]}" if missing else None
        made = REAL if untouched else row.generator or UNKNOWN
        rule = wholly_fake if whole else POLARITIES.get(row.polarity)
        name = row.source or Path(row.image).with_suffix("").as_posix()
        return Sample(name, image, mask, made, problem, rule, row.source)

    def _path(self, named: str) -> Path:
        return self.root.parent / Path(expanded(named))


def read_manifest(path: Path, help_: str = "") -> list[tuple[str, Row]]:
    """Return the rows of a manifest, each with its place for messages (``FILE, line 2``).

    Args:
        path: The file.
        help_: What to add to errors.

    Raises:
        UserError: If it can't be read, lacks a column, or rows say what can't be; all of them are
            named, with their lines.
    """
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None or path.is_dir():
        raise UserError(f"{path} is no manifest{help_}")
    rows: list[tuple[str, Row]] = []
    faults: list[str] = []
    checked: set[frozenset[str]] = set()
    for place, found in reader(path):
        if (columns := frozenset(found)) not in checked:
            _check_columns(place, columns, help_)
            checked.add(columns)
        text = {name: "" if found.get(name) is None else found[name] for name in COLUMNS}
        fault = _fault(text)
        if not fault and rows and bool(rows[0][1].split) != bool(text["split"]):
            fault = "some rows have a split and others have none"
        if fault:
            faults.append(f"{place}: {fault}")
        else:
            rows.append((place, Row(**text)))
    if faults:
        more = f"\n... and {len(faults) - MOST} more" if len(faults) > MOST else ""
        raise UserError("\n".join(faults[:MOST]) + more)
    if not rows:
        raise UserError(f"{path} lists no photo{help_}")
    return rows


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write a manifest, atomically.

    Args:
        path: A file ``.csv`` or ``.jsonl``.
        rows: Its lines.
    """
    if path.suffix.lower() == ".csv":
        write_csv(path, COLUMNS, [[getattr(row, name) for name in COLUMNS] for row in rows])
        return
    lines = [json.dumps({k: v for k, v in asdict(row).items() if v or k in NEEDED}) for row in rows]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _check_columns(place: str, columns: frozenset[str], help_: str) -> None:
    """Refuse rows that lack a column, and names that are nearly those of columns."""
    absent = [name for name in COLUMNS if name not in columns]
    for name in sorted(columns - set(COLUMNS)):
        if near := get_close_matches(name, absent, 1, 0.8):
            raise UserError(f"{place}: there is no column {name!r}; did you mean {near[0]}?")
    for name in NEEDED:
        if name in absent:
            raise UserError(f"{place}: there is no column {name}{help_}")


def _fault(row: Mapping[str, Any]) -> str:
    """Return what is wrong with a row, whatever the files that it names; "" if nothing is."""
    for name, value in row.items():
        if not isinstance(value, str) or "\0" in value:
            return f"{name} is {value!r}, expected text"
    mask, generator, split, polarity = (
        row[name] for name in ("mask", "generator", "split", "polarity")
    )
    faults = {
        "no image is named": not row["image"],
        f"split is {split!r}; expected train, valid or test": split and split not in SPLIT_NAMES,
        f"polarity is {polarity!r}; expected white or black": polarity
        and polarity not in POLARITIES,
        f"generator is {REAL}, and there is a mask; leave one of them empty": mask
        and generator == REAL,
        f"generator is {generator!r}, and there is no mask; write {WHOLLY} if the photo is fake as "
        "a whole": not mask and generator not in ("", REAL),
    }
    return next((text for text, wrong in faults.items() if wrong), "")


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in read_csv(path):
        yield f"{path}, line {number}", dict(row)


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read as JSON lines ({error})") from error
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: no JSON ({error})") from error
        if not isinstance(found, dict):
            raise UserError(f"{place}: expected an object {{...}}")
        yield place, found


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(read_rows(path, COLUMNS), 1):
        if isinstance(row.get("image"), dict):
            raise UserError(
                f"{path} holds the photos themselves, not their paths; unpack them first (OpenSDI: "
                f"declip-pl data convert opensdi {path.parent} FOLDER)"
            )
        yield f"{path}, row {number}", row
