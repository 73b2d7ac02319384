"""What is found in a photo: heat map, mask, score and regions, to look at, to save, to compare."""

import base64
import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from declip_pl import panels
from declip_pl.errors import UserError
from declip_pl.files import atomic_path, write_text
from declip_pl.inference.evidence import Evidence, sentences

Pixels = NDArray[np.uint8]
Heatmap = NDArray[np.float32]
Decision = Literal["expected-iou", "fixed"]
"""How a threshold came about: the photo's own, of the highest expected IoU, or one for all."""

RECORD = "localization.json"
"""The file of :meth:`Localization.save` that holds what is not a picture."""

SHOWN_SIDE = 640
"""Pixels of the longer side of the picture that a notebook shows."""


class Region(NamedTuple):
    """A connected component of a mask; pixels that touch at a corner are connected.

    Attributes:
        box: Left, top, right and bottom in px, right and bottom exclusive.
        area: In px.
        probability: Mean over the region, in [0, 1].
    """

    box: tuple[int, int, int, int]
    area: int
    probability: float


@dataclass(frozen=True, eq=False, repr=False)
class Localization:
    """What a localizer finds in a photo.

    Two are equal if they are of the same pixels and all that was found is the same.

    Attributes:
        photo: ``[H, W, 3]`` RGB as analysed: upright, 8 bits.
        heatmap: ``[H, W]`` probability in [0, 1] that a pixel is fake.
        mask: ``[H, W]``, True where the heat map is over the threshold.
        score: Of the photo in [0, 1]: its map pooled as the checkpoint says, with tiles the highest
            of theirs.
        threshold: Of the mask, in [0, 1]; 1 where the model's floor leaves the photo unmarked.
        regions: Connected components of the mask, the largest first.
        decision: How the threshold came about: ``expected-iou``, the photo's own by
            :func:`declip_pl.metrics.photo_thresholds`, or ``fixed``, the same whatever the photo.
        evidence: What the score is held against.
    """

    photo: NDArray[np.uint8]
    heatmap: NDArray[np.float32]
    mask: NDArray[np.bool_]
    score: float
    threshold: float
    regions: list[Region]
    decision: Decision = "fixed"
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def below_floor(self) -> bool:
        """Whether nothing is marked because the heat map's peak is below the model's floor."""
        return self.decision == "expected-iou" and self.threshold == 1

    @property
    def above(self) -> bool | None:
        """Whether the score is above the model's cut-off for photos; None where there is none."""
        cut = self.evidence.image_threshold
        return None if cut is None else self.score > cut

    @property
    def verdict(self) -> str:
        """What the score says, and that it is no proof, in sentences."""
        return " ".join(sentences(self.score, self.evidence))

    def at_threshold(self, threshold: float) -> "Localization":
        """Return the same heat map cut at another threshold."""
        return localization(self.photo, self.heatmap, self.score, threshold, "fixed", self.evidence)

    def overlay(self) -> Image.Image:
        """Return the photo with the heat map over it and a red line around what is marked."""
        return Image.fromarray(panels.overlay(self.photo, self.heatmap, self.mask))

    def to_dict(self) -> dict[str, Any]:
        """Return all but the pictures, for JSON: the entries of a line of ``predict``."""
        height, width = self.mask.shape
        area = int(self.mask.sum())
        return {
            "width": width,
            "height": height,
            "score": self.score,
            "image_threshold": self.evidence.image_threshold,
            "above": self.above,
            "verdict": self.verdict,
            "untouched_photos": self.evidence.photos,
            "untouched_higher": self.evidence.higher,
            "compared": list(self.evidence.compared),
            "unlike": list(self.evidence.unlike),
            "pixel_threshold": self.threshold,
            "decision": self.decision,
            "area": area,
            "share": area / self.mask.size,
            "regions": [region._asdict() for region in self.regions],
        }

    def save(self, folder: str | Path) -> None:
        """Write ``heatmap.png``, ``mask.png``, ``overlay.png`` and ``localization.json``.

        Args:
            folder: Where to; it is made.

        Raises:
            UserError: If one of the files is there already, or they can't be written.
        """
        place = Path(folder).expanduser()
        files = {place / f"{name}.png": pixels for name, pixels in self.pictures().items()}
        for file in (*files, place / RECORD):
            if file.exists():
                raise UserError(f"{file} exists; name another folder")
        try:
            for file, pixels in files.items():
                write_png(file, pixels)
            write_text(place / RECORD, json.dumps(self.to_dict(), indent=2) + "\n")
        except OSError as error:
            raise UserError(f"can't write to {place}: {error}") from error

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Return ``heatmap`` and ``mask`` ``[H, W]``, white = fake, and ``overlay`` ``[H, W, 3]``.

        All are uint8 at the photo's own size, the overlay in RGB.
        """
        return {
            "heatmap": (255 * self.heatmap).round().astype(np.uint8),
            "mask": 255 * self.mask.astype(np.uint8),
            "overlay": panels.overlay(self.photo, self.heatmap, self.mask),
        }

    def __eq__(self, other: object) -> bool:
        """Whether the other is a localization of the same pixels with the same findings."""
        if not isinstance(other, Localization):
            return NotImplemented
        return self.to_dict() == other.to_dict() and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("photo", "heatmap", "mask")
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    def __repr__(self) -> str:
        """Say in one line what was found."""
        height, width = self.mask.shape
        parts = len(self.regions)
        where = f" in {parts} region{'s' if parts > 1 else ''}" if parts else ""
        return (
            f"<Localization of {width} x {height} px, score {self.score:.2f}, "
            f"{self.mask.mean():.1%} marked{where}>"
        )

    def _repr_html_(self) -> str:
        """Return a notebook's view of it: the overlay and the verdict."""
        picture = self.overlay()
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        encoded = base64.b64encode(_png(np.asarray(picture))).decode()
        lines = "<br>".join(escape(line) for line in sentences(self.score, self.evidence))
        marked = f"{self.mask.mean():.1%} of the photo is marked."
        return (
            f'<img src="data:image/png;base64,{encoded}" alt="The photo; what is found is marked">'
            f"<p>{lines}<br>{marked}</p>"
        )


