"""One photo: its mask, its fill, and the files that come of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from declip_pl.data.images import read_photo
from declip_pl.data.inpainting.doors import Mask, Pixels
from declip_pl.data.inpainting.holes import Holes
from declip_pl.data.inpainting.inpainter import Inpainter
from declip_pl.data.inpainting.photos import Photo
from declip_pl.data.inpainting.record import SUFFIX, Forged, Original, Settings
from declip_pl.errors import UserError
from declip_pl.files import atomic_path, sha256
from declip_pl.parts import Spec
from declip_pl.records import json_hash

UNCHANGED = "the inpainter changed nothing inside its mask"


@dataclass(frozen=True)
class Plan:
    """How data are made.

    Attributes:
        root: The folder.
        settings: Of all pictures in it.
        inpainter: Spec of what fills.
        holes: What chooses masks.
        prompts: To choose from; empty where the inpainter takes none.
        generators: Name of the generator for each kind of picture: ``paste``, ``regenerated``.
    """

    root: Path
    settings: Settings
    inpainter: Spec
    holes: Holes
    prompts: tuple[str, ...]
    generators: Mapping[str, str]

    def real(self, key: str) -> Path:
        """Return the file of an untouched photo."""
        return self.root / "real" / f"{key}{SUFFIX[self.settings.format]}"

    def image(self, generator: str, key: str) -> Path:
        """Return the file of a fake."""
        return self.root / "fake" / generator / f"images/{key}{SUFFIX[self.settings.format]}"

    def mask(self, generator: str, key: str) -> Path:
        """Return the file of a fake's mask."""
        return self.root / "fake" / generator / f"masks/{key}.png"


@dataclass(frozen=True)
class Result:
    """What came of a photo.

    Attributes:
        key: Its split and name.
        original: The untouched photo in the folder.
        fakes: By generator; none if it was left out.
        left_out: Why it was.
    """

    key: str
    original: Original
    fakes: dict[str, Forged]
    left_out: str | None = None


def forge_photo(plan: Plan, inpainter: Inpainter, item: Photo, other: Photo | None) -> Result:
    """Write a photo and its fakes.

    Args:
        plan: How.
        inpainter: What fills.
        item: The photo.
        other: Another one, for an inpainter that takes one.

    Raises:
        UserError: If a photo can't be read or changed meanwhile, or the inpainter fails.
    """
    photo = _read(item, plan.settings)
    quality = int(_rng(plan, item, "quality").integers(*_past(plan.settings.quality)))
    _save(photo, plan.real(item.key), plan.settings, quality)
    original = Original(item.path.name, item.sha256, sha256(plan.real(item.key)))
    hole = plan.holes.draw(item, photo, _rng(plan, item, "mask"))
    if hole is None or not hole.mask.any() or hole.mask.all():
        why = "there is no mask" if hole is None else "its mask is empty or covers all of it"
        return Result(item.key, original, {}, why)
    mask, saved = hole.mask, _resized_mask(hole.mask, plan.settings.resize)
    if not saved.any():
        return Result(item.key, original, {}, "nothing is left of its mask at that size")
    another = _read(other, plan.settings) if other else None
    prompt = _prompt(plan, item)
    picture = inpainter.fill(photo, mask, _rng(plan, item, "fill"), another, prompt)
    if picture is None:
        return Result(item.key, original, {}, "the inpainter gave no picture")
    if (picture == photo)[mask].all():  # a black sky, filled with black: a fake without a trace
        return Result(item.key, original, {}, UNCHANGED)
    pasted = np.where(mask[..., None], picture, photo)
    fakes = {}
    for kind, generator in plan.generators.items():
        image, mask_file = plan.image(generator, item.key), plan.mask(generator, item.key)
        with atomic_path(mask_file) as temporary:
            Image.fromarray(~saved).save(temporary, "PNG")  # black = fake, a bit a pixel
        _save(pasted if kind == "paste" else picture, image, plan.settings, quality)
        fakes[generator] = Forged(
            sha256=sha256(image),
            mask_sha256=sha256(mask_file),
            area=round(float(mask.mean()), 5),
            drawn=hole.about,
            pieces=cv2.connectedComponents(mask.astype(np.uint8))[0] - 1,
            inside=_difference(picture, photo, mask),
            outside=_difference(picture, photo, ~mask),
            prompt=prompt,
            other=other.sha256 if other else None,
        )
    return Result(item.key, original, fakes)


def _read(item: Photo, settings: Settings) -> Pixels:
    """Return a photo, made smaller if it is larger than wanted."""
    photo = read_photo(item.path)
    if sha256(item.path) != item.sha256:  # after it was decoded, from the kernel's memory
        raise UserError(f"{item.path} changed meanwhile; start again")
    return photo if settings.size is None else _resized(photo, settings.size / max(photo.shape[:2]))


def _resized(photo: Pixels, factor: float) -> Pixels:
    if factor >= 1:
        return photo
    size = _size(photo, factor)
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))


def _resized_mask(mask: Mask, factor: float) -> Mask:
    if factor >= 1:
        return mask
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize(_size(mask, factor), Image.Resampling.BOX)) > 127  # noqa: PLR2004


def _size(array: Pixels | Mask, factor: float) -> tuple[int, int]:
    return max(1, round(array.shape[1] * factor)), max(1, round(array.shape[0] * factor))


def _save(photo: Pixels, path: Path, settings: Settings, quality: int) -> None:
    image = Image.fromarray(_resized(photo, settings.resize))
    with atomic_path(path) as temporary:
        if settings.format == "jpeg":
            image.save(temporary, "JPEG", quality=quality, subsampling="4:4:4")
        else:
            image.save(temporary, "PNG", compress_level=1)  # a third of the time for 10 % of space


def _prompt(plan: Plan, item: Photo) -> str | None:
    if not plan.prompts:
        return None
    return plan.prompts[int(_rng(plan, item, "prompt").integers(len(plan.prompts)))]


def _rng(plan: Plan, item: Photo, what: str) -> np.random.Generator:
    """Return the random numbers of a photo, the same whatever else is made."""
    return np.random.default_rng(int(json_hash([plan.settings.seed, item.sha256, what])[:32], 16))


def _past(bounds: tuple[int, ...]) -> tuple[int, int]:
    return bounds[0], bounds[1] + 1


def _difference(first: Pixels, second: Pixels, where: Mask) -> float:
    return round(float(np.abs(first[where].astype(np.int16) - second[where]).mean()), 3)
