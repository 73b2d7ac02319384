"""Localization and detection metrics: pure functions, then thin torchmetrics ``Metric``s.

Shapes and units are the same everywhere: probabilities ``[B, H, W]`` float in [0, 1], masks
``[B, H, W]`` bool with True = fake, scores ``[B]`` float in percent. Where a score is not defined
for an image (no fake pixel to rank, say) its entry is NaN; means leave such images out and say
how many images they are made of.

Pixels are counted on the host, an image in each thread: numpy sorts integers by counting, eight
times faster than torch sorts floats.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
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
    return _each(lambda p, mask: _plain(p, mask).above(threshold).iou(), probabilities, masks)


def f1(probabilities: Tensor, masks: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """F1 of each image in percent; empty against empty is 100."""
    return _each(lambda p, mask: _plain(p, mask).above(threshold).f1(), probabilities, masks)


def f1_border(probabilities: Tensor, masks: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """F1 of each image in percent, the mask's border not counted (``f1_fixed`` of the paper).

    NaN where the mask has fake pixels but erosion leaves none.
    """
    return _each(lambda p, mask: _bordered(p, mask).f1_at(threshold, mask), probabilities, masks)


def best_f1(probabilities: Tensor, masks: Tensor) -> Tensor:
    """F1 at each image's own best threshold in percent; NaN where the mask is empty."""
    return _each(lambda p, mask: _rank(p, mask)[0].at_fakes().best_f1(), probabilities, masks)


def best_f1_border(probabilities: Tensor, masks: Tensor) -> Tensor:
    """:func:`best_f1` without the mask's border (``f1_best`` of the paper).

    NaN where erosion leaves no fake pixel.
    """
    return _each(lambda p, mask: _rank(p, mask)[1].at_fakes().best_f1(), probabilities, masks)


