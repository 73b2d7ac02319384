"""Localization and detection metrics: pure functions, then thin torchmetrics ``Metric``s.

Shapes and units are the same everywhere: probabilities ``[B, H, W]`` float in [0, 1], masks
``[B, H, W]`` bool with True = fake, scores ``[B]`` float in percent. Where a score is not defined
for an image (no fake pixel to rank, say) its entry is NaN; means leave such images out and say
how many images they are made of.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

THRESHOLD = 0.5
ERODE, DILATE = 15, 11
"""Sides of the filters that make the no-care border (TruFor's protocol, used by the paper)."""

THRESHOLDS = tuple(step / 50 for step in range(1, 50))
"""Where :func:`threshold_curves` are sampled: 0.02 to 0.98."""

CALIBRATION_BINS = 15

PIXELS_AT_ONCE = 2**22
"""64 maps of 256 x 256."""

LOCALIZATION = ("iou", "f1_plain", "f1_plain_best", "f1_fixed", "f1_best", "ap")
"""Per-image scores: IoU and F1 at 0.5, F1 at the image's best threshold, the same two with a
no-care border (the paper's code), pixel average precision."""


def iou(probabilities: Tensor, masks: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Intersection over union of each image in percent; empty against empty is 100."""
    predicted = probabilities > threshold
    union = (predicted | masks).sum((1, 2))
    return _percent((predicted & masks).sum((1, 2)), union)


def f1(probabilities: Tensor, masks: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """F1 of each image in percent; empty against empty is 100."""
    return _f1(probabilities > threshold, masks, torch.ones_like(masks))


def f1_border(probabilities: Tensor, masks: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """F1 of each image in percent, the mask's border not counted (``f1_fixed`` of the paper).

    NaN where the mask has fake pixels but erosion leaves none.
    """
    fake, counted = _without_border(masks)
    scores = _f1(probabilities > threshold, fake, counted)
    return scores.masked_fill(_any(masks) & ~_any(fake), torch.nan)


def best_f1(probabilities: Tensor, masks: Tensor) -> Tensor:
    """F1 at each image's own best threshold in percent; NaN where the mask is empty."""
    return _rank(probabilities).curve(masks, torch.ones_like(masks)).best_f1()


def best_f1_border(probabilities: Tensor, masks: Tensor) -> Tensor:
    """:func:`best_f1` without the mask's border (``f1_best`` of the paper).

    NaN where erosion leaves no fake pixel.
    """
    return _rank(probabilities).curve(*_without_border(masks)).best_f1()


def average_precision(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Pixel average precision of each image in percent; NaN where the mask is empty."""
    return _rank(probabilities).curve(masks, torch.ones_like(masks)).average_precision()


def localization_scores(probabilities: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """All scores of :data:`LOCALIZATION` for each image, with one sort of its pixels.

    Args:
        probabilities: ``[B, H, W]`` in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.

    Returns:
        ``[B]`` percentages by name; NaN where a score is not defined for an image.

    Raises:
        ValueError: If a probability is NaN or outside [0, 1], or the shapes differ.
    """
    if probabilities.shape != masks.shape:
        raise ValueError(f"probabilities {probabilities.shape} against masks {masks.shape}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():  # False for NaN too
        raise ValueError("expected probabilities in [0, 1]; found NaN or values outside")
    ranking = _rank(probabilities)
    plain = ranking.curve(masks, torch.ones_like(masks))
    bordered = ranking.curve(*_without_border(masks))
    return {
        "iou": iou(probabilities, masks),
        "f1_plain": f1(probabilities, masks),
        "f1_plain_best": plain.best_f1(),
        "f1_fixed": f1_border(probabilities, masks),
        "f1_best": bordered.best_f1(),
        "ap": plain.average_precision(),
    }


def threshold_curves(probabilities: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """IoU and F1 (border included) of each image at each of :data:`THRESHOLDS`.

    Args:
        probabilities: ``[B, H, W]`` in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.

    Returns:
        ``iou`` and ``f1``, each ``[B, len(THRESHOLDS)]`` in percent; empty against empty is 100.
    """
    # The number of thresholds that each pixel is above; counting them bin by bin gives every
    # threshold's confusion matrix in one pass over the pixels.
    thresholds = torch.tensor(THRESHOLDS, device=probabilities.device)
    above = torch.bucketize(probabilities.flatten(1), thresholds)
    predicted = _at_least(above, torch.ones_like(above))
    hits = _at_least(above, masks.flatten(1).long())
    fake = masks.sum((1, 2))[:, None]
    return {
        "iou": _percent(hits, predicted + fake - hits),
        "f1": _percent(2 * hits, predicted + fake),
    }


def calibration_histogram(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Count each image's pixels by probability, in :data:`CALIBRATION_BINS` bins of equal width.

    Args:
        probabilities: ``[B, H, W]`` in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.

    Returns:
        ``[B, 3, bins]`` float64: pixels, the sum of their probabilities, and how many are fake.
    """
    values = probabilities.flatten(1).double()
    bins = (values * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    rows = torch.stack([torch.ones_like(values), values, masks.flatten(1).double()], dim=1)
    empty = rows.new_zeros(len(values), 3, CALIBRATION_BINS)
    return empty.scatter_add(2, bins[:, None].expand(-1, 3, -1), rows)


def by_size(
    probabilities: Tensor, masks: Sequence[Tensor]
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Resize predictions to the masks' own sizes, those of equal size together.

    Args:
        probabilities: ``[B, 1, h, w]`` in [0, 1].
        masks: B bool masks ``[H, W]``, True = fake.

    Yields:
        Positions in the batch, ``[b, H, W]`` probabilities and masks; as many at once as have
        :data:`PIXELS_AT_ONCE`, so that large photos need no more memory than many small ones.
    """
    positions: dict[torch.Size, list[int]] = defaultdict(list)
    for index, mask in enumerate(masks):
        positions[mask.shape].append(index)
    for size, same in positions.items():
        step = max(1, PIXELS_AT_ONCE // size.numel())
        for chosen in (same[start : start + step] for start in range(0, len(same), step)):
            resized = resize_to(probabilities[chosen], size).squeeze(1)
            yield chosen, resized, torch.stack([masks[i] for i in chosen])


def best_accuracy_threshold(scores: Tensor, labels: Tensor) -> float:
    """Return the threshold with the most correct decisions ``score > threshold``.

    It lies half-way between two neighbouring scores (or at 0 or 1); the lowest of equally good
    ones is taken.

    Args:
        scores: ``[N]`` image scores in [0, 1].
        labels: ``[N]`` 1 = fake, 0 = real.
    """
    ends = scores.new_tensor([0.0, 1.0])
    levels = torch.unique(torch.cat([scores, ends]))
    candidates = torch.cat([ends[:1], (levels[:-1] + levels[1:]) / 2, ends[1:]])
    fakes, reals = (scores[labels == value].sort().values for value in (1, 0))
    fakes_below = torch.searchsorted(fakes, candidates, right=True)
    reals_below = torch.searchsorted(reals, candidates, right=True)
    return float(candidates[(reals_below - fakes_below).argmax()])


class LocalizationMetrics(Metric):
    """Means over images of :data:`LOCALIZATION`, in percent.

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
        self.add_state("total", torch.zeros(len(LOCALIZATION)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(LOCALIZATION)), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, masks: Sequence[Tensor]) -> None:
        """Add a batch.

        Args:
            probabilities: ``[B, 1, h, w]`` in [0, 1].
            masks: B bool masks ``[H, W]``, True = fake, each of its own size.
        """
        for _, resized, stacked in by_size(probabilities, masks):
            scores = localization_scores(resized, stacked)
            table = torch.stack([scores[name] for name in LOCALIZATION])
            self.total += table.nansum(1)
            self.count += table.isfinite().sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Return each mean, and under ``NAME_n`` how many images it is made of.

        A score that is defined for no image has its count, 0, but no mean.
        """
        result = {f"{name}_n": count for name, count in zip(LOCALIZATION, self.count, strict=True)}
        for name, total in zip(LOCALIZATION, self.total, strict=True):
            if result[f"{name}_n"]:
                result[name] = total / result[f"{name}_n"]
        return result


class DetectionMetrics(Metric):
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
        """Add ``[B]`` image scores in [0, 1] and their ``[B]`` labels (1 = fake, 0 = real)."""
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


def resize_to(probabilities: Tensor, size: torch.Size) -> Tensor:
    """Resize ``[B, 1, h, w]`` maps bilinearly to ``size``, antialiased where they shrink."""
    if probabilities.shape[-2:] == size:
        return probabilities
    return F.interpolate(probabilities, size=size, mode="bilinear", antialias=True).clamp(0, 1)


class _Curve(NamedTuple):
    """Counts at every threshold of every image, from the highest to the lowest probability.

    ``hits`` and ``predicted`` are ``[B, N]`` counts of true and of all positives when everything
    up to that rank is called fake; ``is_threshold`` marks the last rank of equal probabilities,
    the only ranks that a threshold can reach; ``positives`` is ``[B]``.
    """

    hits: Tensor
    predicted: Tensor
    is_threshold: Tensor
    positives: Tensor

    def best_f1(self) -> Tensor:
        scores = 200.0 * self.hits / (self.predicted + self.positives[:, None]).clamp(min=1)
        best = scores.masked_fill(~self.is_threshold, 0).amax(1)
        return best.masked_fill(self.positives == 0, torch.nan)

    def average_precision(self) -> Tensor:
        precision = self.hits / self.predicted.clamp(min=1)
        at_threshold = self.hits.masked_fill(~self.is_threshold, 0)
        reached = F.pad(at_threshold.cummax(1).values[:, :-1], (1, 0))
        gained = (self.hits - reached).masked_fill(~self.is_threshold, 0)
        return 100 * (gained * precision).sum(1) / self.positives  # 0 / 0 = NaN: undefined


class _Ranking(NamedTuple):
    """The pixels of every image in falling order of probability: ``[B, N]`` each."""

    order: Tensor
    is_threshold: Tensor

    def curve(self, fake: Tensor, counted: Tensor) -> _Curve:
        hits = (fake & counted).flatten(1).gather(1, self.order).cumsum(1, dtype=torch.int32)
        predicted = counted.flatten(1).gather(1, self.order).cumsum(1, dtype=torch.int32)
        return _Curve(hits, predicted, self.is_threshold, hits[:, -1])


def _rank(probabilities: Tensor) -> _Ranking:
    values, order = probabilities.flatten(1).sort(dim=1, descending=True)
    is_threshold = F.pad(values[:, 1:] < values[:, :-1], (0, 1), value=True)
    return _Ranking(order, is_threshold)


def _without_border(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eroded masks and which pixels count: eroded fakes and what is surely real."""
    values = masks.float().unsqueeze(1)
    fake = (-_max_filter(-values, ERODE)).squeeze(1).bool()
    return fake, fake | ~_max_filter(values, DILATE).squeeze(1).bool()


def _max_filter(values: Tensor, side: int) -> Tensor:
    # Along one axis, then the other: the same maximum with 2 * side comparisons, not side ** 2.
    rows = F.max_pool2d(values, (side, 1), stride=1, padding=(side // 2, 0))
    return F.max_pool2d(rows, (1, side), stride=1, padding=(0, side // 2))


def _at_least(levels: Tensor, weights: Tensor) -> Tensor:
    """Sum the weights ``[B, N]`` of the pixels above each threshold: ``[B, len(THRESHOLDS)]``."""
    counts = weights.new_zeros(len(levels), len(THRESHOLDS) + 1).scatter_add(1, levels, weights)
    return counts.flip(1).cumsum(1).flip(1)[:, 1:]


def _f1(predicted: Tensor, fake: Tensor, counted: Tensor) -> Tensor:
    hits = (predicted & fake & counted).sum((1, 2))
    return _percent(2 * hits, (predicted & counted).sum((1, 2)) + (fake & counted).sum((1, 2)))


def _percent(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, 100 * part / whole.clamp(min=1), 100.0)


def _accuracy(scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    return 100 * ((scores > threshold) == labels.bool()).float().mean()


def _any(masks: Tensor) -> Tensor:
    return masks.flatten(1).any(1)


def _cat(values: list[Tensor] | Tensor) -> Tensor:
    # A list while images come in; one tensor after torchmetrics has gathered all processes.
    return torch.cat(values) if isinstance(values, list) and values else torch.as_tensor(values)
