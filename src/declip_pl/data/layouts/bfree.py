"""B-Free's training set: COCO photos, regenerated and inpainted by Stable Diffusion 2.1."""

from collections.abc import Iterator
from pathlib import Path

from declip_pl.csv_files import read_csv
from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import Stems, subfolders
from declip_pl.data.layout import LAYOUTS, REAL, Sample, Split, expected
from declip_pl.data.layouts.listed import ListedLayout, Placed
from declip_pl.data.masks import wholly_fake
from declip_pl.errors import UserError

LISTS: dict[Split, str] = {"train": "train_list.csv", "valid": "valid_list.csv"}
PREFIX = "SD2.1_"
RECONSTRUCTED = "selfconditioned"
BOXED = "inpainted_diffcat"
KINDS = (RECONSTRUCTED, "inpainted_samecat", BOXED)
MADE = tuple(f"{kind}{pasted}" for kind in KINDS for pasted in ("", "_origBG"))


@LAYOUTS.register("bfree")
class BFreeLayout(ListedLayout):
    """B-Free's training set; each folder of made pictures is a generator."""

    facts = DataSetFacts(
        title="B-Free training set",
        source="Guillaro et al., CVPR 2025 (arXiv 2412.17671)",
        layout="ROOT/COCO_real_512/, ROOT/SD2.1_{selfconditioned,inpainted_samecat,"
        "inpainted_diffcat}[_origBG]/, ROOT/mask/, ROOT/bbox/ and ROOT/{train,valid}_list.csv with "
        "a column id",
        masks="white",
        link="https://www.grip.unina.it/download/prog/B-Free/training_data/",
        licence="informational and nonprofit purposes",
        counts=dict.fromkeys((*MADE, REAL), 51517),
        splits="train, valid: it can be trained on, not tested on",
        traps=(
            "inpainted_samecat has its mask in mask/, inpainted_diffcat in bbox/",
            "_origBG is the same picture with the original outside the mask: the two are a pair",
            "selfconditioned is fake as a whole and has no mask",
        ),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the photos of both lists."""
        self.folder("COCO_real_512")  # an error that says what is expected
        there = {
            name: self.photos(self.root / name)
            for name in subfolders(self.root)
            if name.startswith(PREFIX) or name in ("COCO_real_512", "mask", "bbox")
        }
        for listed in there.values():
            yield from self.unusable(REAL, listed)
        masks = {kind: there.get(kind, Stems({}, [], [])) for kind in ("mask", "bbox")}
        for split, file in LISTS.items():
            for number in self._numbers(self.root / file):
                for name, listed in there.items():
                    if name not in masks:
                        yield split, self._sample(name, number, listed, masks)

    def _numbers(self, path: Path) -> Iterator[str]:
        if not path.is_file():
            raise UserError(f"there is no file {path}{expected(self)}")
        for number, row in read_csv(path):
            if "id" not in row:
                raise UserError(f"{path}, line {number}: there is no column id{expected(self)}")
            yield row["id"]

    def _sample(self, folder: str, number: str, listed: Stems, masks: dict[str, Stems]) -> Sample:
        made = folder.removeprefix(PREFIX) if folder.startswith(PREFIX) else REAL
        image = listed.photos.get(number)
        if image is None:
            missing = self.root / folder / number
            return Sample("", missing, None, made, f"there is no photo {missing}.*", source=number)
        if made == REAL:
            return Sample(number, image, None, REAL, source=number)
        if made == RECONSTRUCTED:
            return Sample(number, image, image, made, None, wholly_fake, number)
        kind = "bbox" if made.startswith(BOXED) else "mask"
        mask = masks[kind].photos.get(number)
        problem = None if mask else f"{image}: there is no mask {self.root / kind / number}.*"
        return Sample(number, image, mask, made, problem, source=number)
