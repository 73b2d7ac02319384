"""DSO-1: people spliced into photos."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import Stems
from declip_pl.data.images import read_photo
from declip_pl.data.layout import LAYOUTS, REAL
from declip_pl.data.layouts.listed import WHOLE, ListedLayout, Placed

FORGED = "splicing-"
HALF = 128


@LAYOUTS.register("dso1")
class Dso1Layout(ListedLayout):
    """DSO-1, a part of the TIFS database."""

    facts = DataSetFacts(
        title="DSO-1",
        source="de Carvalho et al., IEEE TIFS 2013",
        layout="ROOT/DSO-1/{splicing,normal}-N.png and ROOT/DSO-1-Fake-Images-Masks/splicing-N.png",
        masks="black",
        link="https://recodbr.wordpress.com/code-n-data/#dso1_dsi1",
        splits=WHOLE,
        counts={"splicing": 100, REAL: 100},
        traps=("black is fake, other than in most sets",),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the normal and the spliced photos."""
        listed = self.photos(self.folder("DSO-1"))
        fakes = {k: p for k, p in listed.photos.items() if k.startswith(FORGED)}
        reals = {k: p for k, p in listed.photos.items() if k not in fakes}
        yield from self.reals(Stems(reals, listed.problems, []))
        masks = self.photos(self.folder("DSO-1-Fake-Images-Masks"))
        yield from self.fakes("splicing", Stems(fakes, [], []), masks, str, str)
        yield from self.unused("splicing", masks, fakes)

    def read_mask(self, path: Path) -> NDArray[np.bool_]:
        """Return what is black, ``[H, W]``."""
        return np.asarray(read_photo(path).mean(axis=-1) < HALF)
