"""A decoder of your own: two convolutions."""

from torch import Tensor, nn
from torch.nn import functional as F

from declip_pl.model.features import OUTPUT_SIZE, Features, FeatureShape


class SmallDecoder(nn.Module):
    """One hidden layer over 3 x 3 patches."""

    def __init__(self, shape: FeatureShape, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape.channels, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 1, kernel_size=1),
        )

    def forward(self, features: Features) -> Tensor:
        """Decode ``[B, C, h, h]`` features into ``[B, 1, 256, 256]`` logits."""
        logits = self.layers(features.grid)
        return F.interpolate(logits, size=(OUTPUT_SIZE, OUTPUT_SIZE), mode="bilinear")