def average_precision(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Pixel average precision of each image in percent; NaN where the mask is empty."""
    return _each(
        lambda p, mask: _rank(p, mask)[0].at_fakes().average_precision(), probabilities, masks
    )


def localization_scores(probabilities: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """All scores of :data:`LOCALIZATION` for each image, with one sort of its pixels.

    Args:
        probabilities: ``[B, H, W]`` in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.

    Returns:
        ``[B]`` percentages on the CPU by name; NaN where a score is not defined for an image.

    Raises:
        ValueError: If a probability is NaN or outside [0, 1], or the shapes differ.
    """
    if probabilities.shape != masks.shape:
        raise ValueError(f"probabilities {probabilities.shape} against masks {masks.shape}")
    lowest, highest = probabilities.aminmax()
    if not (lowest >= 0 and highest <= 1):  # False for NaN too
        raise ValueError("expected probabilities in [0, 1]; found NaN or values outside")
    columns = _each(_all_scores, probabilities, masks).unbind(1)
    return dict(zip(LOCALIZATION, columns, strict=True))


def threshold_curves(probabilities: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """IoU and F1 (border included) of each image at each of :data:`THRESHOLDS`.

    Args:
        probabilities: ``[B, H, W]`` in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.

    Returns:
        ``iou`` and ``f1``, each ``[B, len(THRESHOLDS)]`` in percent; empty against empty is 100.
    """

    def curves(p: _Map, mask: _Mask) -> _Scores:
        levels, fakes = np.array(THRESHOLDS, np.float32), p[mask]
        hits, predicted = (
            np.array([np.count_nonzero(pixels > level) for level in levels])
            for pixels in (fakes, p)
        )
        counts = _Counts(hits, predicted, len(fakes))
        return np.stack([counts.iou(), counts.f1()])

    iou_curve, f1_curve = _each(curves, probabilities, masks).unbind(1)
    return {"iou": iou_curve, "f1": f1_curve}


def calibration_histogram(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Count each image's pixels by probability, in :data:`CALIBRATION_BINS` bins of equal width.

    Args:
        probabilities: ``[B, H, W]`` in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.

    Returns:
        ``[B, 3, bins]`` float64: pixels, the sum of their probabilities, and how many are fake.
    """

    def histogram(p: _Map, mask: _Mask) -> _Scores:
        bins = (p.ravel() * float(CALIBRATION_BINS)).astype(np.intp).clip(max=CALIBRATION_BINS - 1)
        weights = (None, p.ravel(), mask.ravel())
        return np.stack([np.bincount(bins, w, CALIBRATION_BINS) for w in weights])

    return _each(histogram, probabilities, masks, torch.float64)


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
            table = torch.stack([scores[name] for name in LOCALIZATION]).to(self.total.device)
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


_Map = NDArray[np.float32]
_Mask = NDArray[np.bool_]
_Scores = NDArray[np.float64]


class _Counts(NamedTuple):
    """How many pixels a threshold calls fake, how many of them are, and how many are in all.

    ``hits`` and ``predicted`` hold an entry for each of several thresholds, or are one number.
    """

    hits: Any
    predicted: Any
    fakes: int

    def iou(self) -> _Scores:
        return _percent(self.hits, self.predicted + self.fakes - self.hits)

    def f1(self) -> _Scores:
        return _percent(2 * self.hits, self.predicted + self.fakes)

    def best_f1(self) -> float:
        return float(self.f1().max()) if self.fakes else np.nan

    def average_precision(self) -> float:
        """Return the mean precision over the fakes, each at its own probability as threshold."""
        return float(100 * (self.hits / self.predicted).mean()) if self.fakes else np.nan


class _Image(NamedTuple):
    """An image's probabilities, which of its pixels are fake and which do not count."""

    probabilities: _Map
    fake: _Mask
    ignored: _Mask

    def above(self, threshold: float) -> _Counts:
        """Count at one threshold."""
        above = self.probabilities > np.float32(threshold)
        predicted = np.count_nonzero(above) - np.count_nonzero(above & self.ignored)
        hits = np.count_nonzero(above & self.fake)
        return _Counts(hits, predicted, int(np.count_nonzero(self.fake)))

    def f1_at(self, threshold: float, mask: _Mask) -> _Scores | float:
        """Return F1, or NaN where all fakes of the mask are ignored."""
        lost = mask.any() and not self.fake.any()
        return np.nan if lost else self.above(threshold).f1()


class _Ranking(NamedTuple):
    """An image's pixels in rising order of probability.

    ``values`` are the probabilities' bits, which rise as they do; ``fakes`` and ``ignored`` are
    the ranks of the fakes that count and of all pixels that do not.
    """

    values: NDArray[np.uint32]
    fakes: NDArray[np.intp]
    ignored: NDArray[np.intp]

    def at_fakes(self) -> _Counts:
        """Count at the probability of each fake, itself included.

        No other threshold matters: between two of them only alarms are gained.
        """
        found = self.values[self.fakes]
        ranks = self.fakes.copy()
        tied = found == self.values[ranks - 1]  # before rank 0 comes the last: equal if all are
        ranks[tied] = np.searchsorted(self.values, found[tied])
        hits = len(self.fakes) - np.searchsorted(self.fakes, ranks)
        ignored = len(self.ignored) - np.searchsorted(self.ignored, ranks)
        return _Counts(hits, len(self.values) - ranks - ignored, len(self.fakes))


def _all_scores(probabilities: _Map, mask: _Mask) -> list[Any]:
    """Return an image's scores in the order of :data:`LOCALIZATION`."""
    inner = _bordered(probabilities, mask)
    plain, bordered = _ranks(inner, mask)
    at_half, curve = _plain(probabilities, mask).above(THRESHOLD), plain.at_fakes()
    return [
        at_half.iou(),
        at_half.f1(),
        curve.best_f1(),
        inner.f1_at(THRESHOLD, mask),
        bordered.at_fakes().best_f1(),
        curve.average_precision(),
    ]


def _rank(probabilities: _Map, mask: _Mask) -> tuple[_Ranking, _Ranking]:
    return _ranks(_bordered(probabilities, mask), mask)


def _ranks(image: _Image, mask: _Mask) -> tuple[_Ranking, _Ranking]:
    """Rank an image's pixels, with its mask's border and without it."""
    # Bits of floats in [0, 1] leave two free: is it fake, does it count.
    keys = image.probabilities.view(np.uint32) << np.uint32(2)
    keys |= mask.view(np.uint8) << 1
    keys |= ~image.ignored
    keys = _in_order(keys.ravel())
    values, is_fake, counts = keys >> np.uint32(2), keys & 2 > 0, keys & 1 > 0
    fakes, ignored = np.flatnonzero(is_fake), np.flatnonzero(~counts)
    return _Ranking(values, fakes, ignored[:0]), _Ranking(values, fakes[counts[fakes]], ignored)


def _in_order(keys: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Sort by the lower halves, then by the upper ones: numpy sorts 16 bits by counting.

    That takes 0.6 ms for 256 x 256 whatever vector units there are; ``np.sort`` takes 0.2 with
    AVX2, but 1.3 with the AVX-512 of Zen 4.
    """
    for shift in (0, 16):
        halves = (keys >> np.uint32(shift)).astype(np.uint16)
        keys = keys[np.argsort(halves, kind="stable")]
    return keys


def _plain(probabilities: _Map, mask: _Mask) -> _Image:
    return _Image(probabilities, mask, np.zeros_like(mask))


def _bordered(probabilities: _Map, mask: _Mask) -> _Image:
    """Return an image whose fakes are the eroded mask; only they and what is surely real count."""
    pixels = mask.view(np.uint8)
    fake = cv2.erode(pixels, np.ones((ERODE, ERODE), np.uint8)).view(np.bool_)
    near = cv2.dilate(pixels, np.ones((DILATE, DILATE), np.uint8)).view(np.bool_)
    return _Image(probabilities, fake, near & ~fake)


def _each(
    score: Callable[[_Map, _Mask], Any],
    probabilities: Tensor,
    masks: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return what ``score`` returns for each image as ``[B, ...]`` on the CPU."""
    maps, truth = probabilities.detach().float().cpu().numpy(), masks.cpu().numpy()
    # numpy and OpenCV count outside the interpreter lock.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return torch.tensor(np.array(list(pool.map(score, maps, truth))), dtype=dtype)


def _percent(part: Any, whole: Any) -> _Scores:
    return np.where(np.equal(whole, 0), 100.0, 100 * part / np.maximum(whole, 1))


def _accuracy(scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    return 100 * ((scores > threshold) == labels.bool()).float().mean()


def _cat(values: list[Tensor] | Tensor) -> Tensor:
    # A list while images come in; one tensor after torchmetrics has gathered all processes.
    return torch.cat(values) if isinstance(values, list) and values else torch.as_tensor(values)
