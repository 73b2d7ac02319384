"""TGIF and TGIF2: objects of COCO photos that text-guided inpainting replaced."""

import re
from collections.abc import Iterator
from dataclasses import replace

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import Stems, subfolders
from declip_pl.data.layout import LAYOUTS, Split
from declip_pl.data.layouts.listed import ListedLayout, Placed
from declip_pl.errors import UserError

FOLDERS: dict[str, Split] = {"training": "train", "validation": "valid", "testing": "test"}
FORGED = re.compile(
    r"(?P<id>\d+)_mask_(?P<kind>[a-z]+)\.png(?P<padded>_ps_mask\.png)?"
    r"_(?P<tool>[A-Za-z0-9.]+)(?:-(?P<size>\d+))?_(?P<version>\d+)$"
)
"""A forgery's name: COCO number, kind of mask, tool, the side it was painted at, and version."""
ORIGINAL = re.compile(r"(\d+)(?:_orig)?(?:_(\d+))?$")
SPLICED, WHOLE = "-sp", "-fr"


@LAYOUTS.register("tgif")
class TgifLayout(ListedLayout):
    """TGIF and TGIF2; each folder of forgeries is a generator."""

    facts = DataSetFacts(
        title="TGIF, TGIF2",
        source="IDLab, Ghent University and imec: TGIF, Text-Guided Inpainting Forgery Dataset",
        layout="ROOT/{masks,original,sd2-sp,ps-sp,sd2-fr,sdxl-fr,flux1*-{sp,fr}}/"
        "{training,validation,testing}/",
        masks="white",
        link="https://github.com/IDLabMedia/tgif-dataset",
        licence="CC BY-SA 4.0 (photos of COCO: CC BY 4.0)",
        splits="training, validation, testing",
        counts=dict.fromkeys(("ps-sp", "sd2-fr", "sd2-sp", "sdxl-fr"), 18744),
        traps=(
            "-sp: the painted region was put into the original; -fr: the whole picture was made "
            "anew. They are generators of their own",
            "each has the mask of its own size: ID_mask_KIND.png_ps_mask.png of -sp, "
            "ID_mask_KIND_512.png of sd2-512, ID_mask_KIND_1024.png of sdxl-1024",
            "originals may come in three sizes (orig, orig_512, orig_1024)",
        ),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the originals and the forgeries of all splits."""
        forged = [n for n in subfolders(self.root) if n.lower().endswith((SPLICED, WHOLE))]
        if not forged:
            raise UserError(
                f"{self.root}: no folder ends with {SPLICED} or {WHOLE}; expected "
                f"{self.facts.layout}"
            )
        masks, original = self.folder("masks"), self.find_folder("original", "orig")
        for part, split in FOLDERS.items():
            if original:
                for placed in self.reals(self.photos(original / part, flat=True), source_of):
                    yield split, replace(placed[1], name=original_name(placed[1].image.stem))
            truth = self.photos(masks / part, flat=True)
            for name in forged:
                listed = self.photos(self.root / name / part, flat=True)
                made = name.lower()
                for placed in self.fakes(made, listed, truth, mask_of, source_of, name_of):
                    yield split, placed[1]
            yield from ((split, s) for _, s in self.unusable(made, Stems({}, truth.problems, [])))


def mask_of(stem: str) -> str:
    """Return the mask's name of a forgery's: of the size that the forgery has."""
    found = FORGED.match(stem)
    if not found:
        return f"{stem} (expected a name such as ID_mask_segm.png_sd2-512_0)"
    mask = f"{found['id']}_mask_{found['kind']}"
    if found["padded"] or found["tool"] == "ps":
        return f"{mask}.png_ps_mask"
    return f"{mask}_{found['size']}" if found["size"] else mask


def name_of(stem: str) -> str:
    """Return one name for the forgeries of one mask and version, whatever the generator."""
    found = FORGED.match(stem)
    return f"{found['id']}-{found['kind']}-{found['version']}" if found else stem


def source_of(stem: str) -> str:
    """Return the COCO number in a name."""
    return stem.partition("_")[0]


def original_name(stem: str) -> str:
    """Return an original's name: its COCO number, and its size unless that is the full one."""
    found = ORIGINAL.match(stem)
    return "-".join(filter(None, found.groups())) if found else stem
