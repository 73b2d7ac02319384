"""How well maps find the fake pixels: the metrics of the table, and each as a function."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from declip_pl.metrics.batches import each_image
from declip_pl.metrics.decision import check_floor, photo_threshold
from declip_pl.metrics.ranking import Counts, Map, Mask, Ranking, Scores
from declip_pl.metrics.table import map_metrics, metric

THRESHOLD = 0.5

THRESHOLDS = tuple(step / 50 for step in range(1, 50))
"""Where :func:`threshold_curves` are sampled: 0.02 to 0.98."""


@metric(
    "iou",
    title="IoU",
    definition="intersection over union of the true region and the region found (probability over "
    "0.5)",
)
def _iou(image: Ranking) -> Scores:
    return image.above(THRESHOLD).iou()


@metric(
    "iou_decided",
    title="IoU, decided",
    definition="intersection over union at the photo's own threshold, which the decision finds in "
    "its probabilities",
    decided=True,
)
def _iou_decided(image: Ranking) -> Scores:
    assert image.floor is not None
    return image.above(photo_threshold(image.probabilities, image.floor)).iou()


@metric(
    "iou_tuned",
    title="IoU, tuned threshold",
    definition="intersection over union at the pixel threshold chosen on validation photos",
    tuned=True,
    key=False,
)
def _iou_tuned(image: Ranking) -> Scores:
    assert image.tuned is not None
    return image.above(image.tuned).iou()


@metric(
    "f1_plain",
    title="F1",
    definition="F1 of the pixels at 0.5, the mask's border counted",
    key=False,
)
def _f1(image: Ranking) -> Scores:
    return image.above(THRESHOLD).f1()


@metric(
    "f1_plain_best",
    title="Best F1",
    definition="F1 at each photo's own best threshold, the mask's border counted",
    needs_fake=True,
    key=False,
)
def _best_f1(image: Ranking) -> float:
    return _best(image.at_fakes())


@metric(
    "f1_fixed",
    title="F1 without border",
    definition="F1 at 0.5; a border around the mask does not count (the paper's F1)",
)
def _f1_border(image: Ranking) -> float:
    return _without_border(image, THRESHOLD)


@metric(
    "f1_best",
    title="Best F1 without border",
    definition="F1 at each photo's own best threshold; a border around the mask does not count",
    needs_fake=True,
)
def _best_f1_border(image: Ranking) -> float:
    return _best(image.at_fakes(border=False))


@metric(
    "f1_trufor_fixed",
    title="TruFor's F1",
    definition="F1 at 0.5 of the map or of its inverse, whichever is higher; a border around the "
    "mask does not count",
    needs_fake=True,
    key=False,
)
def _trufor_f1(image: Ranking) -> float:
    counts = image.above(THRESHOLD, border=False)
    return np.nan if image.is_all_border else float(max(counts.f1(), counts.inverse().f1()))


@metric(
    "f1_trufor_best",
    title="TruFor's best F1",
    definition="best F1 of the map or of its inverse, each at the photo's own best threshold, "
    "whichever is higher; a border around the mask does not count",
    needs_fake=True,
    key=False,
)
def _best_trufor_f1(image: Ranking) -> float:
    both = (image.at_fakes(border=False), image.up_to_fakes())
    return max(map(_best, both))


@metric(
    "f1_tuned",
    title="F1, tuned threshold",
    definition="F1 at the pixel threshold chosen on validation photos; a border around the mask "
    "does not count",
    tuned=True,
    key=False,
)
def _f1_tuned(image: Ranking) -> float:
    assert image.tuned is not None
    return _without_border(image, image.tuned)


@metric(
    "ap",
    title="AP",
    definition="average precision of the pixels: do fake pixels rank above real ones?",
    needs_fake=True,
)
def _average_precision(image: Ranking) -> float:
    """Return the mean precision over the fakes, each at its own probability as threshold."""
    counts = image.at_fakes()
    return float(100 * (counts.hits / counts.predicted).mean()) if counts.fakes else np.nan


def iou(probabilities: Tensor, masks: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Intersection over union of each image in percent; empty against empty is 100.

    Args:
        probabilities: ``[B, H, W]`` float in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.
        threshold: In [0, 1]; what is above it is called fake.

    Returns:
        ``[B]`` on the CPU.

    Raises:
        ValueError: If an argument is anything else.
    """
    _check_threshold(threshold)
    return each_image(lambda p, m: Ranking(p, m).above(threshold).iou(), probabilities, masks)


