"""The Columbia set: uncompressed spliced photos of four cameras."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import Stems
from declip_pl.data.images import read_photo
from declip_pl.data.layout import LAYOUTS, REAL
from declip_pl.data.layouts.listed import WHOLE, ListedLayout, Placed

GREEN = 120
"""Level above which green means spliced; the masks are lossy."""

MASK = "_edgemask"


@LAYOUTS.register("columbia")
class ColumbiaLayout(ListedLayout):
    """The Columbia uncompressed image splicing detection set."""

    facts = DataSetFacts(
        title="Columbia Uncompressed Image Splicing Detection",
        source="Hsu and Chang, ICME 2006",
        layout="ROOT/4cam_auth/*.tif, ROOT/4cam_splc/*.tif and "
        "ROOT/4cam_splc/edgemask/NAME_edgemask.jpg",
        masks=f"green over {GREEN}",
        link="https://www.ee.columbia.edu/ln/dvmm/downloads/authsplcuncmp/",
        access="a form on the linked page (dlform.html)",
        splits=WHOLE,
        counts={"splicing": 180, REAL: 183},
        traps=(
            "masks are in colour: green is one camera, red the other, bright at the edge between; "
            "green is taken for fake, as the public loaders do",
        ),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the authentic and the spliced photos."""
        yield from self.reals(self._without_masks(self.photos(self.folder("4cam_auth"), flat=True)))
        everything = self.photos(self.folder("4cam_splc"), flat=True)
        spliced = self._without_masks(everything)
        there = {k.removesuffix(MASK): p for k, p in everything.photos.items() if k.endswith(MASK)}
        masks = Stems(there, [], [])
        yield from self.fakes("splicing", spliced, masks, str, str)
        yield from self.unused("splicing", masks, spliced.photos)

    def read_mask(self, path: Path) -> NDArray[np.bool_]:
        """Return what is green, ``[H, W]``."""
        return np.asarray(read_photo(path)[..., 1] > GREEN)

    @staticmethod
    def _without_masks(listed: Stems) -> Stems:
        photos = {stem: path for stem, path in listed.photos.items() if not stem.endswith(MASK)}
        return Stems(photos, listed.problems, listed.left_out)
