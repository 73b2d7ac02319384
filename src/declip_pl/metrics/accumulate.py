"""Means over batches and processes: thin torchmetrics classes around the pure functions."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from declip_pl.metrics.decision import FLOORS
from declip_pl.metrics.detection import check_scores
from declip_pl.metrics.localization import (
    THRESHOLD,
    THRESHOLDS,
    localization_scores,
    threshold_curves,
)
from declip_pl.metrics.sizes import by_size
from declip_pl.metrics.table import map_metrics, untouched_metrics
from declip_pl.metrics.thresholds import Thresholds, Untouched, choose_thresholds
from declip_pl.metrics.untouched import floor_areas, untouched_scores

GRAIN = 2.0**-26
"""Scores are rounded to multiples of it, 1.5e-8 percent, before they are added: sums of up to a
million of them are then exact in 64 bits, so that neither their order nor the number of processes
that add them changes a digit."""


class MeanScores(torchmetrics.Metric):
    """Means over images of named scores, in percent; NaN are left out.

    Predictions are resized bilinearly to each mask's own size, as in the paper's evaluation. Use
    one object for each data set: nothing is pooled over pixels, but images are averaged.

    Args:
        names: Of the scores.
        options: Of torchmetrics' ``Metric``.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, names: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.names = list(names)
        for state in ("total", "count"):
            zeros = torch.zeros(len(self.names), dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, masks: Sequence[Tensor]) -> None:
        """Add a batch.

        Args:
            probabilities: ``[B, 1, h, w]`` in [0, 1].
            masks: B bool masks ``[H, W]``, True = fake, each of its own size.

        Raises:
            ValueError: If an argument is anything else.
        """
        for _, resized, stacked in by_size(probabilities, masks):
            scores = self.of_images(resized, stacked)
            table = torch.stack([scores[name].double() for name in self.names])
            table = _rounded(table).to(self.total.device)
            self.total += table.nansum(1)
            self.count += table.isfinite().sum(1)

    @abstractmethod
    def of_images(self, probabilities: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Return the ``[B]`` scores of ``[B, H, W]`` maps and masks by name."""

    def compute(self) -> dict[str, Tensor]:
        """Return each mean, and under ``NAME_n`` how many images it is made of.

        A score that is defined for no image has its count, 0, but no mean.
        """
        result = {f"{name}_n": count for name, count in zip(self.names, self.count, strict=True)}
        for name, total in zip(self.names, self.total, strict=True):
            if result[f"{name}_n"]:
                result[name] = total / result[f"{name}_n"]
        return result


class LocalizationMetrics(MeanScores):
    """Means over images of all metrics that score maps.

    Args:
        tuned: A threshold chosen on validation photos, in [0, 1]; without one the metrics that
            need it are left out.
        floor: The decision's, chosen on validation photos, in [0, 1]; likewise.
        options: Of torchmetrics' ``Metric``.
    """

    def __init__(
        self, tuned: float | None = None, floor: float | None = None, **options: Any
    ) -> None:
        names = [entry.name for entry in map_metrics(tuned is not None, floor is not None)]
        super().__init__(names, **options)
        self.tuned = tuned
        self.floor = floor

    def of_images(self, probabilities: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Return the ``[B]`` scores of ``[B, H, W]`` maps and masks by name."""
        return localization_scores(probabilities, masks, self.tuned, self.floor)


class UntouchedMetrics(MeanScores):
    """Means over untouched images of what is marked in them; of masks only the size counts.

    Args:
        floor: The decision's, chosen on validation photos, in [0, 1]; without one the metrics that
            need it are left out.
    """

    def __init__(self, floor: float | None = None) -> None:
        super().__init__([entry.name for entry in untouched_metrics(floor is not None)])
        self.floor = floor

    def of_images(self, probabilities: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Return the ``[B]`` scores of ``[B, H, W]`` maps by name."""
        return untouched_scores(probabilities, self.floor)


class DetectionMetrics(torchmetrics.Metric):
    """Image-level AP, AUROC and accuracy of fakes against reals, in percent.

    Args:
        tuned: A threshold chosen on validation photos, in [0, 1]; ``accuracy_tuned`` is measured
            at it and left out without one.
    """

    full_state_update = False
    scores: list[Tensor] | Tensor
    labels: list[Tensor] | Tensor

    def __init__(self, tuned: float | None = None) -> None:
        super().__init__()
        self.tuned = tuned
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
        """Return ``ap``, ``auroc``, ``accuracy`` (at 0.5) and ``n``.

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
        }
        if self.tuned is not None:
            result["accuracy_tuned"] = _accuracy(scores, labels, self.tuned)
        return result


class ThresholdChoice(torchmetrics.Metric):
    """Collects what a model's thresholds are chosen by, over batches and processes.

    Args:
        poolings: Ways from a map to an image score, each of which has a threshold of its own.
    """

    full_state_update = False
    curve: Tensor
    floors: Tensor
    fixed: Tensor
    counts: Tensor
    labels: list[Tensor] | Tensor

    def __init__(self, poolings: Sequence[str]) -> None:
        super().__init__()
        self.poolings = tuple(poolings)
        curve = torch.zeros(len(THRESHOLDS), dtype=torch.float64)
        floors = torch.zeros(2, len(FLOORS), dtype=torch.float64)
        self.add_state("curve", curve, dist_reduce_fx="sum")
        self.add_state("floors", floors, dist_reduce_fx="sum")
        self.add_state("fixed", floors.new_zeros(2), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("labels", [], dist_reduce_fx="cat")
        for index in range(len(self.poolings)):
            self.add_state(f"scores_{index}", [], dist_reduce_fx="cat")

    def update(
        self,
        probabilities: Tensor,
        masks: Sequence[Tensor],
        scores: Mapping[str, Tensor],
        labels: Tensor,
    ) -> None:
        """Add a batch.

        Args:
            probabilities: ``[B, 1, h, w]`` in [0, 1].
            masks: B bool masks ``[H, W]``, True = fake; those of reals are empty.
            scores: ``[B]`` image scores in [0, 1], by pooling.
            labels: ``[B]`` 1 = fake, 0 = real.

        Raises:
            ValueError: If an argument is anything else.
        """
        for kind, label in enumerate((1, 0)):
            chosen = (labels == label).nonzero()[:, 0].tolist()
            if chosen:
                self._add(kind, probabilities[chosen], [masks[index] for index in chosen])
        assert isinstance(self.labels, list)
        self.labels.append(labels.long())
        for index, pooling in enumerate(self.poolings):
            check_scores(scores[pooling], labels)
            getattr(self, f"scores_{index}").append(scores[pooling])

    def compute(self) -> list[Tensor]:
        """Return all that was collected, of all processes; the other methods make sense of it."""
        pooled = (getattr(self, f"scores_{index}") for index in range(len(self.poolings)))
        return [
            self.curve,
            self.floors,
            self.fixed,
            self.counts,
            _cat(self.labels),
            *map(_cat, pooled),
        ]

    def choose(self) -> Thresholds:
        """Return the thresholds, as :func:`declip_pl.metrics.choose_thresholds` chooses them."""
        curve, floors, fixed, counts, labels, *pooled = self.compute()
        return choose_thresholds(
            curve / counts[0] if counts[0] else None,
            dict(zip(self.poolings, pooled, strict=True)),
            labels,
            Untouched(*(floors / counts[1]), *(fixed / counts[1]).tolist()) if counts[1] else None,
        )

    def image_auroc(self) -> dict[str, float | None]:
        """Return how well scores tell fakes from reals, percent by pooling; None without both."""
        _, _, _, counts, labels, *pooled = self.compute()
        return {
            name: 100 * float(binary_auroc(scores, labels)) if counts.all() else None
            for name, scores in zip(self.poolings, pooled, strict=True)
        }

    def _add(self, kind: int, probabilities: Tensor, masks: Sequence[Tensor]) -> None:
        """Add manipulated photos (kind 0) or untouched ones (kind 1)."""
        for _, resized, stacked in by_size(probabilities, masks):
            if kind == 0:
                curves = _rounded(threshold_curves(resized, stacked)["iou"].double())
                self.curve += curves.sum(0).to(self.curve.device)
            else:
                areas = _rounded(floor_areas(resized).double())
                floors = torch.stack([areas.sum(0), 100 * (areas > 0).double().sum(0)])
                self.floors += floors.to(self.floors.device)
                fixed = untouched_scores(resized).values()  # the area, and whether there is a mark
                sums = [_rounded(values.double()).sum() for values in fixed]
                self.fixed += torch.stack(sums).to(self.fixed.device)
            self.counts[kind] += len(stacked)


def _rounded(scores: Tensor) -> Tensor:
    """Return scores of 64 bits as multiples of :data:`GRAIN`."""
    return (scores / GRAIN).round() * GRAIN


def _accuracy(scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    return 100 * ((scores > threshold) == labels.bool()).float().mean()


def _cat(values: list[Tensor] | Tensor) -> Tensor:
    # A list while images come in; one tensor after torchmetrics has gathered all processes.
    return torch.cat(values) if isinstance(values, list) and values else torch.as_tensor(values)
