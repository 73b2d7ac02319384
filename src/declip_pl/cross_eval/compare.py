"""Is B better than A? Two cross-evaluations on the same test data, photo by photo."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from declip_pl.cross_eval.cells import finished_cell
from declip_pl.cross_eval.statistics import (
    RESAMPLES,
    Array,
    Estimate,
    estimate_difference,
    holm,
    mean_of_cells,
    mean_of_defined,
    paired_p_value,
)
from declip_pl.errors import UserError

SIGNIFICANT = 0.05

Cell = tuple[str, str]
"""A row (what a model was trained on) and a column (what it was tested on)."""
Files = dict[int, dict[str, Any]]
"""The ``photos`` and ``scores`` of a cell by seed."""


@dataclass(frozen=True)
class Evaluation:
    """A cross-evaluation: its folder, and what its ``matrix.json`` says."""

    folder: Path
    matrix: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Evaluation":
        """Read ``matrix.json``.

        Raises:
            UserError: If there is none.
        """
        path = folder / "matrix.json"
        if not path.is_file():
            raise UserError(
                f"{folder}: no matrix.json; expected the folder of a finished cross-evaluation, "
                "which `declip-pl cross-eval` writes"
            )
        return cls(folder, json.loads(path.read_text(encoding="utf-8")))

    def cells(self) -> list[Cell]:
        """Return the cells that did not fail, in the matrix' order."""
        tables = self.matrix["matrix"].values()
        return [
            (row, column)
            for row in self.matrix["rows"]
            for column in self.matrix["columns"]
            if any(column in table.get(row, {}) for table in tables)
        ]

    def files(self, cell: Cell) -> Files:
        """Return what each seed that was scored in a cell has left there."""
        row, column = cell
        found = {
            model["seed"]: finished_cell(self.folder, self.matrix, model, column)
            for model in self.matrix["models"]
            if model["row"] == row
        }
        # Not the histograms, which take most of a cell and of the memory for it.
        return {
            seed: {name: cell[name] for name in ("photos", "scores")}
            for seed, cell in found.items()
            if cell
        }


@dataclass(frozen=True)
class Difference:
    """What changes from A to B.

    Attributes:
        where: Row and column, or the name of a mean over cells.
        a: A's score in percent, mean over seeds of the mean over photos.
        b: B's, on the same photos.
        change: ``b - a`` in points, with its interval.
        p_value: Of "no change on such photos", for these trained models.
        corrected: The same, corrected for how many cells (or means) were tested; NaN until then.
    """

    where: tuple[str, str]
    a: float
    b: float
    change: Estimate
    p_value: float
    corrected: float


@dataclass(frozen=True)
class Comparison:
    """All differences between two cross-evaluations in one metric.

    Attributes:
        a: The one compared against.
        b: The other.
        metric: Name of the score.
        seeds: How many seeds A and B have at most in a cell.
        cells: Every cell that both have.
        means: Over the in-domain and over the out-of-domain cells of single-generator rows.
    """

    a: Evaluation
    b: Evaluation
    metric: str
    seeds: tuple[int, int]
    cells: list[Difference]
    means: list[Difference]


def compare(a: Path, b: Path, metric: str = "iou") -> None:
    """Print where one cross-evaluation is better than another, and how sure that is.

    Args:
        a: Folder of a cross-evaluation.
        b: Folder of another on the same test data; positive differences are in its favour.
        metric: A score of single photos, such as iou or ap.

    Raises:
        UserError: If the two can't be compared.
    """
    print(describe(comparison(Evaluation.read(a), Evaluation.read(b), metric)))


def comparison(a: Evaluation, b: Evaluation, metric: str) -> Comparison:
    """Compare two cross-evaluations, paired by photo.

    Raises:
        UserError: If they share no cell, were made on different test data, or lack the metric.
    """
    files = _shared(a, b)
    _check_test_data(a, b, [column for _, column in files])
    _check_metric(files.values(), metric)
    scores_a, scores_b = _paired(files.values(), metric)
    scored = [index for index, cell in enumerate(scores_a) if np.isfinite(cell).any()]
    if not scored:
        raise UserError(f"{metric} is not defined for any photo of {a.folder} and {b.folder}")
    cells = [list(files)[index] for index in scored]
    scores_a, scores_b = scores_a[scored], scores_b[scored]
    differences = [_difference(c, scores_a[[i]], scores_b[[i]]) for i, c in enumerate(cells)]
    means = [
        _difference((f"{name} mean", f"{chosen.sum()} cells"), scores_a[chosen], scores_b[chosen])
        for name, chosen in _groups(a, b, cells).items()
        if chosen.any()
    ]
    seeds = (scores_a.shape[1], scores_b.shape[1])
    return Comparison(a, b, metric, seeds, _corrected(differences), _corrected(means))


