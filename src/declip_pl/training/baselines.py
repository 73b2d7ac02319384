"""Scores of answers that never look at the photo: what a localizer has to beat."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.metrics import iou
from declip_pl.metrics.accumulate import LocalizationMetrics
from declip_pl.model.features import OUTPUT_SIZE

_CHUNK = 64  # masks that are compared at once


def baselines(
    data: LocalizationDataModule, decided: bool = False
) -> dict[str, dict[str, dict[str, float]]]:
    """Score answers that never look at the photo, for each generator's test set.

    ``all fake``, ``all real``, and ``mean train mask``: the share of training masks that are fake
    at each pixel, cut where it overlaps best with the training masks.

    Args:
        data: What is tested on.
        decided: Whether to cut them by the decision, too; constant answers need no floor.

    Returns:
        Localization scores in percent by generator and baseline; none of ``mean train mask`` where
        there are no training masks.
    """
    answers = {"all fake": constant(1), "all real": constant(0)}
    mean = mean_mask(data.train_masks())
    if mean is not None:
        answers["mean train mask"] = mean
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for generator in data.generators:
        # Only one process writes results, so there is nobody to gather from.
        metrics = {
            name: LocalizationMetrics(floor=0.0 if decided else None, sync_on_compute=False)
            for name in answers
        }
        test_masks = data.evaluation_set(generator, "test", generator).masks()
        for mask in tqdm(test_masks, f"baselines on {generator}", leave=False, disable=None):
            for metric, answer in zip(metrics.values(), answers.values(), strict=True):
                metric.update(answer[None, None], [mask])
        found = {name: _floats(metric) for name, metric in metrics.items()}
        scores[generator] = found if mean is not None else found | {"mean train mask": {}}
    return scores


def constant(probability: float) -> Tensor:
    """Return a map that has one probability everywhere, ``[256, 256]``."""
    return torch.full((OUTPUT_SIZE, OUTPUT_SIZE), float(probability))


def mean_mask(train_masks: Iterable[NDArray[np.bool_]]) -> Tensor | None:
    """Return the mean of training masks, scaled so that its best cut lies at 0.5: ``[H, W]``.

    None of no masks.
    """
    masks = _Masks(train_masks)
    return _centred(masks) if len(masks) else None


class _Masks:
    """Masks in a bit for each pixel, ``[H, W]`` bool each.

    Args:
        masks: Any number, all of one size.
    """

    def __init__(self, masks: Iterable[NDArray[np.bool_]]) -> None:
        self.packed = [np.packbits(mask, axis=-1) for mask in masks]

    def __len__(self) -> int:
        return len(self.packed)

    def chunks(self) -> Iterator[Tensor]:
        """Yield ``[N, H, W]`` bool, at most :data:`_CHUNK` masks at once."""
        for start in range(0, len(self), _CHUNK):
            bits = np.unpackbits(np.stack(self.packed[start : start + _CHUNK]), axis=-1)
            yield torch.from_numpy(bits.view(np.bool_))


def _centred(masks: _Masks) -> Tensor:
    """Return the mean of masks, scaled so that its best cut lies at 0.5: ``[H, W]``."""
    mean = sum((chunk.sum(0) for chunk in masks.chunks()), torch.tensor(0)) / len(masks)
    levels = torch.linspace(0, 1, 21)[1:-1] * mean.max()
    overlap = torch.cat([_overlaps(mean, chunk, levels) for chunk in masks.chunks()], 1).mean(1)
    return (mean / (2 * levels[overlap.argmax()])).clamp(0, 1)


def _overlaps(mean: Tensor, masks: Tensor, levels: Tensor) -> Tensor:
    """Return the IoU of a map that is cut at L levels with each of N masks: ``[L, N]``."""
    return torch.stack([iou(mean.expand_as(masks), masks, float(level)) for level in levels])


def _floats(metric: LocalizationMetrics) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}
