"""AutoSplice: regions of news photos that DALL-E 2 painted."""

from collections.abc import Iterator

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.layout import LAYOUTS, REAL
from declip_pl.data.layouts.listed import WHOLE, ListedLayout, Placed

QUALITIES = (75, 90, 100)


@LAYOUTS.register("autosplice")
class AutoSpliceLayout(ListedLayout):
    """AutoSplice; the JPEG qualities of the forgeries stand for generators."""

    facts = DataSetFacts(
        title="AutoSplice",
        source="Jia et al., CVPR Workshops 2023",
        layout="ROOT/Authentic/NAME.jpg, ROOT/Forged_JPEG{75,90,100}/NAME_k.jpg and "
        "ROOT/Mask/NAME_mask.png",
        masks="white",
        link="https://github.com/shanface33/AutoSplice_Dataset",
        licence="academic research, noncommercial",
        access="a form on the linked page; the link comes by e-mail",
        splits=WHOLE,
        counts={**{f"dalle2-jpeg{quality}": 3621 for quality in QUALITIES}, REAL: 2273},
        traps=("all forgeries of a photo share its mask",),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the authentic photos and the forgeries of each JPEG quality."""
        yield from self.reals(self.photos(self.folder("Authentic")))
        masks = self.photos(self.folder("Mask"))
        found = {q: self.find_folder(f"Forged_JPEG{q}") for q in QUALITIES}
        if not any(found.values()):
            self.folder(*(f"Forged_JPEG{quality}" for quality in QUALITIES))
        used: set[str] = set()
        first = ""
        for quality, folder in found.items():
            if folder:
                listed, made = self.photos(folder), f"dalle2-jpeg{quality}"
                first = first or made
                used |= {mask_of(stem) for stem in listed.photos}
                yield from self.fakes(made, listed, masks, mask_of, source_of, str)
        yield from self.unused(first, masks, used)


def source_of(stem: str) -> str:
    """Return the authentic photo's name of a forgery's, ``NAME_k``."""
    return stem.rpartition("_")[0]


def mask_of(stem: str) -> str:
    """Return the mask's name of a forgery's."""
    return f"{source_of(stem)}_mask"
