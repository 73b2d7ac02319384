"""NIST16, the Nimble Challenge 2016 of NIST's Media Forensics programme."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from declip_pl.csv_files import read_csv
from declip_pl.data.facts import DataSetFacts
from declip_pl.data.images import read_photo
from declip_pl.data.layout import LAYOUTS, REAL, Sample, expected
from declip_pl.data.layouts.listed import WHOLE, ListedLayout, Placed
from declip_pl.errors import UserError

REFERENCE = "reference/manipulation/NC2016-manipulation-ref.csv"
COLUMNS = ("ProbeFileName", "ProbeMaskFileName", "IsTarget")
LEVEL = 180
MADE = "manipulated"


@LAYOUTS.register("nist16")
class Nist16Layout(ListedLayout):
    """NIST16, by its table of manipulations."""

    facts = DataSetFacts(
        title="NIST16 (Nimble Challenge 2016)",
        source="Guan et al., WACV Workshops 2019",
        layout=f"ROOT/{REFERENCE}, separated by |, with the columns {', '.join(COLUMNS)}",
        masks=f"grey below {LEVEL}",
        link="https://mfc.nist.gov/",
        access="registration with NIST",
        splits=WHOLE,
        counts={MADE: 564, REAL: 560},
        defects=(
            "many manipulations of a photo are nearly the same: a random split puts them on both "
            "sides; the column BaseFileName, where there is one, tells the photo",
        ),
        traps=("black is fake, other than in most sets", "several photos share a mask"),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the photos of the table."""
        table = self.root / REFERENCE
        if not table.is_file():
            raise UserError(f"there is no file {table}{expected(self)}")
        for number, row in read_csv(table, delimiter="|"):
            place = f"{table}, line {number}"
            if missing := [name for name in COLUMNS if name not in row]:
                raise UserError(f"{place}: there is no column {missing[0]}{expected(self)}")
            yield None, self._sample(row, place)

    def _sample(self, row: Mapping[str, str], where: str) -> Sample:
        image = self.root / row["ProbeFileName"]
        base = row.get("BaseFileName", "").replace("\\", "/").rpartition("/")[2]
        source = base.rpartition(".")[0] or image.stem
        if row["IsTarget"].strip().upper() != "Y":
            problem = None if image.is_file() else f"{where}: there is no photo {image}"
            return Sample(image.stem, image, None, REAL, problem, source=source)
        named = row["ProbeMaskFileName"].strip()
        mask = self.root / named
        missing = [path for path in (image, mask) if not path.is_file()]
        problem = f"{where}: there is no file {missing[0]}" if missing else None
        problem = problem if named else f"{where}: {image.name} is a target and has no mask"
        return Sample(image.stem, image, mask if named else None, MADE, problem, source=source)

    def read_mask(self, path: Path) -> NDArray[np.bool_]:
        """Return what is darker than :data:`LEVEL`, ``[H, W]``."""
        return np.asarray(read_photo(path).mean(axis=-1) < LEVEL)
