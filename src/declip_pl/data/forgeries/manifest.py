"""What is on record of forgeries: in each image's file, and in a manifest of many."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from declip_pl.data.forgeries.forge import Forgery
from declip_pl.files import atomic_path, sha256
from declip_pl.model.description import ForgedPhotos
from declip_pl.records import from_json, json_hash, read_json, to_json

FORMAT = 1
"""Raise it with any change to what a manifest or an image's file says."""

_ABOUT = "forgery"
"""The text in an image's file."""


@dataclass(frozen=True)
class About:
    """What an image's file says of how it was made.

    Attributes:
        operations: What its region went through, then ``everywhere:`` and what the photo did.
        mask_sha256: Of its mask's file; None where nothing is forged.
    """

    operations: tuple[str, ...]
    mask_sha256: str | None


@dataclass(frozen=True)
class Forged:
    """A forgery on disk.

    Attributes:
        name: Of its image's file and its mask's, without suffix.
        photo: Name of the file that was forged.
        photo_sha256: Of that file.
        split: ``train`` or ``valid``.
        version: Counted from 0.
        sha256: Of its image's file.
        about: What that file says.
    """

    name: str
    photo: str
    photo_sha256: str
    split: str
    version: int
    sha256: str
    about: About


@dataclass(frozen=True)
class Manifest:
    """All forgeries of some photos.

    Attributes:
        format: :data:`FORMAT`.
        recipe: :data:`declip_pl.data.forgeries.forge.RECIPE`.
        seed: That decided on them.
        versions: Of each photo.
        photos: How many of each folder.
        autoencoders: SHA-256 of their weights, by name.
        forgeries: Version by version, photos sorted by their hashes.
    """

    format: int
    recipe: int
    seed: int
    versions: int
    photos: dict[str, int]
    autoencoders: dict[str, str]
    forgeries: tuple[Forged, ...]

    @cached_property
    def in_short(self) -> ForgedPhotos:
        """What a checkpoint says of them."""
        used = {name for forged in self.forgeries for name in forged.about.operations}
        digest = json_hash(to_json(self))
        return ForgedPhotos(digest, self.photos, self.versions, tuple(sorted(used)))


def write_forgery(forgery: Forgery, image: Path, mask: Path) -> tuple[About, str]:
    """Write a forgery as PNG, its image last, so that what has an image is whole.

    Args:
        forgery: The forgery.
        image: File of its pixels.
        mask: File of its mask, white = forged, a bit a pixel; none where nothing is forged.

    Returns:
        What the image's file says, and its SHA-256.
    """
    digest = None
    if forgery.mask is not None:
        with atomic_path(mask) as temporary:
            Image.fromarray(forgery.mask).save(temporary, "PNG")
        digest = sha256(mask)
    about = About(forgery.operations, digest)
    text = PngInfo()
    text.add_text(_ABOUT, json.dumps(to_json(about)))
    with atomic_path(image) as temporary:
        # A third of the time for 10 % of space.
        Image.fromarray(forgery.pixels).save(temporary, "PNG", pnginfo=text, compress_level=1)
    return about, sha256(image)


def read_about(image: Path) -> About:
    """Return what an image's file says; all of the file is read against its checksums.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is damaged.
    """
    try:
        with Image.open(image, formats=["PNG"]) as opened:
            said = opened.info.get(_ABOUT, "")
            opened.verify()
        return from_json(About, json.loads(said))
    except SyntaxError as error:  # PIL's for a wrong checksum
        raise ValueError(str(error)) from error


def read_manifest(path: Path) -> Manifest:
    """Return what :func:`declip_pl.records.write_json` wrote of a manifest.

    Raises:
        OSError: If there is none, or it can't be read.
        ValueError: If it is damaged.
    """
    return from_json(Manifest, read_json(path))
