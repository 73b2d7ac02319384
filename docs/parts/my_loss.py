"""A loss of your own: Tversky's index, in which missed pixels may weigh more than false ones."""

from torch import Tensor, nn


class TverskyLoss(nn.Module):
    """One minus Tversky's index of each photo, averaged over the batch."""

    def __init__(self, missed: float = 0.7) -> None:
        super().__init__()
        self.missed = missed

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, 1, H, W]`` logits; the target is 1 where fake, 0 elsewhere."""
        p, dims = logits.sigmoid(), (1, 2, 3)
        hits = (p * target).sum(dims)
        missed, false = ((1 - p) * target).sum(dims), (p * (1 - target)).sum(dims)
        index = (hits + 1) / (hits + self.missed * missed + (1 - self.missed) * false + 1)
        return 1 - index.mean()
