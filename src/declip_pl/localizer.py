"""A trained localizer in one Python line: a photo in, a heat map, a mask, a score, regions out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from declip_pl import pretrained
from declip_pl.data.transforms import build_transform
from declip_pl.encoder import build_encoder
from declip_pl.errors import UserError
from declip_pl.metrics import THRESHOLD, resize_to
from declip_pl.network import DeCLIP, image_score
from declip_pl.photo import Photo, read_photo
from declip_pl.task import load_decoder

TOGETHER = 8
"""Photos or tiles that pass the network at once."""


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


@dataclass(frozen=True)
class Localization:
    """What a localizer finds in a photo.

    Attributes:
        photo: ``[H, W, 3]`` RGB as analysed: upright, 8 bits.
        heatmap: ``[H, W]`` probability in [0, 1] that a pixel is fake.
        mask: ``[H, W]``, True where the heat map is over the threshold.
        score: Probability in [0, 1] that anything in the photo is fake.
        threshold: Of the mask.
        regions: Connected components of the mask, the largest first.
    """

    photo: NDArray[np.uint8]
    heatmap: NDArray[np.float32]
    mask: NDArray[np.bool_]
    score: float
    threshold: float
    regions: list[Region]


class Localizer:
    """A frozen encoder and a trained decoder, for photos as they come.

    Args:
        name: Of the model: the run's folder or the hub id.
        checkpoint: What :func:`declip_pl.pretrained.read` returns.
        network: The two, frozen and on their device.
    """

    def __init__(self, name: str, checkpoint: dict[str, Any], network: DeCLIP) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self.network = network.eval()
        self._transform = build_transform(checkpoint["image_size"])

    @classmethod
    def from_pretrained(cls, model: str | Path, device: str | None = None) -> "Localizer":
        """Load a trained localizer.

        Args:
            model: A run's folder, a checkpoint (``.ckpt``), a saved folder, or an id on the
                Hugging Face hub.
            device: Where it runs; a GPU where there is one.

        Raises:
            UserError: If it can't be found, is damaged, or its encoder is not to be had here.
        """
        checkpoint = pretrained.read(model)
        options, theirs = checkpoint["hyper_parameters"], checkpoint["encoder"]
        try:
            encoder = build_encoder(options["encoder"], options["layer"], checkpoint["image_size"])
        except UserError as error:
            raise UserError(
                f"{model} needs the encoder that it was trained on, {options['encoder']} "
                f"({theirs['source']}): {error}"
            ) from error
        network = DeCLIP(encoder, load_decoder(checkpoint, encoder))
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(pretrained.name(model), checkpoint, network.to(place))

    @overload
    def __call__(
        self, photos: Photo, *, tiles: bool = False, threshold: float = THRESHOLD
    ) -> Localization: ...

    @overload
    def __call__(
        self, photos: list[Any], *, tiles: bool = False, threshold: float = THRESHOLD
    ) -> list[Localization]: ...

    def __call__(
        self,
        photos: Photo | list[Any],
        *,
        tiles: bool = False,
        threshold: float = THRESHOLD,
    ) -> Localization | list[Localization]:
        """Localize.

        Args:
            photos: A photo, or a list of photos of any sizes; see
                :func:`declip_pl.photo.read_photo` for what a photo may be.
            tiles: Look at overlapping tiles at the photo's own resolution, in place of the whole
                photo squashed to the network's input.
            threshold: Probability above which a pixel belongs to the mask.

        Returns:
            What was found in the photo; a list for a list.

        Raises:
            UserError: If one of the photos can't be used; it is named.
        """
        if not isinstance(photos, list):
            return self._localize([photos], tiles, threshold)[0]
        batches = (photos[start : start + TOGETHER] for start in range(0, len(photos), TOGETHER))
        return [found for batch in batches for found in self._localize(batch, tiles, threshold)]

    @torch.inference_mode()
    def _localize(self, photos: Sequence[Any], tiles: bool, threshold: float) -> list[Localization]:
        arrays = [read_photo(photo) for photo in photos]
        logits = self._logits(arrays)
        scores = image_score(logits, self.checkpoint["hyper_parameters"]["pooling"]).tolist()
        found = []
        for photo, probabilities, score in zip(arrays, logits.sigmoid(), scores, strict=True):
            size = torch.Size(photo.shape[:2])
            heatmap = resize_to(probabilities[None], size)[0, 0].cpu().numpy()
            mask = heatmap > threshold
            regions = find_regions(heatmap, mask)
            found.append(Localization(photo, heatmap, mask, score, threshold, regions))
        return found

    def _logits(self, photos: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Squash photos to the network's input; ``[B, 1, 256, 256]`` logits."""
        pixels = torch.stack([self._transform(image=photo)["image"] for photo in photos])
        device = next(self.network.parameters()).device
        logits: Tensor = self.network(pixels.to(device))
        return logits.float()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, ``config.json`` and a model card to a folder.

        Raises:
            UserError: If a model stands there already.
        """
        pretrained.save(self.checkpoint, Path(folder))


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
