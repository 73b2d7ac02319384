"""What the page of ``declip-pl demo`` holds of a photo that was looked at."""

import base64
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from declip_pl.data.file_kinds import Picture
from declip_pl.inference.about import About
from declip_pl.inference.localization import Localization
from declip_pl.panels import overlay

SHOWN_SIDE = 2048
"""Pictures to look at are shrunk to this many pixels a side; what is measured is not."""

_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111)
"""How they are encoded: what is seen in them should be in the photo (0x111111 is 4:4:4)."""


@dataclass(frozen=True)
class Photo:
    """A photo that was read; its file may be gone.

    Attributes:
        name: Of its file.
        sha256: Of its file.
        picture: Its pixels, and how its file was compressed.
        truth: ``[H, W]``, True = fake, where that is known.
    """

    name: str
    sha256: str
    picture: Picture
    truth: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Look:
    """What a model finds in a photo.

    Attributes:
        photo: What was looked at.
        found: What was found.
        about: The model.
        model_sha256: Of its weights.
        tiles: Whether it looked at tiles.
    """

    photo: Photo
    found: Localization
    about: About
    model_sha256: str
    tiles: bool

    def drawn(self, side: int = SHOWN_SIDE) -> NDArray[np.uint8]:
        """Return the overlay, ``[H, W, 3]`` RGB, at most so many pixels a side."""
        heat = shrunk(self.found.heatmap, side)
        return overlay(shrunk(self.found.photo, side), heat, heat > self.found.threshold)

    def record(self) -> dict[str, Any]:
        """Return all but the pictures, for JSON."""
        return (
            {"name": self.photo.name, "sha256": self.photo.sha256}
            | self.found.to_dict()
            | {"tiles": self.tiles, "model_sha256": self.model_sha256}
            | self.about._asdict()
        )


def shrunk(picture: NDArray[Any], side: int = SHOWN_SIDE) -> NDArray[Any]:
    """Return ``[H, W]`` or ``[H, W, 3]`` with at most so many pixels a side."""
    scale = min(1, side / max(picture.shape))
    size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Return ``[H, W]`` or ``[H, W, 3]`` RGB as an address that holds the picture itself."""
    bgr = pixels[..., ::-1] if pixels.ndim == 3 else pixels  # noqa: PLR2004
    encoded = cv2.imencode(".jpg", bgr, _JPEG)[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"
