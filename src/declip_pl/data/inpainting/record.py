"""What ``forge.json`` says: of what, by what and how a data set was made."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from declip_pl.errors import UserError
from declip_pl.records import from_json, read_json

FORMAT = 1
"""Raise it with any change to what the file says."""

FILE = "forge.json"

Outside = Literal["paste", "regenerated", "both"]
"""What pixels outside the mask are: the photo's, the inpainter's, or a picture of each kind."""

FileFormat = Literal["jpeg", "png"]
SUFFIX: Mapping[str, str] = {"jpeg": ".jpg", "png": ".png"}


@dataclass(frozen=True)
class Settings:
    """What is the same for every picture in a folder, real or fake.

    Attributes:
        seed: That decides on masks, prompts, qualities and fills.
        size: Px that the longer side has at most before anything is filled; None for any.
        resize: Factor by which pictures are made smaller at the end.
        format: Of the files.
        quality: Bounds on the JPEG quality, drawn for each photo; unused in PNGs.
    """

    seed: int
    size: int | None
    resize: float
    format: str
    quality: tuple[int, ...]


@dataclass(frozen=True)
class Original:
    """A photo in the folder.

    Attributes:
        source: Name of the file that it was made of.
        source_sha256: Of that file.
        sha256: Of its own file.
    """

    source: str
    source_sha256: str
    sha256: str


@dataclass(frozen=True)
class Forged:
    """A fake.

    Attributes:
        sha256: Of its file.
        mask_sha256: Of its mask's.
        area: Share of the photo in the mask, in [0, 1].
        drawn: What the mask is of: shapes, a file's name, or a user's source.
        pieces: How many parts the mask has.
        inside: Mean difference from the photo inside the mask, in levels.
        outside: The same outside of it, of the picture as the inpainter gave it.
        prompt: Text that the inpainter was given; None where it takes none.
        other: SHA-256 of the other photo that it was given.
    """

    sha256: str
    mask_sha256: str
    area: float
    drawn: str
    pieces: int
    inside: float
    outside: float
    prompt: str | None = None
    other: str | None = None


@dataclass(frozen=True)
class About:
    """What decides on a generator's pixels, beside the settings.

    Attributes:
        inpainter: Its spec.
        identity: Hash of its file, its code or its commit, and the like.
        outside: What its pixels outside the mask are: ``paste`` or ``regenerated``.
        masks: Where its masks are from.
        prompts: SHA-256 of the prompts to choose from; None where it takes none.
    """

    inpainter: str
    identity: dict[str, str]
    outside: str
    masks: dict[str, str]
    prompts: str | None = None


@dataclass(frozen=True)
class Made:
    """All fakes of one generator.

    Attributes:
        about: How they were made.
        versions: Of the software.
        fakes: By split and name of the photo.
        left_out: Photos without a fake, and why.
    """

    about: About
    versions: dict[str, str]
    fakes: dict[str, Forged]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """All that a folder holds.

    Attributes:
        format: :data:`FORMAT`.
        settings: Of all pictures.
        photos: The untouched ones, by split and name.
        generators: By name.
    """

    format: int
    settings: Settings
    photos: dict[str, Original]
    generators: dict[str, Made]


def read_manifest(root: Path, settings: Settings) -> Manifest | None:
    """Return what a folder's ``forge.json`` says; None where nothing is in the folder.

    Raises:
        UserError: If something else is in it, or it was made with other settings.
    """
    path = root / FILE
    if not path.is_file():
        if root.is_dir() and any(not entry.name.startswith(".") for entry in root.iterdir()):
            raise UserError(
                f"{root} holds something that forge did not make (there is no {FILE}): name "
                "another folder (--output). Fakes beside real photos of another origin or file "
                "format are told apart by that alone"
            )
        return None
    try:
        found = from_json(Manifest, read_json(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be used ({error}): forge into another folder") from error
    if others := _differences(found.settings, settings):
        raise UserError(
            f"{root} was made with {others}: real and fake photos of one folder have to be alike, "
            "or that is what a localizer learns; say the same, or name another folder (--output)"
        )
    return found


def check_about(root: Path, name: str, there: About, wanted: About) -> None:
    """Raise a UserError if a generator was made, or begun, in another way."""
    if others := _differences(there, wanted):
        raise UserError(
            f"{root}/fake/{name} was made with {others}; give this one another name (--name), or "
            "delete that folder"
        )


def _differences(there: Settings | About, wanted: Settings | About) -> str:
    pairs = ((f.name, getattr(there, f.name), getattr(wanted, f.name)) for f in fields(there))
    differing = [f"{name} {old}, not {new}" for name, old, new in pairs if old != new]
    return " and ".join(differing)