def localization(
    photo: Pixels,
    heatmap: Heatmap,
    score: float,
    threshold: float,
    decision: Decision,
    evidence: Evidence,
) -> Localization:
    """Return a heat map cut at a threshold, with its regions; arguments as of its attributes."""
    mask = heatmap > threshold
    regions = find_regions(heatmap, mask)
    return Localization(photo, heatmap, mask, score, threshold, regions, decision, evidence)


def find_regions(heatmap: NDArray[np.float32], mask: NDArray[np.bool_]) -> list[Region]:
    """Return the connected components of a mask, the largest first.

    Args:
        heatmap: ``[H, W]`` in [0, 1].
        mask: ``[H, W]``.
    """
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    totals = np.bincount(labels[mask], weights=heatmap[mask], minlength=len(boxes))
    regions = [
        Region((left, top, left + width, top + height), area, total / area)
        for (left, top, width, height, area), total in zip(
            boxes[1:].tolist(), totals[1:].tolist(), strict=True
        )  # the first is what lies outside the mask
    ]
    return sorted(regions, key=lambda region: -region.area)


def write_png(file: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a PNG, atomically.

    Args:
        file: Where to; its folder is made.
        pixels: ``[H, W]``, or ``[H, W, 3]`` RGB.
    """
    with atomic_path(file) as temporary:
        temporary.write_bytes(_png(pixels))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    # OpenCV writes a PNG several times as fast as PIL; its colours are BGR.
    is_colour = pixels.ndim == 3  # noqa: PLR2004
    return cv2.imencode(".png", pixels[..., ::-1] if is_colour else pixels)[1].tobytes()
