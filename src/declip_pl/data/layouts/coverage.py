"""COVERAGE: copied objects beside similar genuine ones."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import Stems
from declip_pl.data.images import read_photo
from declip_pl.data.layout import LAYOUTS, REAL
from declip_pl.data.layouts.listed import WHOLE, ListedLayout, Placed

LEVEL = 120
FORGED, MASK = "t", "forged"


@LAYOUTS.register("coverage")
class CoverageLayout(ListedLayout):
    """COVERAGE; the forgery of photo N is Nt."""

    facts = DataSetFacts(
        title="COVERAGE",
        source="Wen et al., ICIP 2016",
        layout="ROOT/image/N.tif (real), ROOT/image/Nt.tif (fake) and ROOT/mask/Nforged.tif",
        masks=f"grey over {LEVEL}",
        link="https://github.com/wenbihan/coverage",
        licence="copyrighted, noncommercial research",
        splits=WHOLE,
        counts={"copy-move": 100, REAL: 100},
        defects=("9 masks have another size than their photo: 41, 48, 55 to 59, 61 and 95",),
        traps=("Ncopy.tif and Npaste.tif are no masks of what is fake",),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the photos and their forgeries."""
        listed = self.photos(self.folder("image"))
        fakes = {k.removesuffix(FORGED): p for k, p in listed.photos.items() if k.endswith(FORGED)}
        reals = {k: p for k, p in listed.photos.items() if not k.endswith(FORGED)}
        yield from self.reals(Stems(reals, listed.problems, []))
        masks = self.photos(self.folder("mask"))
        forged = {k.removesuffix(MASK): p for k, p in masks.photos.items() if k.endswith(MASK)}
        photos, truth = Stems(fakes, [], []), Stems(forged, masks.problems, [])
        yield from self.fakes("copy-move", photos, truth, str, str)
        yield from self.unused("copy-move", truth, fakes)

    def read_mask(self, path: Path) -> NDArray[np.bool_]:
        """Return what is brighter than :data:`LEVEL`, ``[H, W]``."""
        return np.asarray(read_photo(path).mean(axis=-1) > LEVEL)
