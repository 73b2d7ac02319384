"""IMD2020: photos that people manipulated and put on the web."""

from collections.abc import Iterator

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import Stems
from declip_pl.data.layout import LAYOUTS, REAL
from declip_pl.data.layouts.listed import WHOLE, ListedLayout, Placed

MASK, ORIGINAL = "_mask", "_orig"


@LAYOUTS.register("imd2020")
class Imd2020Layout(ListedLayout):
    """The real-life part of IMD2020: a folder for each original photo."""

    facts = DataSetFacts(
        title="IMD2020 (real-life manipulated images)",
        source="Novozámský, Mahdian and Saic, WACV Workshops 2020",
        layout="ROOT/ID/X.jpg, ROOT/ID/X_mask.png and ROOT/ID/ID_orig.jpg",
        masks="white",
        link="https://staff.utia.cas.cz/novozada/db/IMD2020.zip",
        splits=WHOLE,
        counts={"real-life": 2010, REAL: 414},
        defects=("the mask of z14/00030_fake has another size than its photo",),
        traps=("each folder holds several forgeries of one photo",),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the originals and the forgeries."""
        listed = self.photos(self.root)
        parts: dict[str, dict[str, str]] = {MASK: {}, ORIGINAL: {}, "": {}}
        for stem in listed.photos:
            end = next((end for end in (MASK, ORIGINAL) if stem.endswith(end)), "")
            parts[end][stem.removesuffix(end)] = stem
        masks, originals, fakes = (
            Stems({name: listed.photos[stem] for name, stem in parts[end].items()}, [], [])
            for end in (MASK, ORIGINAL, "")
        )
        originals.problems = listed.problems
        yield from self.reals(originals, folder_of)
        yield from self.fakes("real-life", fakes, masks, str, folder_of, str)
        yield from self.unused("real-life", masks, fakes.photos)


def folder_of(stem: str) -> str:
    """Return the folder that a photo lies in, which stands for the original."""
    return stem.rpartition("/")[0] or stem
