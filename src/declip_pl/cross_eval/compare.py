"""Is B better than A? Two cross-evaluations or two models on the same test data, photo by photo."""

from collections.abc import Collection, Sequence
from math import isnan, nan

import numpy as np
from numpy.typing import NDArray

from declip_pl.cross_eval.compare_images import image_comparison
from declip_pl.cross_eval.differences import Comparison, Difference, Pair, Seeds, corrected
from declip_pl.cross_eval.evaluation import Evaluation, read_evaluations
from declip_pl.cross_eval.matrix import UNPERTURBED
from declip_pl.cross_eval.statistics import (
    RESAMPLES,
    Array,
    mean_of_cells,
    mean_of_defined,
    paired_p_value,
    sampled_difference,
)
from declip_pl.cross_eval.text_table import aligned
from declip_pl.data.layout import REAL
from declip_pl.errors import UserError
from declip_pl.metrics import find_metric

SIGNIFICANT = 0.05


def compare(a: str, b: str, metric: str = "iou") -> None:
    """Print where one cross-evaluation or model is better than another, and how sure that is.

    Two models are compared on every test set, whatever they were trained on.

    Args:
        a: Folder of a cross-evaluation, or what one has scored: a run's folder, a checkpoint, a
            saved folder, a hub id, starter, or a folder of another method's heat maps.
        b: Another on the same test data; positive differences are in its favour.
        metric: A score of single photos, such as iou or ap, or of whole test sets beside their
            real photos: image_auroc, image_ap, image_accuracy, image_accuracy_tuned, image_ece.

    Raises:
        UserError: If the two can't be compared.
    """
    print(describe(comparison(*read_evaluations(a, b), metric)))


def comparison(a: Evaluation, b: Evaluation, metric: str) -> Comparison:
    """Compare two evaluations, paired by photo.

    Raises:
        UserError: If they share no cell, were made on different test data, or lack the metric.
    """
    pairs = _shared(a, b)
    _check_test_data(a, b, [pair.column for pair in pairs])
    if find_metric(metric).level == "images":
        _check_test_data(a, b, [REAL])
        return image_comparison(a, b, pairs, metric, _groups(a, b, pairs))
    _check_metric(pairs, metric)
    scores_a, scores_b = _paired(pairs, metric)
    scored = [index for index, cell in enumerate(scores_a) if np.isfinite(cell).any()]
    if not scored:
        raise UserError(f"{metric} is not defined for any photo of {a.folder} and {b.folder}")
    pairs = [pairs[index] for index in scored]
    scores_a, scores_b = scores_a[scored], scores_b[scored]
    differences = [
        _difference(pair.where, scores_a[[i]], scores_b[[i]]) for i, pair in enumerate(pairs)
    ]
    means = [
        _difference((f"{name} mean", f"{chosen.sum()} cells"), scores_a[chosen], scores_b[chosen])
        for name, chosen in _groups(a, b, pairs).items()
        if chosen.any()
    ]
    seeds = (scores_a.shape[1], scores_b.shape[1])
    how = "two-sided sign-flip permutation test over photos"
    return Comparison(a, b, metric, seeds, corrected(differences), corrected(means), how)


def describe(result: Comparison) -> str:
    """Return a comparison as text: which is which, a table, and what its numbers mean."""
    a, b = result.a, result.b
    seeds_a, seeds_b = result.seeds
    photos = sorted({difference.change.n for difference in result.cells})
    lines = [
        *(f"{name}: {side.title}{_perturbed(side)}" for name, side in (("A", a), ("B", b))),
        f"{result.metric} in percent{_less(result.metric)}, and B - A in points, paired by photo: "
        f"{len(result.cells)} cells of {_range(photos)} photos",
        "",
        *_table([*result.cells, *result.means]),
        "",
        f"* corrected p below {SIGNIFICANT}",
        f"interval: 95 %, percentile bootstrap ({RESAMPLES} resamples) over photos"
        + (f", and over seeds (A {seeds_a}, B {seeds_b})" if max(result.seeds) > 1 else ""),
        f"p: {result.how}; corrected by Holm's method "
        f"over the {len(result.cells)} cells, and separately over the means",
        f"seeds: A {seeds_a}, B {seeds_b}; a p-value is about the trained models as they are, "
        "seeds averaged, on other such photos: it doesn't say that other trainings would differ",
    ]
    notices = {side.matrix.notice: None for side in (a, b) if side.matrix.notice}
    return "\n".join([*lines, *notices])


