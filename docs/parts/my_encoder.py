"""An encoder of your own: the noise that fixed high-pass filters leave of a photo."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NoiseEncoder(nn.Module):
    """Strength of 32 noise residuals: ``[B, 3, S, S]`` to ``[B, 32, h, h]``."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # levels stay in [0, 1]

    def __init__(self, patch: int = 16) -> None:
        super().__init__()
        self.patch = patch
        generator = torch.Generator().manual_seed(0)
        filters = torch.randn(32, 3, 5, 5, generator=generator)
        self.filters = nn.Parameter(filters - filters.mean((1, 2, 3), keepdim=True))

    def forward(self, pixels: Tensor) -> Tensor:
        """Filter, then average the absolute values of each patch."""
        residuals = F.conv2d(pixels, self.filters, padding=2)
        return F.avg_pool2d(residuals.abs(), self.patch)
