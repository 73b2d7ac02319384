"""What the parts of the network agree on: features, their shape, and how photos come in."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from declip_pl.errors import UserError

OUTPUT_SIZE = 256
"""Side of the logit map in pixels, whatever the encoder and the input size (paper, section 3)."""

MAX_SIDE = 4096
"""Longest side of an encoder's input in pixels: 16 times what is in use."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel statistics of CLIP's training images (OpenAI)."""


class Features(NamedTuple):
    """What an encoder sees in a batch of photos.

    Attributes:
        grid: ``[B, C, h, w]`` feature map, one vector for each patch. Several layers stand one
            after the other along the channels.
        cls: ``[B, C]`` class token of the same layers, or None where the encoder has none.
    """

    grid: Tensor
    cls: Tensor | None

    def float(self) -> "Features":
        """Return the same features in fp32."""
        return Features(self.grid.float(), None if self.cls is None else self.cls.float())

    def to(self, device: torch.device) -> "Features":
        """Return the same features on a device."""
        return Features(self.grid.to(device), None if self.cls is None else self.cls.to(device))


class FeatureShape(NamedTuple):
    """What a decoder is built from.

    Attributes:
        channels: Channels of the feature map.
        grid_size: Side of the feature map.
        always_resizes: Whether published decoders on these features end in a resize even where
            that changes nothing (RN50 and the fusion); it shifts the name of their last layer.
    """

    channels: int
    grid_size: int
    always_resizes: bool = False


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes an encoder's input.

    Attributes:
        image_size: Side in pixels that photos are resized to, whatever their shape.
        mean: Of each channel, subtracted from levels in [0, 1].
        std: Of each channel, divided by afterwards.

    Raises:
        UserError: If the side is not from 1 to :data:`MAX_SIDE`.
    """

    image_size: int = 224
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def __post_init__(self) -> None:
        """Refuse what no photo is resized to."""
        if not 1 <= self.image_size <= MAX_SIDE:
            raise UserError(f"image size {self.image_size}: expected 1 to {MAX_SIDE} px")


@dataclass(frozen=True)
class Identity:
    """Which frozen encoder a decoder was trained on.

    Attributes:
        name: Short name, for example ``clip-vit-base-patch16``.
        layer: The feature layer, or several.
        source: Where the weights came from, in words.
        sha256: Hash of the weights that it computes with.
        arithmetic: What the weights leave open and features depend on (activation, heads, ...);
            None in checkpoints of version 0.1, which did not store it.
    """

    name: str
    layer: str
    source: str
    sha256: str
    arithmetic: dict[str, Any] | None = None

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.name} {self.layer} ({self.source}, SHA-256 {self.sha256[:12]})"

    def check(self, here: "Identity") -> None:
        """Refuse another encoder than the one that this describes.

        Raises:
            UserError: If layer, weights or arithmetic differ; both encoders are named.
        """
        if (other := self.difference(here)) is not None:
            raise UserError(
                "the decoder belongs to another encoder: it was trained on "
                f"{self}, here is {here}{other}"
            )

    def difference(self, here: "Identity") -> str | None:
        """Return in words what another encoder computes with that this one does not, or None."""
        # Encoders that end at the same layer have the same weights, whatever they hand on.
        if (self.sha256, self.layer) != (here.sha256, here.layer):
            return ""
        if self.arithmetic is None or here.arithmetic is None:
            return None
        for name in sorted(self.arithmetic.keys() | here.arithmetic.keys()):
            theirs, ours = self.arithmetic.get(name), here.arithmetic.get(name)
            if theirs != ours:
                return f" with {name} {ours} in place of {theirs}"
        return None
