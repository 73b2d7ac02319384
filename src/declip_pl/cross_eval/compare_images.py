"""Differences of whole photos' scores: fakes against reals, for each resample of the photos."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from declip_pl.cross_eval.differences import Comparison, Difference, Pair, corrected
from declip_pl.cross_eval.evaluation import Evaluation, Images
from declip_pl.cross_eval.statistics import (
    Array,
    Indices,
    Sampled,
    Statistic,
    calibration_error,
    detection,
    image_histogram,
    sampled_difference,
)
from declip_pl.data.layout import REAL
from declip_pl.errors import UserError
from declip_pl.metrics import THRESHOLD

RANKED = ("image_ap", "image_auroc")
"""What :func:`declip_pl.cross_eval.statistics.detection` returns before accuracies."""


class Cell(NamedTuple):
    """One side of a cell: scores of fakes and of reals, ``[S, P]`` each, and seeds' thresholds."""

    fakes: Array
    reals: Array
    thresholds: list[float | None]


def image_comparison(
    a: Evaluation,
    b: Evaluation,
    pairs: Sequence[Pair],
    metric: str,
    groups: Mapping[str, NDArray[np.bool_]],
) -> Comparison:
    """Compare two evaluations by a metric of whole photos, paired by photo.

    Args:
        a: The one compared against.
        b: The other.
        pairs: The cells that both have.
        metric: Its name.
        groups: Which pairs a mean is over, by its name.

    Raises:
        UserError: If the metric needs thresholds that a model lacks, or nothing is scored.
    """
    cells = _cells(a, b, pairs)
    photos = cells[0][0].fakes.shape[1]
    sides = [[_statistic(cell[side], metric) for cell in cells] for side in (0, 1)]
    seeds = (len(cells[0][0].fakes), len(cells[0][1].fakes))
    counts = [_count(cell[0]) for cell in cells]

    def difference(where: tuple[str, str], chosen: Sequence[int]) -> Difference:
        first, second = (_mean([side[index] for index in chosen]) for side in sides)
        n = sum(counts[index] for index in chosen)
        change = sampled_difference(first, second, photos, seeds, n)
        before, after = (
            float(mean(np.ones(photos), np.arange(size)).item())
            for mean, size in zip((first, second), seeds, strict=True)
        )
        return Difference(where, before, after, change.estimate(), _p_value(change), nan)

    differences = [difference(pair.where, [index]) for index, pair in enumerate(pairs)]
    means = [
        difference((f"{name} mean", f"{chosen.sum()} cells"), np.flatnonzero(chosen).tolist())
        for name, chosen in groups.items()
        if chosen.any()
    ]
    how = "two-sided, from the resamples: how often the difference has the other sign"
    return Comparison(a, b, metric, seeds, corrected(differences), corrected(means), how)


def _cells(a: Evaluation, b: Evaluation, pairs: Sequence[Pair]) -> list[tuple[Cell, Cell]]:
    """Return both sides of each cell; a photo that one of them lacks counts for neither.

    The photos are those of all cells and of the reals, by name.
    """
    sides = [
        [
            (side.images((row, pair.column)), side.images((row, REAL)))
            for side, row in zip((a, b), pair.rows, strict=True)
        ]
        for pair in pairs
    ]
    parts = (part for cell in sides for side in cell for part in side)
    names = sorted({name for part in parts for found in part.values() for name in found.scores})
    cells = []
    for cell in sides:
        (fakes_a, reals_a), (fakes_b, reals_b) = cell
        fakes, reals = _paired(fakes_a, fakes_b, names), _paired(reals_a, reals_b, names)
        first, second = (
            Cell(fakes[side], reals[side], [found.threshold for _, found in sorted(seeds.items())])
            for side, seeds in enumerate((fakes_a, fakes_b))
        )
        cells.append((first, second))
    return cells


def _paired(
    a: Mapping[int, Images], b: Mapping[int, Images], names: Sequence[str]
) -> tuple[Array, Array]:
    """Return both sides' scores ``[S, P]``, NaN unless both have one of a photo."""
    first, second = _table(a, names), _table(b, names)
    both = np.isfinite(first).any(0) & np.isfinite(second).any(0)
    return np.where(both, first, np.nan), np.where(both, second, np.nan)


def _table(seeds: Mapping[int, Images], names: Sequence[str]) -> Array:
    return np.array([[s.scores.get(name, nan) for name in names] for _, s in sorted(seeds.items())])


def _statistic(cell: Cell, metric: str) -> Statistic:
    """Return what computes a metric of a cell: ``[..., 1]``."""
    if metric == "image_ece":
        tables = [
            image_histogram(fakes, np.ones(len(fakes)))
            + image_histogram(reals, np.zeros(len(reals)))
            for fakes, reals in zip(cell.fakes, cell.reals, strict=True)
        ]
        return calibration_error(np.stack(tables))
    thresholds = [THRESHOLD] * len(cell.fakes)
    if metric == "image_accuracy_tuned":
        thresholds = [value for value in cell.thresholds if value is not None]
        if len(thresholds) < len(cell.fakes):
            raise UserError(
                f"{metric} needs thresholds that a model has none of; expected {RANKED[1]}"
            )
    place = RANKED.index(metric) if metric in RANKED else len(RANKED)
    found = detection(cell.fakes[None], cell.reals, [thresholds])

    def statistic(counts: Array, seeds: Indices) -> Array:
        return found(counts, seeds)[..., [place]]

    return statistic


def _mean(cells: Sequence[Statistic]) -> Statistic:
    """Return the mean over cells of a statistic."""

    def mean(counts: Array, seeds: Indices) -> Array:
        total: Array = np.mean([cell(counts, seeds) for cell in cells], axis=0)
        return total

    return mean


def _count(cell: Cell) -> int:
    """Return how many photos a cell has, fakes and reals."""
    return int(sum(np.isfinite(part).any(0).sum() for part in (cell.fakes, cell.reals)))


def _p_value(change: Sampled) -> float:
    """Return how often the resampled difference lies on the other side of 0, twice.

    NaN without resamples. A difference that is 0 in every resample has a p-value of 1.
    """
    drawn = change.resamples[np.isfinite(change.resamples)]
    if not len(drawn):
        return nan
    beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(min(1.0, 2 * (beyond + 1) / (len(drawn) + 1)))