def _shared(a: Evaluation, b: Evaluation) -> list[Pair]:
    """Return every cell that both have: of the same row, or of two models."""
    there = {(_row(b, a, row), column): (row, column) for row, column in b.cells()}
    pairs = [
        Pair(
            (row, there[row, column][0]),
            column,
            a.photos((row, column)),
            b.photos(there[row, column]),
        )
        for row, column in a.cells()
        if (row, column) in there
    ]
    shared = [pair for pair in pairs if pair.a and pair.b]
    if pairs and not shared:
        raise UserError(
            f"{a.folder} and {b.folder} share no cell that can be read: run the same "
            "`cross-eval` or `evaluate` again, which scores what is missing"
        )
    if not shared:
        raise UserError(f"{a.folder} and {b.folder} share no cell: {_extent(a)}; {_extent(b)}")
    return shared


def _row(side: Evaluation, other: Evaluation, row: str) -> str:
    """Return what a row is called on the other side: two models are paired whatever theirs are."""
    return other.model.row if side.model and other.model else row


def _extent(evaluation: Evaluation) -> str:
    matrix = evaluation.matrix
    rows, columns = ", ".join(matrix.rows), ", ".join(matrix.columns)
    return f"{evaluation.folder} has rows {rows} and columns {columns}"


def _check_test_data(a: Evaluation, b: Evaluation, columns: Sequence[str]) -> None:
    for column in dict.fromkeys(columns):
        if any(column not in side.matrix.data.tests for side in (a, b)):
            raise UserError(
                f"there are no {column} photos in both of {a.folder} and {b.folder}; a metric of "
                "whole photos needs them: expected one of single photos, such as iou"
            )
        hashes = [side.matrix.data.tests[column].sha256 for side in (a, b)]
        if hashes[0] != hashes[1]:
            raise UserError(
                f"{b.folder}: test set {column} is not the one of {a.folder} (their SHA-256 "
                "differ); scores can be compared on the same photos and masks only: "
                "cross-evaluate both on one data set"
            )


def _check_metric(pairs: Sequence[Pair], metric: str) -> None:
    scores = [set(found) for p in pairs for side in (p.a, p.b) for _, found in side.values()]
    known = sorted(set.intersection(*scores))
    if metric not in known:
        raise UserError(f"metric {metric} is not in every cell; expected {', '.join(known)}")


def _groups(a: Evaluation, b: Evaluation, pairs: Sequence[Pair]) -> dict[str, NDArray[np.bool_]]:
    """Return which pairs are in-domain on both sides, and which out-of-domain on both.

    Of whole cross-evaluations only rows of one generator count. Rows of which the training data
    are not on record are in neither.
    """
    trained = [(a.trained_on(pair.rows[0]), b.trained_on(pair.rows[1])) for pair in pairs]
    whole = not (a.model and b.model)
    counted = np.array([all(t) and not (whole and max(map(len, t)) > 1) for t in trained], bool)
    inside = np.array(
        [[pair.column in found for found in t] for pair, t in zip(pairs, trained, strict=True)]
    )
    return {
        "in-domain": counted & inside.all(1),
        "out-of-domain": counted & ~inside.any(1),
    }


def _paired(pairs: Sequence[Pair], metric: str) -> tuple[Array, Array]:
    """Return the scores of A and of B, ``[C, S, P]`` each, NaN unless a photo has both."""
    names = sorted({
        photo for pair in pairs for side in (pair.a, pair.b) for photos, _ in side.values()
        for photo in photos
    })  # fmt: skip
    a = _array([pair.a for pair in pairs], names, metric)
    b = _array([pair.b for pair in pairs], names, metric)
    both = (_is_complete(a) & _is_complete(b))[:, None]
    return np.where(both, a, np.nan), np.where(both, b, np.nan)


