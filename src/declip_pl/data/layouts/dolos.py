"""Dolos, the paper's data set, COCO-SD and everything laid out like them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import Stems, by_stem, subfolders
from declip_pl.data.layout import LAYOUTS, REAL, SPLITS, Sample, Split
from declip_pl.data.masks import Polarity
from declip_pl.errors import UserError

Source = Literal["celebahq", "ffhq"]
SOURCES: tuple[Source, ...] = ("celebahq", "ffhq")
"""The parts of Dolos."""

LAYOUT = (
    "Dolos' layout: ROOT/fake/<generator>/{images,masks}/{train,valid,test}/ and "
    "ROOT/real/{train,valid,test}/"
)

DOLOS = DataSetFacts(
    title="Dolos",
    source="Țânțaru, Oneață and Oneață, WACV 2024 (arXiv 2311.04584)",
    layout=LAYOUT,
    masks="black",
    link="https://github.com/bit-ml/dolos",
    splits="train, valid, test",
    traps=(
        "a photo and its mask share their path below the split, whatever the suffix",
        "of a folder with the parts celebahq and ffhq celebahq is taken; SOURCE=ffhq is the other",
    ),
)

COCO_SD = DataSetFacts(
    title="COCO-SD",
    source="Smeu, Oneață and Oneață, WACV 2025 (arXiv 2409.08849)",
    layout=LAYOUT,
    masks="white",
    access="not public",
    splits="train, valid, test",
    traps=("laid out as Dolos, with the masks inverted",),
)


@LAYOUTS.register("dolos")
class DolosLayout:
    """Dolos, and everything laid out like it.

    Args:
        root: Folder that holds ``fake/`` and ``real/``, or the folder above (``dolos_data``).

    Raises:
        UserError: If it holds neither.
    """

    facts = DOLOS
    polarity: Polarity = "black"

    def __init__(self, root: Path) -> None:
        self.root = source_root(root)
        self._samples: dict[str, list[Sample]] = {}
        self._left_out: dict[str, list[Path]] = defaultdict(list)

    def generators(self) -> list[str]:
        """Return the names of the folders under ``fake/``, sorted."""
        return subfolders(self.root / "fake")

    def samples(self, split: Split) -> list[Sample]:
        """Return the photos of a split, those without a partner with their problem."""
        if split not in self._samples:
            found = [sample for name in self.generators() for sample in self._fakes(name, split)]
            self._samples[split] = found + self._reals(split)
        return self._samples[split]

    def left_out(self, generators: Sequence[str]) -> list[Path]:
        """Return what lies in the folders of some generators (or ``real``) and is no photo."""
        for split in SPLITS:
            self.samples(split)
        return sorted(path for name in set(generators) for path in self._left_out[name])

    def _reals(self, split: Split) -> list[Sample]:
        listed = self._by_stem(REAL, self.root / REAL / split)
        found = [Sample(stem, path, None, REAL) for stem, path in listed.photos.items()]
        return found + [Sample("", path, None, REAL, text) for path, text in listed.problems]

    def _fakes(self, name: str, split: Split) -> list[Sample]:
        images, masks = (self.root / "fake" / name / part / split for part in ("images", "masks"))
        listed, listed_masks = self._by_stem(name, images), self._by_stem(name, masks)
        photo_of, mask_of = listed.photos, listed_masks.photos
        problems = [*listed.problems, *listed_masks.problems]
        for stem in photo_of.keys() - mask_of:
            problems.append((photo_of[stem], f"{photo_of[stem]}: no mask at {masks / stem}.*"))
        for stem in mask_of.keys() - photo_of:
            problems.append((mask_of[stem], f"{mask_of[stem]}: no image at {images / stem}.*"))
        pairs = sorted(photo_of.keys() & mask_of)
        found = [Sample(stem, photo_of[stem], mask_of[stem], name) for stem in pairs]
        return found + [Sample("", path, None, name, text) for path, text in sorted(problems)]

    def _by_stem(self, generator: str, folder: Path) -> Stems:
        found = by_stem(folder)
        self._left_out[generator] += found.left_out
        return found


@LAYOUTS.register("coco-sd")
class CocoSdLayout(DolosLayout):
    """COCO-SD: Dolos' layout, white = fake."""

    facts = COCO_SD
    polarity: Polarity = "white"


def source_root(root: Path, source: Source | None = None) -> Path:
    """Return the folder that holds ``fake/``: ``root`` itself or ``root/source``.

    Args:
        root: A source, or the folder above several.
        source: One of :data:`SOURCES`; by default the first, where there is a choice.

    Raises:
        UserError: If there is no ``fake/``, or ``root`` is another source than the one named.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; expected {LAYOUT}")
    inner = root / (source or SOURCES[0])
    if (root / "fake").is_dir():
        if source and root.name in SOURCES and root.name != source:
            raise UserError(f"{root} is not {source}; name the folder above it, or {source}'s own")
        return root
    if (inner / "fake").is_dir():
        return inner
    raise UserError(f"neither {root} nor {inner} holds a folder 'fake'; expected {LAYOUT}")
