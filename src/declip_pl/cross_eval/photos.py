"""Every photo's scores as one table: ``photos.csv``."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from declip_pl.cross_eval.cell import Cell, finished_cell
from declip_pl.cross_eval.matrix import Matrix
from declip_pl.cross_eval.scored_model import ScoredModel
from declip_pl.csv_files import write_csv

FILE = "photos.csv"


def finished_cells(folder: Path, matrix: Matrix) -> Iterator[tuple[ScoredModel, Cell]]:
    """Yield the cells that the matrix is made of; the folder may hold older ones, too."""
    for model in matrix.models:
        for test in matrix.data.tests:
            cell = finished_cell(folder, matrix, model, test)
            if cell:
                yield model, cell


def photo_table(
    cells: Iterable[tuple[ScoredModel, Cell]],
) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of a table with every photo's scores.

    Args:
        cells: Models and their cells.

    Returns:
        The columns ``train, test, seed, photo``, one for each localization score (percent) and one
        for each way to pool an image's score (0 to 1, ``image_score_<pooling>``), and for fakes
        ``width``, ``height``, ``regions`` and ``area`` (percent); and a row for each photo of each
        cell, None where a score is undefined or its cell lacks it.
    """
    records = [record for model, cell in cells for record in _photos(model, cell)]
    columns = list(dict.fromkeys(name for record in records for name in record))
    return columns, [[record.get(name) for name in columns] for record in records]


def write_photos(folder: Path, cells: Iterable[tuple[ScoredModel, Cell]]) -> None:
    """Write ``photos.csv``."""
    write_csv(folder / FILE, *photo_table(cells))


def _photos(model: ScoredModel, cell: Cell) -> Iterator[dict[str, Any]]:
    pooled = {f"image_score_{name}": scores for name, scores in cell.image_scores.items()}
    facts = cell.facts | {"area": cell.areas} if cell.facts else {}
    scores = cell.scores | pooled | facts
    for index, photo in enumerate(cell.photos):
        whose = {"train": model.row, "test": cell.test, "seed": model.seed, "photo": photo}
        found = {name: float(values[index]) for name, values in scores.items()}
        yield whose | {name: None if math.isnan(v) else v for name, v in found.items()}
