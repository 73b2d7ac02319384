"""CLIP's RN50 as a frozen encoder, by itself and beside a ViT."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pl.errors import UserError
from declip_pl.model.features import Features, FeatureShape, Preprocessing
from declip_pl.model.frozen import Encoder
from declip_pl.model.resnet import load_resnet
from declip_pl.model.transformers_encoder import TransformersEncoder
from declip_pl.model.weights import Weights, resolve_resnet

FUSED_LAYER = "layer3"
"""The RN50 layer of the fusion, whatever the ViT's layer is (public implementation)."""

STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
"""Pixels of the input for each step in a layer's map."""

NATIVE_SIZE = 224


class ResNetEncoder(Encoder):
    """CLIP's RN50 up to one of ``layer1`` ... ``layer4`` (256, 512, 1024, 2048 channels).

    Args:
        layer: ``layer1`` to ``layer4``.
        image_size: Side of the input in pixels, a multiple of 32; 224 by default.
        name: ``RN50`` (from the hub) or ``RN50:FILE`` (a safetensors file or a state dict with
            OpenAI's key names), or the weights themselves.

    Raises:
        UserError: If the weights can't be found, the layer does not exist, or the size is no
            multiple of 32.
    """

    def __init__(self, layer: str, image_size: int | None, name: str | Weights) -> None:
        super().__init__()
        if layer not in STRIDES:
            raise UserError(f"RN50 has no {layer!r}; choose one of {', '.join(STRIDES)}")
        weights = resolve_resnet(name) if isinstance(name, str) else name
        self._path, self.source = Path(weights.path), weights.source
        self.name, self.layer = "rn50", layer
        self.model = self.read()
        self.preprocessing = Preprocessing(image_size or NATIVE_SIZE)
        if self.preprocessing.image_size % max(STRIDES.values()):
            raise UserError(f"image size {image_size} is no multiple of 32, which RN50 needs")
        grid_size = self.preprocessing.image_size // STRIDES[layer]
        self.shape = FeatureShape(64 * STRIDES[layer], grid_size, always_resizes=True)
        self.arithmetic = {}
        self.freeze()

    def read(self) -> nn.Module:
        """Return the network up to the named stage."""
        return load_resnet(self._path, self.layer)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Features:
        """Encode ``[B, 3, S, S]`` normalised pixels into ``[B, C, S/stride, S/stride]``."""
        self.reload()
        return Features(self.model(pixels), None)


class FusionEncoder(Encoder):
    """A ViT layer and RN50 ``layer3``, resized bilinearly to the ViT's grid, concatenated.

    Args:
        layer: The ViT's layer.
        image_size: Side of the input in pixels, by default the ViT's own.
        vit: Name of the ViT, or its weights.
        resnet: Name of the RN50, or its weights.
    """

    def __init__(
        self, layer: str, image_size: int | None, vit: str | Weights, resnet: str | Weights
    ) -> None:
        super().__init__()
        self.vit = TransformersEncoder(layer, image_size, vit)
        self.preprocessing = self.vit.preprocessing
        self.resnet = ResNetEncoder(FUSED_LAYER, self.preprocessing.image_size, resnet)
        self.name, self.layer = f"{self.vit.name}+rn50", layer
        self.source = f"{self.vit.source} + {self.resnet.source}"
        channels = self.vit.shape.channels + self.resnet.shape.channels
        self.shape = FeatureShape(channels, self.vit.shape.grid_size, always_resizes=True)
        self.arithmetic = self.vit.arithmetic
        self.freeze()

    def offload(self) -> None:
        """Free the weights of both; each reads its own again."""
        _ = self.sha256
        self.vit.offload()
        self.resnet.offload()

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Features:
        """Encode ``[B, 3, S, S]`` normalised pixels into ``[B, C_vit + C_rn50, h, w]``."""
        patches = self.vit(pixels).grid
        resnet = F.interpolate(self.resnet(pixels).grid, size=patches.shape[-2:], mode="bilinear")
        return Features(torch.cat([patches, resnet], dim=1), None)
