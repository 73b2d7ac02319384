"""Losses of a logit map against a mask, by name; joined by ``+`` they are added."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pl.errors import UserError
from declip_pl.parts import Registry, Spec

LOSSES: Registry[Any] = Registry("loss")
"""Each maps ``[B, 1, H, W]`` logits and targets in {0, 1} of the same shape to one number."""

FOCUS = 2.0
"""Exponent of the focal loss (Lin et al. 2017)."""

PIXEL_AXES = (1, 2, 3)


@LOSSES.register("bce")
class CrossEntropy(nn.Module):
    """Binary cross-entropy of every pixel (the paper's)."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over pixels."""
        return F.binary_cross_entropy_with_logits(logits, target)


@LOSSES.register("dice")
class Dice(nn.Module):
    """One minus the soft F1 of each image, a pixel added so that nothing against nothing is 0."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over images."""
        probabilities = logits.sigmoid()
        hits = (probabilities * target).sum(PIXEL_AXES)
        total = probabilities.sum(PIXEL_AXES) + target.sum(PIXEL_AXES)
        return (1 - (2 * hits + 1) / (total + 1)).mean()


@LOSSES.register("focal")
class Focal(nn.Module):
    """Cross-entropy in which a pixel that is right already counts little (Lin et al. 2017)."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over pixels."""
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return ((1 - torch.exp(-entropy)) ** FOCUS * entropy).mean()


@LOSSES.register("balanced")
class Balanced(nn.Module):
    """Cross-entropy in which the fake and the real pixels of a batch weigh the same."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the two classes; of the one where the other is missing."""
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        parts = [entropy[target == value] for value in (0, 1)]
        return torch.stack([part.mean() for part in parts if part.numel()]).mean()


class Sum(nn.Module):
    """Several losses added.

    Args:
        losses: The losses.
    """

    def __init__(self, losses: list[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the sum."""
        return torch.stack([loss(logits, target) for loss in self.losses]).sum()


def build_loss(loss: Spec) -> nn.Module:
    """Return the loss of that name: ``bce``, ``bce+dice``, or a class of the user's own.

    Raises:
        UserError: If there is none of that name, or it is no module.
    """
    if isinstance(loss, str) and "+" in loss:
        return Sum([build_loss(name) for name in loss.split("+")])
    built = LOSSES.make(loss)
    if not isinstance(built, nn.Module):
        raise UserError(f"the loss {loss} is no torch.nn.Module")
    return built
