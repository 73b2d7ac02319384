"""Image-level detection: from which score on an image is best called fake."""

import torch
from torch import Tensor

from declip_pl.metrics.batches import check_range, check_shape


def best_accuracy_threshold(scores: Tensor, labels: Tensor) -> float:
    """Return the threshold with the most correct decisions ``score > threshold``.

    It lies half-way between two neighbouring scores (or at 0 or 1); the lowest of equally good
    ones is taken.

    Args:
        scores: ``[N]`` float image scores in [0, 1].
        labels: ``[N]`` 1 = fake, 0 = real.

    Raises:
        ValueError: If an argument is anything else.
    """
    check_scores(scores, labels)
    ends = scores.new_tensor([0.0, 1.0])
    levels = torch.unique(torch.cat([scores, ends]))
    candidates = torch.cat([ends[:1], (levels[:-1] + levels[1:]) / 2, ends[1:]])
    fakes, reals = (scores[labels == value].sort().values for value in (1, 0))
    fakes_below = torch.searchsorted(fakes, candidates, right=True)
    reals_below = torch.searchsorted(reals, candidates, right=True)
    return float(candidates[(reals_below - fakes_below).argmax()])


def check_scores(scores: Tensor, labels: Tensor) -> None:
    """Check image scores and their labels.

    Args:
        scores: ``[N]`` float in [0, 1].
        labels: ``[N]`` 1 = fake, 0 = real.

    Raises:
        ValueError: If they are anything else.
    """
    check_shape("scores", scores, "[N]")
    check_range("scores", scores)
    if labels.shape != scores.shape or not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"expected {len(scores)} labels, 1 = fake and 0 = real; found {labels}")