def _array(cells: Collection[Seeds], names: Sequence[str], metric: str) -> Array:
    """Return ``[C, S, P]`` scores, NaN where a seed, a photo or a score is missing."""
    seeds = sorted({seed for cell in cells for seed in cell})
    place = {name: index for index, name in enumerate(names)}
    scores = np.full((len(cells), len(seeds), len(names)), np.nan)
    for index, cell in enumerate(cells):
        for seed, (photos, found) in cell.items():
            places = [place[photo] for photo in photos]
            scores[index, seeds.index(seed), places] = found[metric]
    return scores


def _is_complete(scores: Array) -> NDArray[np.bool_]:
    """Return for which photos every seed that was scored in a cell has a score: ``[C, P]``."""
    defined = np.isfinite(scores)
    seeds_scored = defined.any(2).sum(1, keepdims=True)
    complete: NDArray[np.bool_] = defined.any(1) & (defined.sum(1) == seeds_scored)
    return complete


def _difference(where: tuple[str, str], a: Array, b: Array) -> Difference:
    """Return how the mean over cells differs between ``[C, S, P]`` scores of the same photos."""
    a, b = _without_empty(a), _without_empty(b)
    mean_a, mean_b = mean_of_cells(a), mean_of_cells(b)
    photos, seeds_a, seeds_b = a.shape[2], a.shape[1], b.shape[1]
    n = int(np.isfinite(a).any(1).sum())
    return Difference(
        where,
        a=float(mean_a(np.ones(photos), np.arange(seeds_a))[0]),
        b=float(mean_b(np.ones(photos), np.arange(seeds_b))[0]),
        change=sampled_difference(mean_a, mean_b, photos, (seeds_a, seeds_b), n).estimate(),
        p_value=paired_p_value(_contributions(a, b)),
        corrected=nan,
    )


def _without_empty(scores: Array) -> Array:
    """Leave out seeds and photos that occur in none of the cells."""
    defined = np.isfinite(scores)
    return scores[:, defined.any((0, 2))][:, :, defined.any((0, 1))]


def _contributions(a: Array, b: Array) -> Array:
    """Return ``[P]`` numbers, one for each photo, whose mean is the mean difference of the cells.

    A photo that several generators manipulated is one observation, so its signs flip together.
    """
    changes = mean_of_defined(b.swapaxes(1, 2)) - mean_of_defined(a.swapaxes(1, 2))
    cells, photos = changes.shape
    counts = np.isfinite(changes).sum(1, keepdims=True)
    contributions: Array = np.nansum(changes * photos / counts, 0) / cells
    return contributions


def _table(differences: Sequence[Difference]) -> list[str]:
    head = ("row", "column", "A", "B", "B - A", "95 % interval", "p", "corrected p", "")
    lines = [head, *(_line(difference) for difference in differences)]
    return aligned(lines, left=(0, 1))


def _line(difference: Difference) -> tuple[str, ...]:
    change = difference.change
    return (
        *difference.where,
        f"{difference.a:.1f}",
        f"{difference.b:.1f}",
        f"{change.value:+.1f}",
        "undefined" if isnan(change.low) else f"[{change.low:+.1f}, {change.high:+.1f}]",
        _p(difference.p_value),
        _p(difference.corrected),
        "*" if difference.corrected < SIGNIFICANT else "",
    )


def _less(metric: str) -> str:
    return " (less is better)" if find_metric(metric).less_is_better else ""


def _p(value: float) -> str:
    if isnan(value):
        return "undefined"
    return f"{value:.3f}" if value >= 0.0005 else "<0.001"  # noqa: PLR2004


def _range(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _perturbed(side: Evaluation) -> str:
    through = side.matrix.perturbation
    return "" if through == UNPERTURBED else f", photos went through {through}"
