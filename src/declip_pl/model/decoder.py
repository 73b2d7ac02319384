"""The learned decoders: from a frozen feature map to one logit per pixel at 256 x 256.

Parameter names are those of the published checkpoints (``fc.*`` as one flat ``Sequential``,
``att1.*`` and ``att2.*``), so that a published state dict maps onto them one to one.
"""

import math
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pl.errors import UserError
from declip_pl.model.features import OUTPUT_SIZE, Features, FeatureShape
from declip_pl.parts import Registry, Spec, read_spec

DECODERS: Registry[Any] = Registry("decoder")
"""Decoders by name; each is built from the features' :class:`FeatureShape`."""

STAGES = (512, 256, 128, 64)
"""Channels of the four stages of a convolutional decoder."""

LIGHT_STAGES = (128, 64)
"""Channels of the stages of the light decoder."""

HEADS = 16
"""Attention heads of the attention decoder, whatever its width (paper)."""


class ConvDecoder(nn.Module):
    """Four stages of 5 x 5 convolutions, each followed by a bilinear x2 upsampling.

    Upsampling is left out in the first stages where the map would outgrow the output (RN50
    ``layer1`` and ``layer2``). Maps that do not end at 256 px are resized to it before the last
    convolution.

    Args:
        shape: Of the features.
        depth: Convolutions in all stages together: 4, 12 or 20 in the paper.
    """

    def __init__(self, shape: FeatureShape, depth: int) -> None:
        super().__init__()
        channels, grid_size = shape.channels, shape.grid_size
        doublings = min(len(STAGES), int(math.log2(OUTPUT_SIZE / grid_size)))
        layers: list[nn.Module] = []
        for stage, width in enumerate(STAGES):
            for _ in range(depth // len(STAGES)):
                layers += [
                    _convolution(channels, width),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            if stage >= len(STAGES) - doublings:
                layers += [nn.Upsample(scale_factor=2, mode="bilinear")]
        if shape.always_resizes or grid_size << doublings != OUTPUT_SIZE:
            layers += [nn.Upsample(size=(OUTPUT_SIZE, OUTPUT_SIZE), mode="bilinear")]
        self.fc = nn.Sequential(*layers, _convolution(channels, 1))
        # ViT features arrive channels-last; 1.7 times faster in training on a CPU (conv-4).
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Features) -> Tensor:
        """Decode ``[B, C, h, w]`` features into ``[B, 1, 256, 256]`` logits."""
        logits: Tensor = self.fc(features.grid)
        return logits


@DECODERS.register("light")
class LightDecoder(nn.Module):
    """Two narrow stages of 3 x 3 convolutions, for machines without a GPU; not in the paper.

    The features are projected to 128 channels; each stage has two convolutions and a bilinear x2
    upsampling; the logits are resized bilinearly to 256 x 256. The wide maps at high resolution
    that make ``conv-20`` expensive are left out (docs/results.md: what each decoder finds).

    Args:
        shape: Of the features.
    """

    def __init__(self, shape: FeatureShape) -> None:
        super().__init__()
        widths = LIGHT_STAGES
        layers = _block(shape.channels, widths[0], kernel_size=1)
        for before, width in zip(widths[:1] + widths[:-1], widths, strict=True):
            layers += _block(before, width, kernel_size=3)
            layers += _block(width, width, kernel_size=3)
            layers += [nn.Upsample(scale_factor=2, mode="bilinear")]
        self.fc = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, kernel_size=3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Features) -> Tensor:
        """Decode ``[B, C, h, w]`` features into ``[B, 1, 256, 256]`` logits."""
        logits = self.fc(features.grid)
        return F.interpolate(logits, size=(OUTPUT_SIZE, OUTPUT_SIZE), mode="bilinear")


@DECODERS.register("linear")
class LinearDecoder(nn.Module):
    """One linear map for each patch vector, then a bicubic resize to 256 x 256.

    Args:
        shape: Of the features.
    """

    def __init__(self, shape: FeatureShape) -> None:
        super().__init__()
        self.fc = nn.Sequential(_linear(shape.channels))

    def forward(self, features: Features) -> Tensor:
        """Decode ``[B, C, h, w]`` features into ``[B, 1, 256, 256]`` logits."""
        logits = self.fc(features.grid.movedim(1, -1)).movedim(-1, 1)
        return F.interpolate(logits, size=(OUTPUT_SIZE, OUTPUT_SIZE), mode="bicubic")


@DECODERS.register("attention")
class AttentionDecoder(nn.Module):
    """Two transformer blocks over all tokens, then a :class:`LinearDecoder`.

    Attention is bidirectional and all of it is trained; the published blocks have CLIP's causal
    text mask and stay at their random start.

    Args:
        shape: Of the features, whose channels are a multiple of :data:`HEADS`.

    Raises:
        UserError: If they are none.
    """

    def __init__(self, shape: FeatureShape) -> None:
        super().__init__()
        channels = shape.channels
        if channels % HEADS:
            raise UserError(f"attention needs a multiple of {HEADS} channels, found {channels}")
        self.att1 = _AttentionBlock(channels)
        self.att2 = _AttentionBlock(channels)
        self.fc = nn.Sequential(_linear(channels))

    def forward(self, features: Features) -> Tensor:
        """Decode ``[B, C, h, w]`` features and their class token into ``[B, 1, 256, 256]``."""
        size = features.grid.shape[-2:]
        tokens = features.grid.flatten(2).transpose(1, 2)
        if features.cls is not None:
            tokens = torch.cat([features.cls.unsqueeze(1), tokens], dim=1)
        tokens = self.att2(self.att1(tokens))[:, -size.numel() :]
        logits = self.fc(tokens).transpose(1, 2).unflatten(2, size)
        return F.interpolate(logits, size=(OUTPUT_SIZE, OUTPUT_SIZE), mode="bicubic")


class _AttentionBlock(nn.Module):
    """A pre-norm transformer block with the parameter names of OpenAI's CLIP."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, HEADS, batch_first=True)
        self.ln_1 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(channels, 4 * channels),
                gelu=_QuickGELU(),
                c_proj=nn.Linear(4 * channels, channels),
            )
        )
        self.ln_2 = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.ln_1(tokens)
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False)[0]
        updated: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return updated


class _QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def _register(depth: int) -> None:
    @DECODERS.register(f"conv-{depth}")
    def build(shape: FeatureShape) -> ConvDecoder:  # no other depth by a downloaded init_args
        return ConvDecoder(shape, depth)


for _depth in (4, 12, 20):
    _register(_depth)


def build_decoder(decoder: Spec, shape: FeatureShape) -> nn.Module:
    """Return a freshly initialised decoder of that name for an encoder's features.

    Raises:
        UserError: If there is no decoder of that name, or it is no module.
    """
    part = DECODERS.find(read_spec(decoder)[0])
    if isinstance(part, type) and not issubclass(part, nn.Module):  # not built to find out
        raise UserError(f"the decoder {decoder} is no torch.nn.Module")
    built: nn.Module = DECODERS.make(decoder, shape)
    return built


def _convolution(channels: int, width: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, width, kernel_size=5, padding=2)
    nn.init.normal_(layer.weight, std=0.02)
    return layer


def _block(channels: int, width: int, kernel_size: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def _linear(channels: int) -> nn.Linear:
    layer = nn.Linear(channels, 1)
    nn.init.normal_(layer.weight, std=0.02)
    return layer
