"""The folder that ``declip-pl predict`` writes: what stands in it, and what is still to be done.

It holds, for each photo, a heat map, a mask and an overlay, and a line in ``predictions.jsonl``,
which is appended once the pictures are complete. So that file says what is done, whatever ended the
command. ``settings.json`` says what made them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from declip_pl.csv_files import write_csv
from declip_pl.errors import UserError
from declip_pl.files import write_text
from declip_pl.inference.about import About
from declip_pl.inference.localization import Localization

RECORDS, TABLE, SETTINGS = "predictions.jsonl", "predictions.csv", "settings.json"
COLUMNS = ("name", "path", "width", "height", "score", "image_threshold", "above",
           "untouched_photos", "untouched_higher", "compared", "unlike", "pixel_threshold",
           "decision", "area", "share", "regions", "seconds", "heatmap", "mask", "overlay", "model",
           "trained_on", "tested_on", "notice", "error")  # fmt: skip
"""Of the table, whose ``regions`` is their number."""

PNG_END = b"IEND\xaeB`\x82"
"""What a PNG file ends with that was not cut."""

Record = dict[str, Any]
"""A photo's line: ``name`` (what its pictures are named after), absolute ``path``, ``bytes`` and
``modified_ns`` of the file; what :meth:`Localization.to_dict` returns; ``seconds``; what the model
is, as of :class:`declip_pl.inference.about.About`; ``files``. Or, in place of all from ``width``
on, an ``error``."""


def check_folder(folder: Path, resume: bool) -> None:
    """Refuse to write among files that are not ours, or unasked among ours.

    Raises:
        UserError: If the folder is neither new nor empty nor to be gone on with.
    """
    if (folder / SETTINGS).is_file():
        if not resume:
            raise UserError(
                f"predictions stand in {folder}: add --resume to go on with them, or name another "
                "folder with --output"
            )
    elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder} holds other files: name a new or empty folder with --output")


def settle(folder: Path, settings: dict[str, Any], about: About) -> None:
    """Note how a folder's predictions are made, or check that they were made in this way.

    Args:
        folder: The predictions.
        settings: Everything that decides on the result.
        about: What the model is.

    Raises:
        UserError: If they were made otherwise.
    """
    path = folder / SETTINGS
    if not path.exists():
        write_text(path, json.dumps(settings | about._asdict(), indent=2) + "\n")
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        # A run may have moved; what is said of it decides on nothing.
        theirs = {name: said for name, said in theirs.items() if name not in About._fields}
        same = theirs == settings
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): name another --output") from error
    if not same:
        raise UserError(
            f"the predictions in {folder} were made with {_words(theirs)}, not with "
            f"{_words(settings)}: name another folder with --output"
        )


def read_records(folder: Path) -> dict[str, Record]:
    """Return the records of a folder by name; a line that a kill cut off is left out.

    Raises:
        UserError: If another line is damaged.
    """
    path = folder / RECORDS
    if not path.exists():
        return {}
    try:
        *lines, _unfinished = path.read_bytes().split(b"\n")
        records = [json.loads(line) for line in lines]
        return {record["name"]: record for record in records}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): name another --output") from error


def still_to_do(
    folder: Path, records: dict[str, Record], photos: dict[str, Path]
) -> dict[str, Path]:
    """Return the photos that are new, have changed, failed, or whose pictures are gone or cut.

    Raises:
        UserError: If the pictures of one would replace those of another.
    """
    for name, path in photos.items():
        there = records[name]["path"] if name in records else str(path)
        if there != str(path):
            raise UserError(
                f"{folder} holds the predictions of another {name}, {there}: name another folder "
                f"with --output for {path}"
            )
    return {
        name: path
        for name, path in photos.items()
        if name not in records or not _done(folder, records[name])
    }


def version(path: Path) -> dict[str, int]:
    """Return what tells that a file has changed."""
    status = path.stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def line(record: Record) -> str:
    """Return a record as a line; its names are escaped where they are not ASCII.

    Raises:
        ValueError: If a number is NaN or infinite, which JSON has not.
    """
    return json.dumps(record, allow_nan=False) + "\n"


def describe(found: Localization, seconds: float, about: About) -> Record:
    """Return what a record says of what a model found in a photo, in so many seconds."""
    return found.to_dict() | {"seconds": seconds} | about._asdict()


def write_table(folder: Path, records: Iterable[Record]) -> None:
    """Write ``predictions.csv``."""
    lines = []
    for record in records:
        regions = len(record["regions"]) if "regions" in record else None
        lists = {name: "; ".join(record.get(name, [])) for name in ("compared", "unlike")}
        cells = record | record.get("files", {}) | lists | {"regions": regions}
        lines.append([cells.get(name) for name in COLUMNS])
    write_csv(folder / TABLE, COLUMNS, lines)


def _done(folder: Path, record: Record) -> bool:
    try:
        return (
            "error" not in record
            and record | version(Path(record["path"])) == record
            and all(
                (folder / file).read_bytes().endswith(PNG_END) for file in record["files"].values()
            )
        )
    except OSError:  # it has gone, which reading it will say
        return False


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
