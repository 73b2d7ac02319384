"""Means over batches and processes: thin torchmetrics classes around the pure functions."""

from collections.abc import Sequence
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from declip_pl.metrics.detection import best_accuracy_threshold, check_scores
from declip_pl.metrics.localization import THRESHOLD, localization_scores
from declip_pl.metrics.sizes import by_size
from declip_pl.metrics.table import map_metrics


class LocalizationMetrics(torchmetrics.Metric):
    """Means over images of all metrics that score maps, in percent.

    Predictions are resized bilinearly to each mask's own size, as in the paper's evaluation. Use
    one object for each data set: nothing is pooled over pixels, but images are averaged.

    Args:
        options: Of torchmetrics' ``Metric``.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.names = [entry.name for entry in map_metrics(tuned=False)]
        self.add_state("total", torch.zeros(len(self.names)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(self.names)), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, masks: Sequence[Tensor]) -> None:
        """Add a batch.

        Args:
            probabilities: ``[B, 1, h, w]`` in [0, 1].
            masks: B bool masks ``[H, W]``, True = fake, each of its own size.

        Raises:
            ValueError: If an argument is anything else.
        """
        for _, resized, stacked in by_size(probabilities, masks):
            scores = localization_scores(resized, stacked)
            table = torch.stack([scores[name] for name in self.names]).to(self.total.device)
            self.total += table.nansum(1)
            self.count += table.isfinite().sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Return each mean, and under ``NAME_n`` how many images it is made of.

        A score that is defined for no image has its count, 0, but no mean.
        """
        result = {f"{name}_n": count for name, count in zip(self.names, self.count, strict=True)}
        for name, total in zip(self.names, self.total, strict=True):
            if result[f"{name}_n"]:
                result[name] = total / result[f"{name}_n"]
        return result


class DetectionMetrics(torchmetrics.Metric):
    """Image-level AP, AUROC and accuracy of fakes against reals, in percent.

    Attributes:
        threshold: A threshold chosen on validation data; ``accuracy_tuned`` is measured at it.
    """

    full_state_update = False
    scores: list[Tensor] | Tensor
    labels: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.threshold: float | None = None
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add ``[B]`` image scores in [0, 1] and their ``[B]`` labels (1 = fake, 0 = real).

        Raises:
            ValueError: If they are anything else.
        """
        check_scores(scores, labels)
        assert isinstance(self.scores, list) and isinstance(self.labels, list)
        self.scores.append(scores)
        self.labels.append(labels.long())

    def compute(self) -> dict[str, Tensor]:
        """Return ``ap``, ``auroc``, ``accuracy`` (at 0.5), ``n`` and ``best_threshold``.

        The dictionary is empty while one of the two classes is missing.
        """
        scores, labels = _cat(self.scores), _cat(self.labels)
        if labels.numel() == 0 or labels.min() == labels.max():
            return {}
        result = {
            "ap": 100 * binary_average_precision(scores, labels),
            "auroc": 100 * binary_auroc(scores, labels),
            "accuracy": _accuracy(scores, labels, THRESHOLD),
            "n": torch.tensor(len(labels)),
            "best_threshold": torch.tensor(best_accuracy_threshold(scores, labels)),
        }
        if self.threshold is not None:
            result["accuracy_tuned"] = _accuracy(scores, labels, self.threshold)
        return result


def _accuracy(scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    return 100 * ((scores > threshold) == labels.bool()).float().mean()


def _cat(values: list[Tensor] | Tensor) -> Tensor:
    # A list while images come in; one tensor after torchmetrics has gathered all processes.
    return torch.cat(values) if isinstance(values, list) and values else torch.as_tensor(values)
