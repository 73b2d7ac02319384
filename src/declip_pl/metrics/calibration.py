"""How far probabilities are from the share of fakes: histograms of single images."""

import numpy as np
import torch
from torch import Tensor

from declip_pl.metrics.batches import each_image
from declip_pl.metrics.ranking import Map, Mask, Scores

CALIBRATION_BINS = 15
"""Equal parts of [0, 1]; a probability on an edge belongs to the upper one."""


def calibration_histogram(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Count each image's pixels by probability, in :data:`CALIBRATION_BINS` bins of equal width.

    Args:
        probabilities: ``[B, H, W]`` float in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.

    Returns:
        ``[B, 3, bins]`` float64: pixels, the sum of their probabilities, and how many are fake.

    Raises:
        ValueError: If an argument is anything else.
    """

    def histogram(p: Map, mask: Mask) -> Scores:
        bins = (p.ravel() * float(CALIBRATION_BINS)).astype(np.intp).clip(max=CALIBRATION_BINS - 1)
        weights = (None, p.ravel(), mask.ravel())
        return np.stack([np.bincount(bins, w, CALIBRATION_BINS) for w in weights])

    return each_image(histogram, probabilities, masks, torch.float64)


def level_counts(probabilities: Tensor, masks: Tensor, levels: int) -> Tensor:
    """Count each image's real and fake pixels by probability, in bins of equal width.

    Args:
        probabilities: ``[B, H, W]`` float in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.
        levels: How many bins; a probability on an edge belongs to the upper one.

    Returns:
        ``[B, 2, levels]`` float64: real pixels, fake pixels.

    Raises:
        ValueError: If an argument is anything else.
    """

    def counts(p: Map, mask: Mask) -> Scores:
        bins = (p.ravel() * float(levels)).astype(np.intp).clip(max=levels - 1)
        both = np.bincount(bins + levels * mask.ravel(), minlength=2 * levels)
        return both.reshape(2, levels).astype(np.float64)

    return each_image(counts, probabilities, masks, torch.float64)
