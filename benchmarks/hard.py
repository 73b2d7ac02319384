"""Which fakes a cross-evaluation's models don't find, and what these are like.

For a folder of ``declip-pl cross-eval`` or ``evaluate`` and the data set that it was made of::

    python -m benchmarks.hard outputs/cross_eval/NAME DATA

prints, of the decision's masks (``iou_decided``), each cell's share of photos where nothing is
found, the mean of the others, and the F1 that the best threshold would reach where nothing is
found; then means by quarters of what the region was like in the untouched photo. It draws the
photos with the lowest mean over all cells, their true regions outlined, as
``hard.png`` in the folder.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from declip_pl.cross_eval.cell import Cell, cell_path, read_cell
from declip_pl.cross_eval.matrix import Matrix, read_matrix
from declip_pl.cross_eval.text_table import aligned
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.images import read_photo
from declip_pl.data.layout import ALL, REAL, Sample
from declip_pl.data.masks import MaskRule, read_mask
from declip_pl.panels import overlay

FOUND = 1
"""Percent of IoU from which on something is found."""
SHOWN = 8
SIDE = 256
KINDS = ("area in percent", "brightness of 255", "texture in levels")


def traits(fake: Sample, real: Sample, rule: MaskRule) -> tuple[float, float, float]:
    """Return a region's area, and its brightness and texture before it was painted over.

    Texture is the RMS of what a blur takes away.
    """
    assert fake.mask is not None
    mask = read_mask(fake.mask, rule)
    grey = cv2.cvtColor(read_photo(real.image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    residual = grey - cv2.GaussianBlur(grey, (0, 0), 1.4)
    texture = np.sqrt((residual[mask] ** 2).mean())
    return 100 * float(mask.mean()), float(grey[mask].mean()), float(texture)


def cells_of(folder: Path, matrix: Matrix) -> Iterator[tuple[bool, Cell]]:
    """Yield every cell of fakes, and whether it is in domain."""
    for model in matrix.models:
        for test in matrix.columns:
            if cell := read_cell(cell_path(folder, model.name, test)):
                yield test in matrix.in_domain[model.row], cell


def nothing_found(cells: Sequence[tuple[bool, Cell]]) -> Iterator[list[str]]:
    """Yield the table of photos where nothing is found, the head first."""
    yield ["model", "test", "nothing found, %", "IoU of the others", "best F1 where nothing is"]
    for _, cell in cells:
        iou, best = cell.scores["iou_decided"], cell.scores["f1_plain_best"]
        missed = iou < FOUND
        share = f"{100 * missed.mean():.1f}"
        best_f1 = f"{best[missed].mean():.1f}" if missed.any() else ""
        yield [cell.model, cell.test, share, f"{iou[~missed].mean():.1f}", best_f1]


def by_quarter(
    cells: Sequence[tuple[bool, Cell]], found: Mapping[tuple[str, str], tuple[float, ...]]
) -> Iterator[list[str]]:
    """Yield the table of means by quarters of each trait, the head first."""
    yield ["", "", "1st quarter", "2nd", "3rd", "4th"]
    rows = [
        (inside, score, *found[cell.test, name])
        for inside, cell in cells
        for name, score in zip(cell.photos, cell.scores["iou_decided"], strict=True)
    ]
    table = np.array(rows, float)
    for place, kind in enumerate(KINDS, 2):
        edges = np.quantile(table[:, place], [0.25, 0.5, 0.75])
        yield [kind, "up to", *(f"{edge:.1f}" for edge in edges), ""]
        quarter = np.searchsorted(edges, table[:, place])
        for inside, part in ((True, "in-domain"), (False, "out-of-domain")):
            of = [table[(table[:, 0] == inside) & (quarter == q), 1] for q in range(4)]
            yield ["", part, *(f"{scores.mean():.1f}" if len(scores) else "" for scores in of)]


def draw(file: Path, cells: Sequence[tuple[bool, Cell]], data: LocalizationDataModule) -> None:
    """Draw the photos that are found least, one generator's version of each."""
    scores = defaultdict(list)
    for _, cell in cells:
        for name, score in zip(cell.photos, cell.scores["iou_decided"], strict=True):
            scores[name].append(score)
    worst = sorted(scores, key=lambda name: float(np.mean(scores[name])))[:SHOWN]
    shown = {sample.name: sample for sample in data.files("test", data.generators[0])}
    tiles = []
    for sample in (shown[name] for name in worst if name in shown):
        assert sample.mask is not None
        photo, mask = read_photo(sample.image), read_mask(sample.mask, data.mask_rule)
        nothing = np.zeros_like(mask)
        outlined = overlay(photo, nothing.astype(np.float32), nothing, mask)
        tiles.append(cv2.resize(outlined, (SIDE, SIDE)))
    half = SHOWN // 2
    Image.fromarray(np.vstack([np.hstack(tiles[:half]), np.hstack(tiles[half:])])).save(file)


def main(folder: Path, root: str) -> None:
    """Print the tables and draw the picture."""
    matrix, data = read_matrix(folder), LocalizationDataModule(root, ALL)
    cells = list(cells_of(folder, matrix))
    print("\n".join(aligned(list(nothing_found(cells)), left=(0, 1))))
    reals = {sample.name: sample for sample in data.files("test", REAL)}
    of_photos = {
        (test, sample.name): traits(sample, reals[sample.name], data.mask_rule)
        for test in matrix.columns
        for sample in data.files("test", test)
    }
    print("\n".join(["", *aligned(list(by_quarter(cells, of_photos)), left=(0, 1))]))
    draw(folder / "hard.png", cells, data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
