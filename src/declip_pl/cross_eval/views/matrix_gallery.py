"""The photos of a cross-evaluation as a list."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from declip_pl.cross_eval.cell import FACTS, Cell
from declip_pl.cross_eval.matrix import Matrix
from declip_pl.cross_eval.photos import finished_cells
from declip_pl.cross_eval.statistics import Array, mean_of_defined
from declip_pl.cross_eval.views.gallery import Group, Listing, Number, shortened
from declip_pl.cross_eval.views.pictures import Picture
from declip_pl.data.layout import REAL

_NUMBERS = (
    Number("IoU"),
    Number("IoU, decided"),
    Number("marked of a real, %"),
    Number("score of the photo", 3),
    Number("fake, %"),
    Number("longer side, px", 0),
    Number("regions", 0),
)
_SCORES = ("iou", "iou_decided", "untouched_area")

_Seed = tuple[list[str], Array]
"""A cell's photos, and their numbers ``[N, P]``."""


def listing_of(
    matrix: Matrix, folder: Path, pictures: Mapping[str, Mapping[str, Sequence[Picture]]]
) -> Listing | None:
    """Return every photo of every cell, means over seeds; None where no cell can be read.

    Args:
        matrix: The cross-evaluation.
        folder: Where its cells are.
        pictures: By row and test generator.
    """
    cells: dict[tuple[str, str], list[_Seed]] = {}
    for model, cell in finished_cells(folder, matrix):
        # The rest of a cell, most of all its histograms, is not kept.
        seed = cell.photos, _numbers(cell, matrix.pooling)
        cells.setdefault((model.row, cell.test), []).append(seed)
    if not cells:
        return None
    groups = [
        _group(matrix, row, test, seeds, pictures.get(row, {}).get(test, ()))
        for (row, test), seeds in cells.items()
    ]
    return shortened(Listing(("trained on", "tested on"), _NUMBERS, groups))


def _group(
    matrix: Matrix, row: str, test: str, seeds: Sequence[_Seed], pictures: Sequence[Picture]
) -> Group:
    photos = sorted({photo for names, _ in seeds for photo in names})
    place = {photo: index for index, photo in enumerate(photos)}
    numbers = np.full((len(seeds), len(_NUMBERS), len(photos)), np.nan)
    for table, (names, found) in zip(numbers, seeds, strict=True):
        table[:, [place[photo] for photo in names]] = found
    shown = {picture.photo: picture.id for picture in pictures if picture.source}
    means = mean_of_defined(np.moveaxis(numbers, 0, -1))
    return Group((row, test), matrix.is_in_domain(row, test), photos, means, shown)


def _numbers(cell: Cell, pooling: str) -> Array:
    """Return the numbers of a cell's photos: ``[N, P]``."""
    nothing = np.full(len(cell.photos), np.nan)
    columns = [cell.scores.get(name, nothing) for name in _SCORES]
    columns.append(cell.image_scores.get(pooling, nothing))
    width, height, regions = (cell.facts.get(name, nothing) for name in FACTS)
    area = nothing if cell.test == REAL else cell.areas
    return np.stack([*columns, area, np.maximum(width, height), regions])
