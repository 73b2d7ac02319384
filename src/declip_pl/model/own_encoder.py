"""Encoders that are not pretrained towers: a user's own module, and none at all (``pixels``)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pl.errors import UserError
from declip_pl.model.features import CLIP_MEAN, CLIP_STD, Features, FeatureShape, Preprocessing
from declip_pl.model.frozen import Encoder, seeded

NO_LAYER = "none"
"""The layer of an encoder that has but one output."""

NATIVE_SIZE = 224


class ModuleEncoder(Encoder):
    """Any module that maps ``[B, 3, S, S]`` normalised pixels to ``[B, C, h, h]`` features.

    Its attributes ``mean`` and ``std``, three numbers each, say how pixels are normalised; without
    them it is as for CLIP. A random start is the same every time.

    Args:
        layer: ``none``.
        image_size: Side of the input in pixels; 224 by default.
        name: Short name.
        make: Builds the module.
        settings: What beside the weights decides on its features, for cache keys.

    Raises:
        UserError: If a layer is named, or the features are no square map.
    """

    def __init__(
        self,
        layer: str,
        image_size: int | None,
        name: str,
        make: Callable[[], nn.Module],
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        if layer != NO_LAYER:
            raise UserError(f"the encoder {name} has no {layer!r}; say layer: {NO_LAYER}")
        self._make = make
        self.name, self.layer, self.source = name, layer, f"class {settings['class']}"
        self.arithmetic = settings
        self.model = self.read()
        statistics = (getattr(self.model, "mean", CLIP_MEAN), getattr(self.model, "std", CLIP_STD))
        mean, std = (tuple(float(value) for value in part) for part in statistics)
        self.preprocessing = Preprocessing(image_size or NATIVE_SIZE, mean, std)
        self.freeze()
        self.shape = self._measured()

    def read(self) -> nn.Module:
        """Build the module."""
        return seeded(self._make)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Features:
        """Encode ``[B, 3, S, S]`` normalised pixels."""
        self.reload()
        found = self.model(pixels)
        return found if isinstance(found, Features) else Features(found, None)

    def _measured(self) -> FeatureShape:
        side = self.preprocessing.image_size
        try:
            shape = tuple(self(torch.zeros(1, 3, side, side)).grid.shape)
        except RuntimeError as error:
            raise UserError(
                f"the encoder {self.name} takes no photos of {side} px: {error}"
            ) from error
        if len(shape) != 4 or shape[2] != shape[3]:  # noqa: PLR2004
            raise UserError(f"the encoder {self.name}: expected [B, C, h, h], found {shape}")
        return FeatureShape(shape[1], shape[2])


class Pixels(nn.Module):
    """No network: the pixels of each 16 x 16 patch as its features (``remove CLIP``)."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Map ``[B, 3, S, S]`` to ``[B, 768, S/16, S/16]``."""
        return F.pixel_unshuffle(pixels, 16)
