"""CASIA v1 and v2: spliced photos and copied regions."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.images import read_photo
from declip_pl.data.layout import LAYOUTS, REAL
from declip_pl.data.layouts.listed import BY_HASH, WHOLE, ListedLayout, Placed, Sharing

SPLICING, COPY_MOVE, OTHER = "splicing", "copy-move", "tampered"

FORGED = re.compile(r"(?:Sp|Tp)_([DS])_.*_[a-z]{3}\d+_([a-z]{3}\d+)_\d+$")
"""The kind, then (behind the photo that the region is from) the photo that it was put into."""
AUTHENTIC = re.compile(r"Au_([a-z]{3})_(\d+)$")
MASK = re.compile(r"_gt\d?$")

NAMES = (
    "the letter behind Sp_ or Tp_ tells the kind: D is spliced from another photo, S copied within "
    "it; the second photo in a name is the one that the region was put into"
)


class CasiaLayout(ListedLayout):
    """A version of CASIA; splicing and copied regions stand for generators."""

    def listed(self) -> Iterator[Placed]:
        """Yield the authentic photos and the forgeries."""
        if folder := self.find_folder("Au"):
            yield from self.reals(self.photos(folder, flat=True), authentic_source)
        truth = self.folder("groundtruth", *(f"CASIA {n} groundtruth" for n in ("1.0", "2", "2.0")))
        masks = self.photos(truth, flat=True)
        masks.photos = {MASK.sub("", stem): path for stem, path in masks.photos.items()}
        photos = self.photos(self.folder("Tp", "Modified Tp"), flat=True)
        yield from self.fakes(kind_of, photos, masks, str, forged_source)
        yield from self.unused(kind_of, masks, photos.photos)

    def read_mask(self, path: Path) -> NDArray[np.bool_]:
        """Return what is not black, ``[H, W]``."""
        return np.asarray(read_photo(path).max(axis=-1) > 0)


@LAYOUTS.register("casia1")
class Casia1Layout(CasiaLayout):
    """CASIA v1."""

    facts = DataSetFacts(
        title="CASIA v1.0",
        source="Dong, Wang and Tan, ChinaSIP 2013; masks by Pham et al., Symmetry 2019",
        layout="ROOT/Au/, ROOT/Tp/{CM,Sp}/ and ROOT/CASIA 1.0 groundtruth/{CM,Sp}/NAME_gt.png (or "
        "ROOT/groundtruth/)",
        masks="all that is not black",
        link="https://github.com/namtpham/casia1groundtruth",
        splits=WHOLE,
        counts={SPLICING: 461, COPY_MOVE: 459, REAL: 800},
        defects=(
            "Sp_D_NRN_A_cha0011_sec0011_0542 has no mask; it is left out",
            "dozens of names of the original photos are wrong; the masks have the corrected names",
        ),
        traps=(NAMES,),
    )
    without_mask = "Sp_D_NRN_A_cha0011_sec0011_0542"

    def listed(self) -> Iterator[Placed]:
        """Yield all photos but the one without mask, if it still has none."""
        for placed in super().listed():
            sample = placed[1]
            if sample.problem and sample.image.stem == self.without_mask:
                self._guesses.append(f"{sample.problem}: a known defect, it is left out")
            else:
                yield placed


@LAYOUTS.register("casia2")
class Casia2Layout(CasiaLayout):
    """CASIA v2."""

    facts = DataSetFacts(
        title="CASIA v2.0",
        source="Dong, Wang and Tan, ChinaSIP 2013; masks by Pham et al., Symmetry 2019",
        layout="ROOT/Au/, ROOT/Tp/ and ROOT/CASIA 2 Groundtruth/NAME_gt.png (or ROOT/groundtruth/)",
        masks="all that is not black",
        link="https://github.com/namtpham/casia2groundtruth",
        splits=BY_HASH,
        counts={SPLICING: 1828, COPY_MOVE: 3295, REAL: 7491},
        defects=(
            "17 masks have another size than their photo (corrected: "
            "https://github.com/SunnyHaze/CASIA2.0-Corrected-Groundtruth, layout imdl-mani)",
            "99 original names have the wrong kind; the masks have the corrected names",
            "one mask is called ..._20094_gt3; it is taken",
        ),
        traps=(NAMES,),
    )
    shared: Sharing = "hashed"


def kind_of(stem: str) -> str:
    """Return what was done, by a forgery's name."""
    found = FORGED.match(stem)
    return OTHER if not found else SPLICING if found[1] == "D" else COPY_MOVE


def forged_source(stem: str) -> str:
    """Return the photo that a region was put into, by a forgery's name."""
    found = FORGED.match(stem)
    return found[2] if found else stem


def authentic_source(stem: str) -> str:
    """Return what forgeries call an authentic photo."""
    found = AUTHENTIC.match(stem)
    return f"{found[1]}{found[2]}" if found else stem
