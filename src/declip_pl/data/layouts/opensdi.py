"""OpenSDI: photos inside parquet files, which are unpacked before they are read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.layout import LAYOUTS, REAL, Split
from declip_pl.data.layouts.listed import hashed_split
from declip_pl.data.layouts.parquet import read_rows
from declip_pl.errors import UserError

OPENSDI = "opensdi"
COLUMNS = ("key", "image", "mask", "label")
FILE = re.compile(r"(\w+)-\d+-of-\d+\.parquet$")
PARTIAL, WHOLE = "partial", "-entire"


@dataclass(frozen=True)
class Packed:
    """A photo inside a parquet file.

    Attributes:
        split: Of the whole set.
        generator: Such as ``sd15``, ``sd15-entire`` for photos that were made as a whole, ``real``.
        source: The number of the photo, the same for all that was made of it.
        suffix: Of the photo's file.
        image: Its content.
        mask: Content of the mask's file, white = fake; None without one.
    """

    split: Split
    generator: str
    source: str
    suffix: str
    image: bytes
    mask: bytes | None


@LAYOUTS.register(OPENSDI)
class OpenSdiLayout:
    """OpenSDI, which can be unpacked (:func:`packed`) and not be read as it is.

    Photos are read several times and in any order, which parquet files do not allow at any speed.
    """

    facts = DataSetFacts(
        title="OpenSDI (OpenSDID)",
        source="Wang et al., arXiv 2503.19653",
        layout="ROOT/[OpenSDI_{train,test}/]data/{sd15,sd2,sdxl,sd3,flux}-NNNNN-of-MMMMM.parquet "
        f"with the columns {', '.join(COLUMNS)}",
        masks="white",
        link="https://huggingface.co/datasets/nebula/OpenSDI_test (and nebula/OpenSDI_train)",
        licence="CC BY-SA 4.0",
        splits="train, test; 10 % of train is valid, by a hash of the photo's number",
        traps=(
            "it is unpacked first: declip-pl data convert opensdi ROOT FOLDER (extra parquet)",
            "a fake without mask is fake as a whole (key entire/...); these are generators of "
            "their own, sd15-entire and so on",
        ),
    )

    def __init__(self, root: Path) -> None:
        self._refuse(root)

    @staticmethod
    def _refuse(root: Path) -> NoReturn:
        raise UserError(
            f"{root}: OpenSDI's photos are inside parquet files; unpack them once (declip-pl data "
            f"convert opensdi {root} FOLDER), then name that folder"
        )


def packed(root: Path) -> Iterator[Packed]:
    """Yield the photos of all parquet files below a folder, a few in memory at once.

    Raises:
        UserError: If there is none, a path does not tell the split, a row is not as expected, or
            pyarrow is not installed.
    """
    files = sorted(path for path in root.rglob("*.parquet") if FILE.match(path.name))
    if not files:
        raise UserError(f"{root} holds no parquet file; expected {OpenSdiLayout.facts.layout}")
    for path in files:
        split, generator = split_of(path, root), FILE.match(path.name)[1]  # type: ignore[index]
        for number, row in enumerate(read_rows(path, COLUMNS), 1):
            yield _photo(f"{path}, row {number}", row, split, generator)


def split_of(path: Path, root: Path) -> Split:
    """Return the split that the folders between a file and the data set's, itself included, tell.

    Raises:
        UserError: If they tell none.
    """
    above = [root.absolute().name, *path.relative_to(root).parts[:-1]]
    for name in map(str.lower, reversed(above)):  # the nearest one tells
        if ("train" in name) != ("test" in name):
            return "train" if "train" in name else "test"
    raise UserError(
        f"{path}: no folder above it tells whether it is of OpenSDI_train or OpenSDI_test; name "
        "one so"
    )


def _photo(place: str, row: dict[str, Any], split: Split, generator: str) -> Packed:
    key, label, image = row.get("key"), row.get("label"), _content(row.get("image"))
    if not isinstance(key, str) or image is None or label not in (0, 1):
        raise UserError(f"{place}: expected {', '.join(COLUMNS)}; found {sorted(row)}")
    named = Path(key)
    if label and PARTIAL not in named.parts:
        generator += WHOLE
    held_out = split == "train" and hashed_split(named.stem) == "valid"
    return Packed(
        "valid" if held_out else split,
        generator if label else REAL,
        named.stem,
        named.suffix.lower(),
        image,
        _content(row.get("mask")) if label else None,
    )


def _content(cell: Any) -> bytes | None:
    """Return the bytes of a picture as Hugging Face keeps it, ``{"bytes": ..., "path": ...}``."""
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    return found if isinstance(found, bytes) else None
