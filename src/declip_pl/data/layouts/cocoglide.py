"""CocoGlide: objects in COCO photos that GLIDE painted."""

import re
from collections.abc import Iterator

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import Stems
from declip_pl.data.layout import LAYOUTS, REAL
from declip_pl.data.layouts.listed import WHOLE, ListedLayout, Placed

NUMBER = re.compile(r"_(\d+)(?:_up|_mask)?$")


@LAYOUTS.register("cocoglide")
class CocoGlideLayout(ListedLayout):
    """CocoGlide; photo, mask and original are paired by the number of the COCO photo."""

    facts = DataSetFacts(
        title="CocoGlide",
        source="Guillaro et al., CVPR 2023 (TruFor)",
        layout="ROOT/fake/glide_inpainting_val2017_ID_up.png, ROOT/mask/CATEGORY_ID_mask.png and "
        "ROOT/real/CATEGORY_ID.png",
        masks="white",
        link="https://www.grip.unina.it/download/prog/TruFor/CocoGlide.zip",
        licence="informational and nonprofit purposes",
        splits=WHOLE,
        counts={"glide": 512, REAL: 512},
        traps=(
            "the three names of a photo have nothing but its COCO number in common",
            "names of categories hold spaces",
            "photos have 256 px",
        ),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the originals and their forgeries."""
        parts = ("real", "fake", "mask")
        reals, fakes, masks = (by_number(self.photos(self.folder(name))) for name in parts)
        yield from self.reals(reals)
        yield from self.fakes("glide", fakes, masks, str, str)
        yield from self.unused("glide", masks, fakes.photos)


def by_number(listed: Stems) -> Stems:
    """Return photos by their COCO number; those of which two have one are a problem."""
    found = Stems({}, list(listed.problems), listed.left_out)
    for stem, path in listed.photos.items():
        number = NUMBER.search(stem)
        if not number:
            found.problems.append((path, f"{path}: there is no COCO number in its name"))
        elif (there := found.photos.setdefault(number[1], path)) != path:
            found.problems.append((path, f"{path}: the same COCO number as {there}"))
    return found
