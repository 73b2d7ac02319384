"""Scores by kinds of fakes: how large they are, how much of them is fake, in how many regions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import inf, isnan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from declip_pl.cross_eval.cell import Cell
from declip_pl.cross_eval.matrix import Bin, BinScore, Matrix, Score
from declip_pl.cross_eval.measured import IN, OUT
from declip_pl.cross_eval.scores import Scores, count_photos
from declip_pl.cross_eval.statistics import Array, Indices, Statistic, means_of, sampled
from declip_pl.csv_files import write_csv

FILE = "by_kind.csv"
COLUMNS = ("kind", "bin", "photos", "train", "part", "metric", "value", "ci_low", "ci_high", "n")

METRICS = ("iou", "iou_decided")
"""What is broken down."""

Part = tuple[str, str | None, Sequence[str]]
"""A row (or baseline), which part of it, and the test sets of that part."""


@dataclass(frozen=True)
class Kind:
    """What fakes are sorted by.

    Attributes:
        title: What it is called.
        edges: Where bins begin; the last has no end.
        of: Returns the value of each photo of a cell, ``[P]``.
        name: Returns what a bin from one edge up to the next is called.
    """

    title: str
    edges: tuple[float, ...]
    of: Callable[[Cell], Array]
    name: Callable[[float, float], str]

    @property
    def bins(self) -> list[tuple[float, float, str]]:
        """Where each bin begins, where the next begins, and its name."""
        pairs = pairwise((*self.edges, inf))
        return [(low, high, self.name(low, high)) for low, high in pairs]


def _share(low: float, high: float) -> str:
    if not low:
        return f"under {high:g} %"
    return f"{low:g} % and more" if high == inf else f"{low:g} to {high:g} %"


def _whole(unit: str) -> Callable[[float, float], str]:
    def name(low: float, high: float) -> str:
        if not low:
            return f"under {high:g}{unit}"
        if high == inf:
            return f"{low:g}{unit} and more"
        return f"{low:g}{unit}" if high == low + 1 else f"{low:g} to {high - 1:g}{unit}"

    return name


KINDS = {
    "area": Kind("How much is fake", (0, 1, 5, 10, 25, 50), lambda cell: cell.areas, _share),
    "size": Kind(
        "Longer side of the photo", (0, 256, 512, 1024, 2048),
        lambda cell: np.maximum(cell.facts["width"], cell.facts["height"]), _whole(" px"),
    ),
    "regions": Kind(
        "Number of fake regions", (1, 2, 3, 6), lambda cell: cell.facts["regions"], _whole("")
    ),
}  # fmt: skip


def bins_of(
    models: Scores,
    baselines: Scores | None,
    rows: Sequence[str],
    columns: Sequence[str],
    in_domain: Mapping[str, Sequence[str]],
) -> tuple[Bin, ...]:
    """Return the bins that hold any photo, with the scores of rows and baselines.

    Args:
        models: The scores of the models.
        baselines: Those of the baselines, of the same photos; None if there are none.
        rows: The rows of which it is on record what they were trained on.
        columns: The test sets of fakes.
        in_domain: Each row's columns that it was trained on.
    """
    # Another method may have maps of some of the photos only.
    ordered = sorted(models.cells.values(), key=lambda cell: len(cell.photos))
    cells = {cell.test: cell for cell in ordered if cell.facts}
    bins = []
    for key, kind in KINDS.items():
        values = {test: kind.of(cells[test]) for test in columns if test in cells}
        for low, high, name in kind.bins:
            inside = {test: (low <= found) & (found < high) for test, found in values.items()}
            names = {test: _names(cells[test], chosen) for test, chosen in inside.items()}
            photos = sum(map(len, names.values()))
            if photos:
                bins.append((Bin(key, name, photos, ()), names))
    chosen = [names for _, names in bins]
    scores = list(_scores(models, list(_parts(rows, columns, in_domain)), chosen))
    if baselines:
        everywhere: list[Part] = [(name, None, columns) for name in baselines.models]
        scores += _scores(baselines, everywhere, chosen)
    return tuple(
        replace(bin_, scores=tuple(found for place, found in scores if place == number))
        for number, (bin_, _) in enumerate(bins)
    )


def write_bins(folder: Path, matrix: Matrix) -> None:
    """Write ``by_kind.csv``."""
    lines = [
        (found.kind, found.name, found.photos, entry.train, entry.part or "", entry.metric,
         entry.score.value, entry.score.low, entry.score.high, entry.score.n)
        for found in matrix.bins or ()
        for entry in found.scores
    ]  # fmt: skip
    write_csv(folder / FILE, COLUMNS, lines)


def _names(cell: Cell, chosen: NDArray[np.bool_]) -> list[str]:
    return [cell.photos[place] for place in np.flatnonzero(chosen)]


def _parts(
    rows: Sequence[str], columns: Sequence[str], in_domain: Mapping[str, Sequence[str]]
) -> Iterator[Part]:
    for row in rows:
        yield row, IN, [test for test in columns if test in in_domain[row]]
        yield row, OUT, [test for test in columns if test not in in_domain[row]]


def _scores(
    scores: Scores, parts: Sequence[Part], bins: Sequence[Mapping[str, Sequence[str]]]
) -> Iterator[tuple[int, BinScore]]:
    """Yield scores, each with the place of its bin; all are of the same draws.

    Args:
        scores: Of models, or of baselines.
        parts: Rows, and the test sets that their means are over.
        bins: The photos of each bin by test set.
    """
    measured = [
        (place, found)
        for place, names in enumerate(bins)
        if (found := _of_bin(scores, parts, {n: scores.marked(names[n]) for n in names}))
    ]
    statistics = [(found.statistic, found.photos) for _, found in measured]
    results = sampled(statistics, len(scores.position), scores.seeds)
    for (place, bin_), sampled_scores in zip(measured, results, strict=True):
        for (row, part, metric), result in zip(bin_.names, sampled_scores, strict=True):
            value, low, high, n = result.estimate()
            ends = None if isnan(low) else low, None if isnan(high) else high
            yield place, BinScore(row, part, metric, Score(value, *ends, n))


class _OfBin(NamedTuple):
    """The means over cells of the photos in a bin.

    Attributes:
        names: Of each its row, part and metric.
        photos: How many photos each is made of.
        statistic: Returns a score for each.
    """

    names: list[tuple[str, str | None, str]]
    photos: list[int]
    statistic: Statistic


def _of_bin(
    scores: Scores, parts: Iterable[Part], marked: Mapping[str, NDArray[np.bool_]]
) -> _OfBin | None:
    """Return the means of a bin; test sets that have no photo in it are left out."""
    cells: list[Array] = []
    places: dict[tuple[str, str | None, str], list[int]] = {}
    for row, part, tests in parts:
        for metric, test in product(METRICS, [test for test in tests if test in marked]):
            table = np.where(marked[test], scores.of_maps(row, test, metric), np.nan)
            if np.isfinite(table).any():
                places.setdefault((row, part, metric), []).append(len(cells))
                cells.append(table)
    if not cells:
        return None
    photos = [sum(count_photos(cells[place]) for place in found) for found in places.values()]
    # All rows' together: the photos' draws are then looked up once for a bin.
    means = means_of(np.stack(cells))

    def scores_of(sums: Array, seeds: Indices) -> Array:
        of_cells = means.scores(sums, seeds)
        return np.stack([of_cells[..., found].mean(-1) for found in places.values()], -1)

    return _OfBin(list(places), photos, replace(means, scores=scores_of))
