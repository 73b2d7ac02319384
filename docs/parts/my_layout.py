"""A data layout of your own: everything is listed in one table."""

import csv
from pathlib import Path

from declip_pl.data.layout import REAL, Sample, Split


class TableLayout:
    """``ROOT/photos.csv`` with columns split, generator, name, image and mask."""

    polarity = "white"

    def __init__(self, root: Path, table: str = "photos.csv") -> None:
        self.root = root
        self.rows = list(csv.DictReader((root / table).read_text("utf-8").splitlines()))

    def generators(self) -> list[str]:
        """Return the names of the generators."""
        return sorted({row["generator"] for row in self.rows} - {REAL})

    def samples(self, split: Split) -> list[Sample]:
        """Return the photos of a split: every generator's, and the untouched ones."""
        return [self._sample(row) for row in self.rows if row["split"] == split]

    def _sample(self, row: dict[str, str]) -> Sample:
        mask = self.root / row["mask"] if row["mask"] else None
        return Sample(row["name"], self.root / row["image"], mask, row["generator"])
