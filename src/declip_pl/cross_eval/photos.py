"""Every photo's scores as one table: ``photos.csv``."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from declip_pl.cross_eval.cell import Cell, finished_cell
from declip_pl.cross_eval.columns import Column
from declip_pl.cross_eval.matrix import Matrix
from declip_pl.cross_eval.scored_model import ScoredModel
from declip_pl.csv_files import write_csv

FILE = "photos.csv"

WHOSE = ("train", "test", "seed", "photo")
"""The first columns."""


def finished_cells(folder: Path, matrix: Matrix) -> Iterator[tuple[ScoredModel, Cell]]:
    """Yield the cells that the matrix is made of; the folder may hold older ones, too."""
    for model in matrix.models:
        for test in matrix.data.tests:
            cell = finished_cell(folder, matrix, model, test)
            if cell:
                yield model, cell


def photo_table(
    cells: Callable[[], Iterable[tuple[ScoredModel, Cell]]],
) -> tuple[list[str], Iterator[list[Any]]]:
    """Return columns and rows of a table with every photo's scores.

    Args:
        cells: Yields models and their cells. It is called twice, so that no more than one cell has
            to be in memory.

    Returns:
        The columns ``train, test, seed, photo``, one for each localization score (percent) and one
        for each way to pool an image's score (0 to 1, ``image_score_<pooling>``), and for fakes
        ``width``, ``height``, ``regions`` and ``area`` (percent); and a row for each photo of each
        cell, None where a score is undefined or its cell lacks it.
    """
    names = list(dict.fromkeys(name for _, cell in cells() for name in _scores(cell)))
    rows = (row for model, cell in cells() for row in _rows(model, cell, names))
    return [*WHOSE, *names], rows


def write_photos(folder: Path, matrix: Matrix) -> None:
    """Write ``photos.csv`` of a cross-evaluation."""
    write_csv(folder / FILE, *photo_table(lambda: finished_cells(folder, matrix)))


def _scores(cell: Cell) -> dict[str, Column]:
    pooled = {f"image_score_{name}": scores for name, scores in cell.image_scores.items()}
    facts = cell.facts | {"area": cell.areas} if cell.facts else {}
    return cell.scores | pooled | facts


def _rows(model: ScoredModel, cell: Cell, names: Sequence[str]) -> Iterator[list[Any]]:
    scores = _scores(cell)
    nothing = np.full(len(cell.photos), math.nan)
    columns = [scores.get(name, nothing).tolist() for name in names]
    for photo, *values in zip(cell.photos, *columns, strict=True):
        numbers = (None if math.isnan(value) else value for value in values)
        yield [model.row, cell.test, model.seed, photo, *numbers]
