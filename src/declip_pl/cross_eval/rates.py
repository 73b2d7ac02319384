"""ROC and precision-recall curves of cells, over pixels and over photos."""

from collections.abc import Sequence

import numpy as np

from declip_pl.cross_eval.cell import Cell
from declip_pl.cross_eval.figures import Rates, Roc
from declip_pl.cross_eval.statistics import Array, mean_of_defined

POINTS = 101
"""Of a curve: at 0, 1, ... 100 % of false alarms or of recall."""


def rates_of(cells: Sequence[Cell | None], images: tuple[Array, Array]) -> Rates:
    """Return the curves of a cell, means over its seeds.

    Args:
        cells: Those of its seeds, None where one failed.
        images: Scores of fakes and of reals, ``[S, P]`` each, NaN where there is none.
    """
    counted = [cell.pixels for cell in cells if cell and cell.pixels]
    pixels = [curve(np.array(c.fake[::-1]), np.array(c.real[::-1])) for c in counted]
    photos = [curve(*_counts(*pair)) for pair in zip(*images, strict=True)]
    return Rates(_mean(pixels), _mean(photos))


def curve(fakes: Array, reals: Array) -> Roc | None:
    """Return the curves of counts; None unless there are both.

    Args:
        fakes: How many fakes have the highest score, the next, and so on.
        reals: How many reals have these.
    """
    found, alarms = (np.concatenate([[0], np.cumsum(counts)]) for counts in (fakes, reals))
    if not found[-1] or not alarms[-1]:
        return None
    recall, false = found / found[-1], alarms / alarms[-1]
    precision = found / np.maximum(found + alarms, 1)
    grid = np.linspace(0, 1, POINTS)
    # The first cut that finds as much; of no photo at all, what the first one has.
    places = np.searchsorted(recall, grid - 1e-12).clip(1)
    return Roc(
        _percent(grid), _percent(_at(grid, false, recall)),
        _percent(grid), _percent(precision[places]),
        float(100 * found[-1] / (found[-1] + alarms[-1])),
    )  # fmt: skip


def _at(grid: Array, x: Array, y: Array) -> Array:
    """Return rising ``y`` over rising ``x`` at a grid; where ``x`` stands still, its last one."""
    last = np.append(np.diff(x) > 0, True)
    found: Array = np.interp(grid, x[last], y[last])
    return found


def _counts(fakes: Array, reals: Array) -> tuple[Array, Array]:
    """Return how many of ``[P]`` fakes and reals have each score, the highest first."""
    fakes, reals = (scores[np.isfinite(scores)] for scores in (fakes, reals))
    levels = np.unique(np.concatenate([fakes, reals]))
    counts = [np.zeros(len(levels)), np.zeros(len(levels))]
    for count, scores in zip(counts, (fakes, reals), strict=True):
        np.add.at(count, np.searchsorted(levels, scores), 1)
    return counts[0][::-1], counts[1][::-1]


def _mean(curves: Sequence[Roc | None]) -> Roc | None:
    defined = [found for found in curves if found]
    if not defined:
        return None

    def mean(name: str) -> list[float]:
        curves = np.array([getattr(found, name) for found in defined])
        return [round(float(value), 2) for value in curves.mean(0)]

    return Roc(
        mean("alarms"), mean("found"), mean("recall"), mean("precision"),
        float(mean_of_defined(np.array([found.fake for found in defined]))),
    )  # fmt: skip


def _percent(values: Array) -> list[float]:
    return [100 * float(value) for value in values]