def f1(probabilities: Tensor, masks: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """F1 of each image in percent; empty against empty is 100. Arguments as of :func:`iou`."""
    _check_threshold(threshold)
    return each_image(lambda p, m: Ranking(p, m).above(threshold).f1(), probabilities, masks)


def f1_border(probabilities: Tensor, masks: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """F1 of each image in percent, the mask's border not counted (``f1_fixed`` of the paper).

    NaN where the mask has fake pixels but erosion leaves none. Arguments as of :func:`iou`.
    """
    _check_threshold(threshold)
    return each_image(lambda p, m: _without_border(Ranking(p, m), threshold), probabilities, masks)


def best_f1(probabilities: Tensor, masks: Tensor) -> Tensor:
    """F1 at each image's own best threshold in percent; NaN where the mask is empty.

    Arguments as of :func:`iou`.
    """
    return each_image(lambda p, m: _best_f1(Ranking(p, m)), probabilities, masks)


def best_f1_border(probabilities: Tensor, masks: Tensor) -> Tensor:
    """:func:`best_f1` without the mask's border (``f1_best`` of the paper).

    NaN where erosion leaves no fake pixel.
    """
    return each_image(lambda p, m: _best_f1_border(Ranking(p, m)), probabilities, masks)


def average_precision(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Pixel average precision of each image in percent; NaN where the mask is empty.

    Arguments as of :func:`iou`.
    """
    return each_image(lambda p, m: _average_precision(Ranking(p, m)), probabilities, masks)


def localization_scores(
    probabilities: Tensor, masks: Tensor, tuned: float | None = None, floor: float | None = None
) -> dict[str, Tensor]:
    """All metrics of the table that score maps, for each image, with one sort of its pixels.

    Args:
        probabilities: ``[B, H, W]`` float in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.
        tuned: A threshold chosen on validation photos; without one the metrics that need it are
            left out.
        floor: The decision's, chosen on validation photos; likewise.

    Returns:
        ``[B]`` percentages on the CPU by name; NaN where a score is not defined for an image.

    Raises:
        ValueError: If an argument is anything else.
    """
    if tuned is not None:
        _check_threshold(tuned)
    if floor is not None:
        check_floor(floor)
    metrics = map_metrics(tuned is not None, floor is not None)

    def scores(p: Map, mask: Mask) -> list[float]:
        image = Ranking(p, mask, tuned, floor)
        return [entry.of(image) for entry in metrics]

    columns = each_image(scores, probabilities, masks).unbind(1)
    return {entry.name: column for entry, column in zip(metrics, columns, strict=True)}


def threshold_curves(probabilities: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """IoU and F1 (border included) of each image at each of :data:`THRESHOLDS`.

    Args:
        probabilities: ``[B, H, W]`` float in [0, 1].
        masks: ``[B, H, W]`` bool, True = fake.

    Returns:
        ``iou`` and ``f1``, each ``[B, len(THRESHOLDS)]`` in percent; empty against empty is 100.

    Raises:
        ValueError: If an argument is anything else.
    """

    def curves(p: Map, mask: Mask) -> Scores:
        levels, fakes = np.array(THRESHOLDS, np.float32), p[mask]
        counts = Counts(_above(fakes, levels), _above(p, levels), len(fakes), p.size)
        return np.stack([counts.iou(), counts.f1()])

    iou_curve, f1_curve = each_image(curves, probabilities, masks).unbind(1)
    return {"iou": iou_curve, "f1": f1_curve}


def _above(pixels: Map, levels: Map) -> NDArray[np.intp]:
    return np.array([np.count_nonzero(pixels > level) for level in levels])


def _best(counts: Counts) -> float:
    return float(counts.f1().max()) if counts.fakes else np.nan


def _without_border(image: Ranking, threshold: float) -> float:
    return np.nan if image.is_all_border else float(image.above(threshold, border=False).f1())


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold in [0, 1]; found {threshold}")
