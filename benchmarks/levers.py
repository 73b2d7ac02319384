"""What was tried on the general recipe and stayed out of the package, as parts of one's own.

docs/generalisation.md has the figures; they come of

    python -m benchmarks.left_out objects migan left-out
    DECLIP_PARTS=benchmarks/levers.py declip-pl ablate benchmarks/levers.yaml --data left-out
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from declip_pl.model.decoder import LightDecoder
from declip_pl.model.features import Features, FeatureShape


class RelativeDecoder(LightDecoder):
    """Light on features relative to their photo, of which training leaves some out.

    Of each channel its mean over the photo is subtracted, so that what a photo has everywhere says
    nothing. In training whole channels and whole layers of each photo are set to zero at random
    and the others scaled up, so that no few of them decide.

    Args:
        shape: Of the features.
        layers: How many layers the channels are of.
        channel_dropout: Share of the channels that training leaves out.
        layer_dropout: Probability that training leaves out all channels of a layer. One layer of
            each photo stays; with a single layer nothing is left out.
    """

    def __init__(
        self,
        shape: FeatureShape,
        layers: int = 3,
        channel_dropout: float = 0.3,
        layer_dropout: float = 0.3,
    ) -> None:
        super().__init__(shape)
        self.layers, self.channel_dropout = layers, channel_dropout
        self.layer_dropout = layer_dropout

    def forward(self, features: Features) -> Tensor:
        """Decode ``[B, C, h, w]`` features into ``[B, 1, 256, 256]`` logits."""
        grid = features.grid.float()  # means of bf16 would be rounded
        grid = grid - grid.mean(dim=(2, 3), keepdim=True)
        if self.training:
            grid = F.dropout2d(grid, self.channel_dropout)
            grid = _drop_layers(grid, self.layers, self.layer_dropout)
        return super().forward(Features(grid, features.cls))


def _drop_layers(grid: Tensor, layers: int, share: float) -> Tensor:
    """Set whole layers of each photo in ``[B, C, h, w]`` to zero, never all; scale up the rest."""
    photos, device = len(grid), grid.device
    kept = torch.rand(photos, layers, device=device) >= share
    spared = F.one_hot(torch.randint(layers, (photos,), device=device), layers) > 0
    kept = torch.where(kept.any(dim=1, keepdim=True), kept, spared)
    scale = kept * (layers / kept.sum(dim=1, keepdim=True))
    return grid * scale.repeat_interleave(grid.shape[1] // layers, dim=1)[:, :, None, None]
