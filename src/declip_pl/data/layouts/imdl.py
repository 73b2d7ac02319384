"""IMDL-BenCo's two forms, ``ManiDataset`` and ``JsonDataset``, and BR-Gen, which has the first."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import Stems
from declip_pl.data.images import read_photo
from declip_pl.data.layout import LAYOUTS, REAL, Sample, Split, expected
from declip_pl.data.layouts.listed import BY_HASH, ListedLayout, Placed, Sharing
from declip_pl.errors import UserError

TAMPERED = "tampered"
HALF = 127.5
ENDINGS = ("", "_gt", "_mask", "_forged", "_edgemask")
"""What may stand behind a photo's name in its mask's."""
PARTS: dict[str, Split] = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
"""What folders and files of splits are called."""
NEGATIVE = "Negative"
DOCUMENTATION = "https://scu-zjz.github.io/IMDLBenCo-doc/"
OWN_SPLITS = "its own, or "


class ImdlLayout(ListedLayout):
    """What both forms share: white is fake, half-way over the mean of the channels."""

    shared: Sharing = "hashed"

    def read_mask(self, path: Path) -> NDArray[np.bool_]:
        """Return where the mean of the channels is over one half, ``[H, W]``."""
        return np.asarray(read_photo(path).mean(axis=-1) > HALF)


@LAYOUTS.register("imdl-mani")
class ManiLayout(ImdlLayout):
    """``ManiDataset``: photos and masks in two folders, paired by name."""

    facts = DataSetFacts(
        title="any set in the form of IMDL-BenCo's ManiDataset",
        source="IMDL-BenCo",
        layout="ROOT/Tp/, ROOT/Gt/ and, if there are untouched photos, ROOT/Au/; or these in "
        "ROOT/{train,valid,test}/",
        masks="white: mean of the channels over 127.5",
        link=DOCUMENTATION,
        splits=OWN_SPLITS + BY_HASH,
        traps=(
            "the public loader pairs photos and masks by their place in the sorted folders; here "
            "they are paired by name (NAME, NAME_gt, NAME_mask, NAME_forged), and by place only "
            "where no name fits, which is said",
        ),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the photos of all splits, or of the one folder."""
        parts = {name: self.find_folder(name) for name in PARTS}
        if not any(parts.values()) or self.find_folder("Tp"):
            yield from self._listed_in(self.root)
            return
        for name, folder in parts.items():
            if folder:
                yield from ((PARTS[name], sample) for _, sample in self._listed_in(folder))

    def _listed_in(self, folder: Path) -> Iterator[Placed]:
        if authentic := self.find_folder("Au", inside=folder):
            yield from self.reals(self.photos(authentic, flat=True))
        photos = self.photos(self.folder("Tp", inside=folder), flat=True)
        masks = self.photos(self.folder("Gt", inside=folder), flat=True)
        mask_of = self._paired(folder, photos, masks)
        yield from self.fakes(TAMPERED, photos, masks, lambda stem: mask_of.get(stem, stem), str)
        yield from self.unused(TAMPERED, masks, mask_of.values())

    def _paired(self, folder: Path, photos: Stems, masks: Stems) -> dict[str, str]:
        """Return the mask's name of each photo: by name, or by place where no name fits."""
        ends = {
            stem: [stem + end for end in ENDINGS if stem + end in masks.photos]
            for stem in photos.photos
        }
        by_name = {stem: found[0] for stem, found in ends.items() if found}
        if by_name or len(photos.photos) != len(masks.photos) or not photos.photos:
            return by_name
        in_order = [
            sorted(listed.photos, key=lambda stem, of=listed: of.photos[stem].name)  # type: ignore[misc]
            for listed in (photos, masks)
        ]
        by_place = dict(zip(*in_order, strict=True))
        first = next(iter(by_place))
        self._guesses.append(
            f"{folder}: no photo in Tp has the name of a mask in Gt, so they are paired by their "
            f"place in the sorted folders, {first} with {by_place[first]} and so on: look whether "
            "that is right"
        )
        return by_place


@LAYOUTS.register("brgen")
class BrGenLayout(ManiLayout):
    """BR-Gen, which comes as a ``ManiDataset``."""

    facts = DataSetFacts(
        title="BR-Gen",
        source="Cai et al., arXiv 2504.11922",
        layout=ManiLayout.facts.layout,
        masks=ManiLayout.facts.masks,
        link="https://github.com/clpbc/BR-Gen",
        splits=ManiLayout.facts.splits,
        counts={TAMPERED: 150000},
        traps=ManiLayout.facts.traps,
    )


@LAYOUTS.register("imdl-json")
class JsonLayout(ImdlLayout):
    """``JsonDataset``: a list of photos and masks, or a folder of such lists."""

    facts = DataSetFacts(
        title="any set in the form of IMDL-BenCo's JsonDataset",
        source="IMDL-BenCo",
        layout='a JSON file [["photo", "mask"], ["photo", "Negative"], ...], or a folder of '
        "{train,valid,test}.json",
        masks="white: mean of the channels over 127.5",
        link=DOCUMENTATION,
        splits=OWN_SPLITS + BY_HASH,
        traps=(
            "Negative is an untouched photo",
            "paths are relative to the file here, to the current folder in the public loader",
        ),
    )

    def listed(self) -> Iterator[Placed]:
        """Yield the photos of the file, or of all files."""
        if not self.root.is_dir():
            yield from self._listed_in(self.root, None)
            return
        files = {name: self.root / f"{name}.json" for name in PARTS}
        if not any(file.is_file() for file in files.values()):
            raise UserError(f"{self.root}: there is no train.json or test.json{expected(self)}")
        for name, file in files.items():
            if file.is_file():
                yield from self._listed_in(file, PARTS[name])

    def _listed_in(self, file: Path, split: Split | None) -> Iterator[Placed]:
        for number, entry in enumerate(read_entries(file, expected(self)), 1):
            image, mask = (file.parent / part for part in entry)
            untouched = entry[1] == NEGATIVE
            files = [image] if untouched else [image, mask]
            missing = [path for path in files if not path.is_file()]
            problem = f"{file}, entry {number}: there is no file {missing[0]}" if missing else None
            name = Path(entry[0]).with_suffix("").as_posix()
            made = REAL if untouched else TAMPERED
            yield split, Sample(name, image, None if untouched else mask, made, problem)


def read_entries(file: Path, help_: str) -> list[list[str]]:
    """Return the pairs in a file.

    Raises:
        UserError: If it can't be read, is no JSON, or holds something else; the line or the entry
            is named.
    """
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: no JSON ({error.msg}){help_}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file} can't be read ({error}){help_}") from error
    if not isinstance(found, list):
        raise UserError(f"{file} holds no list{help_}")
    for number, entry in enumerate(found, 1):
        strings = isinstance(entry, list) and all(isinstance(part, str) for part in entry)
        if not (strings and len(entry) == 2 and all(entry) and "\0" not in "".join(entry)):  # noqa: PLR2004
            raise UserError(f"{file}, entry {number} is {entry!r}, no pair of names{help_}")
    return found
