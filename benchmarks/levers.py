"""What was tried on the general recipe and stayed out of the package, as parts of one's own.

docs/generalisation.md has the figures; they come of::

    python -m benchmarks.left_out objects migan left-out
    export DECLIP_PARTS=benchmarks/levers.py
    declip-pl ablate benchmarks/levers.yaml --data left-out
    declip-pl ablate benchmarks/levers_of_the_recipe.yaml --data left-out
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pl.model.decoder import LightDecoder
from declip_pl.model.features import OUTPUT_SIZE, Features, FeatureShape

LAYERS = 3
"""Blocks that the recipe takes its features from."""


class RelativeDecoder(LightDecoder):
    """Light on features relative to their photo, of which training leaves some out.

    Of each channel its mean over the photo is subtracted, so that what a photo has everywhere says
    nothing. In training whole channels and whole layers of each photo are set to zero at random
    and the others scaled up, so that no few of them decide.

    Args:
        shape: Of the features.
        relative: Whether the mean is subtracted.
        channel_dropout: Share of the channels that training leaves out.
        layer_dropout: Probability that training leaves out all channels of a layer. One layer of
            each photo stays.
    """

    def __init__(
        self,
        shape: FeatureShape,
        relative: bool = True,
        channel_dropout: float = 0.3,
        layer_dropout: float = 0.3,
    ) -> None:
        super().__init__(shape)
        self.relative = relative
        self.channel_dropout, self.layer_dropout = channel_dropout, layer_dropout

    def forward(self, features: Features) -> Tensor:
        """Decode ``[B, C, h, w]`` features into ``[B, 1, 256, 256]`` logits."""
        grid = features.grid.float()  # means of bf16 would be rounded
        if self.relative:
            grid = grid - grid.mean(dim=(2, 3), keepdim=True)
        if self.training:
            grid = F.dropout2d(grid, self.channel_dropout)
            grid = _drop_layers(grid, self.layer_dropout)
        return super().forward(Features(grid, features.cls))


def _drop_layers(grid: Tensor, share: float) -> Tensor:
    """Set whole layers of each photo in ``[B, C, h, w]`` to zero, never all; scale up the rest."""
    photos, device = len(grid), grid.device
    kept = torch.rand(photos, LAYERS, device=device) >= share
    spared = F.one_hot(torch.randint(LAYERS, (photos,), device=device), LAYERS) > 0
    kept = torch.where(kept.any(dim=1, keepdim=True), kept, spared)
    scale = kept * (LAYERS / kept.sum(dim=1, keepdim=True))
    return grid * scale.repeat_interleave(grid.shape[1] // LAYERS, dim=1)[:, :, None, None]


class NonNegativeDecoder(LightDecoder):
    """Light, but what the last layer sees can only speak for a fake (2502.07778)."""

    def forward(self, features: Features) -> Tensor:
        """Decode ``[B, C, h, w]`` features into ``[B, 1, 256, 256]`` logits."""
        *layers, last = self.fc
        assert isinstance(last, nn.Conv2d)
        seen = nn.Sequential(*layers)(features.grid)
        logits = F.conv2d(seen, last.weight.clamp(min=0), last.bias, padding=last.padding)
        return F.interpolate(logits, size=(OUTPUT_SIZE, OUTPUT_SIZE), mode="bilinear")


class PhotoStatisticsDecoder(LightDecoder):
    """Light, but each photo is normalised by its own statistics, in training and in tests."""

    def __init__(self, shape: FeatureShape) -> None:
        super().__init__(shape)
        for place, layer in enumerate(self.fc):
            if isinstance(layer, nn.BatchNorm2d):
                self.fc[place] = nn.InstanceNorm2d(layer.num_features, affine=True)


class WideDecoder(nn.Module):
    """Light with twice the channels in each stage."""

    def __init__(self, shape: FeatureShape) -> None:
        super().__init__()
        widths = (256, 256, 256, 128, 128)
        layers: list[nn.Module] = []
        before = shape.channels
        for place, width in enumerate(widths):
            side = 1 if place == 0 else 3
            layers += [
                nn.Conv2d(before, width, side, padding=side // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            if place in (2, 4):
                layers += [nn.Upsample(scale_factor=2, mode="bilinear")]
            before = width
        self.fc = nn.Sequential(*layers, nn.Conv2d(before, 1, 3, padding=1))

    def forward(self, features: Features) -> Tensor:
        """Decode ``[B, C, h, w]`` features into ``[B, 1, 256, 256]`` logits."""
        logits = self.fc(features.grid)
        return F.interpolate(logits, size=(OUTPUT_SIZE, OUTPUT_SIZE), mode="bilinear")


class StandardisedDecoder(LightDecoder):
    """Light on channels divided by how much they vary over the photo."""

    def forward(self, features: Features) -> Tensor:
        """Decode ``[B, C, h, w]`` features into ``[B, 1, 256, 256]`` logits."""
        spread = features.grid.std(dim=(2, 3), keepdim=True).clamp(min=1e-3)
        return super().forward(Features(features.grid / spread, features.cls))


class SoftEdgeLoss(nn.Module):
    """Cross-entropy with masks whose edges are blurred over 9 px."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, 1, H, W]`` logits; the target is 1 where fake, 0 elsewhere."""
        soft = F.avg_pool2d(target, 9, stride=1, padding=4, count_include_pad=False)
        return F.binary_cross_entropy_with_logits(logits, soft)


class UntouchedLoss(nn.Module):
    """Cross-entropy, and once more for the top hundredth of the pixels of untouched photos."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, 1, H, W]`` logits; the target is 1 where fake, 0 elsewhere."""
        loss = F.binary_cross_entropy_with_logits(logits, target)
        flat, untouched = logits.flatten(1), target.flatten(1).amax(1) == 0
        top = flat.topk(flat.shape[1] // 100, dim=1).values
        alarms = F.softplus(top).mean(1) * untouched
        return loss + 0.1 * torch.mean(alarms)