def describe(result: Comparison) -> str:
    """Return a comparison as text: which is which, a table, and what its numbers mean."""
    a, b = result.a, result.b
    seeds_a, seeds_b = result.seeds
    photos = sorted({difference.change.n for difference in result.cells})
    lines = [
        f"A: {a.matrix['name']} ({a.folder})",
        f"B: {b.matrix['name']} ({b.folder})",
        f"{result.metric} in percent, and B - A in points, paired by photo: "
        f"{len(result.cells)} cells of {_range(photos)} photos",
        "",
        *_table([*result.cells, *result.means]),
        "",
        f"* corrected p below {SIGNIFICANT}",
        f"interval: 95 %, percentile bootstrap ({RESAMPLES} resamples) over photos"
        + (f", and over seeds (A {seeds_a}, B {seeds_b})" if max(result.seeds) > 1 else ""),
        "p: two-sided sign-flip permutation test over photos; corrected by Holm's method "
        f"over the {len(result.cells)} cells, and separately over the means",
        f"seeds: A {seeds_a}, B {seeds_b}; a p-value is about the trained models as they are, "
        "seeds averaged, on other such photos: it doesn't say that other trainings would differ",
    ]
    notices = {side.matrix["notice"]: None for side in (a, b) if side.matrix["notice"]}
    return "\n".join([*lines, *notices])


def _shared(a: Evaluation, b: Evaluation) -> dict[Cell, tuple[Files, Files]]:
    """Return the files of A and of B of every cell that both have."""
    others = set(b.cells())
    files = {cell: (a.files(cell), b.files(cell)) for cell in a.cells() if cell in others}
    shared = {cell: pair for cell, pair in files.items() if all(pair)}
    if not shared:
        raise UserError(f"{a.folder} and {b.folder} share no cell: {_extent(a)}; {_extent(b)}")
    return shared


def _extent(evaluation: Evaluation) -> str:
    rows, columns = evaluation.matrix["rows"], evaluation.matrix["columns"]
    return f"{evaluation.folder} has rows {', '.join(rows)} and columns {', '.join(columns)}"


def _check_test_data(a: Evaluation, b: Evaluation, columns: Sequence[str]) -> None:
    for column in dict.fromkeys(columns):
        hashes = [side.matrix["data"]["tests"][column]["sha256"] for side in (a, b)]
        if hashes[0] != hashes[1]:
            raise UserError(
                f"{b.folder}: test set {column} is not the one of {a.folder} (their SHA-256 "
                "differ); scores can be compared on the same photos and masks only: "
                "cross-evaluate both on one data set"
            )


def _check_metric(files: Iterable[tuple[Files, Files]], metric: str) -> None:
    scores = [set(file["scores"]) for pair in files for side in pair for file in side.values()]
    known = sorted(set.intersection(*scores))
    if metric not in known:
        raise UserError(f"metric {metric} is not in every cell; expected {', '.join(known)}")


def _groups(a: Evaluation, b: Evaluation, cells: Sequence[Cell]) -> dict[str, NDArray[np.bool_]]:
    """Return which cells of single-generator rows are in-domain, and which out-of-domain."""
    rows = {
        model["row"]
        for side in (a, b)
        for model in side.matrix["models"]
        if len(model["trained_on"]) > 1
    }
    single = np.array([row not in rows for row, _ in cells])
    inside = np.array([column in a.matrix["in_domain"][row] for row, column in cells])
    return {"in-domain": single & inside, "out-of-domain": single & ~inside}


def _paired(files: Collection[tuple[Files, Files]], metric: str) -> tuple[Array, Array]:
    """Return the scores of A and of B, ``[C, S, P]`` each, NaN unless a photo has both."""
    names = sorted({
        photo for pair in files for side in pair for file in side.values()
        for photo in file["photos"]
    })  # fmt: skip
    a = _array([side for side, _ in files], names, metric)
    b = _array([side for _, side in files], names, metric)
    both = (_is_complete(a) & _is_complete(b))[:, None]
    return np.where(both, a, np.nan), np.where(both, b, np.nan)


def _array(files: Sequence[Files], names: Sequence[str], metric: str) -> Array:
    """Return ``[C, S, P]`` scores, NaN where a seed, a photo or a score is missing."""
    seeds = sorted({seed for cell in files for seed in cell})
    place = {name: index for index, name in enumerate(names)}
    scores = np.full((len(files), len(seeds), len(names)), np.nan)
    for index, cell in enumerate(files):
        for seed, file in cell.items():
            photos = [place[photo] for photo in file["photos"]]
            scores[index, seeds.index(seed), photos] = np.array(file["scores"][metric], float)
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
        a=float(mean_a(np.arange(photos), np.arange(seeds_a))),
        b=float(mean_b(np.arange(photos), np.arange(seeds_b))),
        change=estimate_difference(mean_a, mean_b, photos, (seeds_a, seeds_b), n),
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


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    p_values = holm([difference.p_value for difference in differences])
    return [replace(d, corrected=p) for d, p in zip(differences, p_values, strict=True)]


def _table(differences: Sequence[Difference]) -> list[str]:
    head = ("row", "column", "A", "B", "B - A", "95 % interval", "p", "corrected p", "")
    lines = [head, *(_line(difference) for difference in differences)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text_columns = 2
    return [
        "  ".join(
            text.ljust(width) if index < text_columns else text.rjust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _line(difference: Difference) -> tuple[str, ...]:
    change = difference.change
    return (
        *difference.where,
        f"{difference.a:.1f}",
        f"{difference.b:.1f}",
        f"{change.value:+.1f}",
        f"[{change.low:+.1f}, {change.high:+.1f}]",
        _p(difference.p_value),
        _p(difference.corrected),
        "*" if difference.corrected < SIGNIFICANT else "",
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else "<0.001"  # noqa: PLR2004


def _range(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
