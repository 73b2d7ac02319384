"""Which pixels of a photo are filled: drawn shapes, masks from files, or a user's own function."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from declip_pl.data.folders import walk
from declip_pl.data.forgeries.regions import SHAPES, random_region
from declip_pl.data.inpainting.doors import MASKS, Mask, Pixels, call, kind_of
from declip_pl.data.inpainting.photos import Photo
from declip_pl.data.layout import SPLITS, build_layout, mask_rule
from declip_pl.data.masks import MaskRule, Polarity, read_mask
from declip_pl.errors import UserError
from declip_pl.files import expanded, sha256
from declip_pl.parts import code_of
from declip_pl.records import json_hash


class Hole(NamedTuple):
    """A mask, and in a word where it is from."""

    mask: Mask
    about: str


class Holes(Protocol):
    """What chooses masks."""

    def draw(self, item: Photo, photo: Pixels, rng: np.random.Generator) -> Hole | None:
        """Return a photo's mask, of the photo's size; None where there is none."""

    def identity(self) -> dict[str, str]:
        """Return what decides on the masks."""


@dataclass(frozen=True)
class Drawn:
    """One to three random shapes.

    Attributes:
        kinds: Some of :data:`declip_pl.data.forgeries.regions.SHAPES`.
        area: Bounds on the mask's share of the photo.
    """

    kinds: tuple[str, ...]
    area: tuple[float, float]

    def draw(self, item: Photo, photo: Pixels, rng: np.random.Generator) -> Hole:
        """Return a mask of random shapes."""
        region, drawn = random_region(photo.shape[:2], rng, self.kinds, self.area)
        return Hole(region, "+".join(sorted(set(drawn))))

    def identity(self) -> dict[str, str]:
        """Return kinds and bounds."""
        return {"shapes": "+".join(self.kinds), "area": f"{self.area[0]:g}-{self.area[1]:g}"}


@dataclass(frozen=True)
class FromFiles:
    """Masks of a folder or of a data set.

    Attributes:
        files: The masks, by what they are looked up by: a photo's name or, if none is paired, its
            split.
        paired: Whether each photo has masks of its own.
        rule: How they are read.
        sha256: Over all of them.
    """

    files: Mapping[str, Sequence[Path]]
    paired: bool
    rule: MaskRule
    sha256: str

    def draw(self, item: Photo, photo: Pixels, rng: np.random.Generator) -> Hole | None:
        """Return one of the masks, at the photo's size; None if no pixel is left of it."""
        choice = self.files[item.key if self.paired else item.split]
        path = choice[int(rng.integers(len(choice)))]
        mask = read_mask(path, self.rule).astype(np.uint8)
        size = (photo.shape[1], photo.shape[0])
        resized = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        return Hole(np.asarray(resized) > 0, path.name)

    def identity(self) -> dict[str, str]:
        """Return a hash of all masks and how they are used."""
        return {"files": self.sha256, "paired": str(self.paired), "rule": str(self.rule)}


class Own:
    """A user's function or class of :data:`declip_pl.data.inpainting.doors.MASKS`.

    Args:
        name: A registered word or a class path.

    Raises:
        UserError: If there is none of that name, or it may not be used.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._built: Any = None
        MASKS.find(name)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process builds it of."""
        return {"_name": self._name, "_built": None}

    def draw(self, item: Photo, photo: Pixels, rng: np.random.Generator) -> Hole | None:
        """Return what the user's code returns.

        Raises:
            UserError: If that fails or is no mask.
        """
        if self._built is None:
            part = MASKS.find(self._name)
            self._built = part() if isinstance(part, type) else part
        found = call(self._name, partial(self._built, photo.copy(), rng))
        if found is None:
            return None
        expected = isinstance(found, np.ndarray) and found.dtype == bool
        if not (expected and found.shape == photo.shape[:2]):
            raise UserError(
                f"{self._name}: expected a bool array {photo.shape[:2]}, found {kind_of(found)}"
            )
        return Hole(found, self._name)

    def identity(self) -> dict[str, str]:
        """Return its name and a hash of its code."""
        return {"own": self._name, "code": str(code_of(MASKS.find(self._name)))}


def choose_holes(
    said: str, area: tuple[float, float], polarity: Polarity, photos: Sequence[Photo]
) -> Holes:
    """Return what chooses the masks.

    Args:
        said: Shapes joined by ``+``, a source of the user's, or a folder.
        area: Bounds on the share of drawn shapes.
        polarity: Which grey value of masks in a folder means fake.
        photos: All photos.

    Raises:
        UserError: If it is none of these, or a folder has masks for some of the photos only.
    """
    words = said.split("+")
    if set(words) <= set(SHAPES):
        return Drawn(tuple(words), area)
    if MASKS.knows(said):
        return Own(said)
    folder = Path(expanded(said))
    if not folder.is_dir():
        own = ", ".join(MASKS.names())
        raise UserError(
            f"--masks {said}: expected some of {'+'.join(SHAPES)}, a folder of masks, a data set "
            f"in Dolos' layout, or a source of your own (DECLIP_PARTS){': ' * bool(own)}{own}"
        )
    return _from_folder(folder, polarity, photos)


def _from_folder(folder: Path, polarity: Polarity, photos: Sequence[Photo]) -> FromFiles:
    rule: MaskRule = polarity
    by_key: dict[str, list[Path]] = defaultdict(list)
    by_split: dict[str, list[Path]] = defaultdict(list)
    if (folder / "fake").is_dir():
        layout = build_layout("dolos", folder)
        rule = mask_rule(layout)
        for split in SPLITS:
            for sample in layout.samples(split):
                if sample.mask is not None and sample.problem is None:
                    by_key[f"{split}/{sample.name}"].append(sample.mask)
                    by_split[split].append(sample.mask)
    else:
        for path in walk(folder).photos:
            name = path.relative_to(folder).with_suffix("").as_posix()
            first = name.partition("/")[0]
            for split in [first] if first in SPLITS else SPLITS:
                by_key[name if first in SPLITS else f"{split}/{name}"].append(path)
                by_split[split].append(path)
    files = sorted({path for paths in by_split.values() for path in paths})
    if not files:
        raise UserError(f"{folder} holds no mask")
    missing = [photo.key for photo in photos if photo.key not in by_key]
    paired = len(missing) < len(photos)
    if paired and missing:
        raise UserError(
            f"{folder} has masks for {len(photos) - len(missing)} of {len(photos)} photos and none "
            f"named {missing[0]}.*: name all of them like the photos, or none"
        )
    lacking = {photo.split for photo in photos} - by_split.keys()
    if lacking:
        raise UserError(f"{folder} holds no mask for {' and '.join(sorted(lacking))}")
    how = "each photo has its own" if paired else "none is named like a photo: drawn at random"
    print(f"masks: {len(files)} in {folder}; {how}")
    digest = json_hash([sha256(path) for path in files])
    return FromFiles(dict(by_key if paired else by_split), paired, rule, digest)
