"""Scoring: what each model makes of each test set, reused as long as nothing changed."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from declip_pl.cross_eval.cell import (
    FORMAT,
    Cell,
    CellKey,
    ThresholdsFile,
    ThresholdsKey,
    cell_path,
    read_cell,
    read_thresholds,
    write_cell,
    write_thresholds,
)
from declip_pl.cross_eval.drawing import draw_panels
from declip_pl.cross_eval.heat_maps import HeatMaps, TestSet
from declip_pl.cross_eval.map_scores import (
    SIZE,
    Rows,
    Scored,
    image_tables,
    metric_identities,
    score_maps,
)
from declip_pl.cross_eval.measured import Panel
from declip_pl.cross_eval.methods import Method
from declip_pl.data.layout import REAL
from declip_pl.data.masks import MaskRule, mostly_fake
from declip_pl.files import file_name, sha256
from declip_pl.metrics import Thresholds
from declip_pl.metrics.accumulate import ThresholdChoice
from declip_pl.model.network import POOLINGS

T = TypeVar("T")

INVERTED = 0.75
"""Maps may be inverted where their average precision is below this part of what chance has."""


class Cells:
    """The cells of a cross-evaluation; finished ones are reused as long as nothing changed.

    Args:
        folder: The cross-evaluation's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def thresholds(self, model: Method, maps: HeatMaps, valid: Sequence[TestSet]) -> Thresholds:
        """Return a model's thresholds: those in its checkpoint, or else chosen now.

        Args:
            model: A localizer.
            maps: Its heat maps.
            valid: The validation photos of the generators that it was trained on, and real ones
                where there are any; empty if there are none, or the checkpoint has thresholds.
        """
        found = self._kept_thresholds(model, valid)
        if not found:
            start = time.monotonic()
            found, auroc = self._chosen(maps, valid)
            seconds = round(time.monotonic() - start, 2)
            key = _thresholds_key(model, valid)
            record = ThresholdsFile(key, model.name, found, auroc, seconds)
            write_thresholds(self._thresholds_path(model), record)
        return found

    def score(self, model: Method, maps: HeatMaps, test: TestSet, thresholds: Thresholds) -> Cell:
        """Return a cell: every photo's scores, curves, and which photos were drawn."""
        kept = self._kept_cell(model, test, thresholds)
        if not kept:
            start = time.monotonic()
            scored, places = self._score(maps, test, thresholds)
            panels = {} if test.name == REAL else self._draw(model, maps, test, scored, places)
            kept = Cell(
                _cell_key(model, test, thresholds), model.name, model.seed, test.name, thresholds,
                **vars(scored), panels=panels, seconds=round(time.monotonic() - start, 2),
            )  # fmt: skip
            write_cell(cell_path(self.folder, model.name, test.name), kept)
        return kept

    def finished(
        self, model: Method, valid: Sequence[TestSet], tests: Sequence[TestSet]
    ) -> tuple[Thresholds, dict[str, Cell]] | None:
        """Return a model's thresholds and its cells by test set; None if any has to be made.

        Args:
            model: A localizer.
            valid: As for :meth:`thresholds`.
            tests: All test sets.
        """
        thresholds = self._kept_thresholds(model, valid)
        if not thresholds:
            return None
        cells = {test.name: self._kept_cell(model, test, thresholds) for test in tests}
        found = {test: cell for test, cell in cells.items() if cell}
        return (thresholds, found) if len(found) == len(cells) else None

    def _kept_thresholds(self, model: Method, valid: Sequence[TestSet]) -> Thresholds | None:
        if model.thresholds:
            return model.thresholds
        kept = intact(read_thresholds, self._thresholds_path(model))
        return kept.thresholds if kept and kept.key == _thresholds_key(model, valid) else None

    def _kept_cell(self, model: Method, test: TestSet, thresholds: Thresholds) -> Cell | None:
        path = cell_path(self.folder, model.name, test.name)
        kept = intact(read_cell, path)
        if not kept or kept.key != _cell_key(model, test, thresholds):
            return None
        for shown in kept.panels.values():
            drawn = self.folder / shown.file
            if not drawn.is_file() or sha256(drawn) != shown.sha256:
                print(f"{drawn} is missing or damaged: it is made anew, with its cell")
                path.unlink()
                return None
        return kept

    def _thresholds_path(self, model: Method) -> Path:
        return self.folder / "thresholds" / file_name(model.name, ".json")

    @torch.inference_mode()
    def _chosen(
        self, maps: HeatMaps, valid: Sequence[TestSet]
    ) -> tuple[Thresholds, dict[str, float | None]]:
        """Choose thresholds as training does; say how well each pooling tells fakes from reals."""
        none: dict[str, float | None] = dict.fromkeys(POOLINGS)
        if not valid:
            return Thresholds(None, none), none
        choice = ThresholdChoice(POOLINGS)
        for part in valid:
            for found in maps.of_photos(part):
                scores = {pooling: values.cpu() for pooling, values in found.scores.items()}
                choice.update(found.probabilities, found.masks, scores, found.labels)
        return choice.choose(), choice.image_auroc()

    @torch.inference_mode()
    def _score(
        self, maps: HeatMaps, test: TestSet, thresholds: Thresholds
    ) -> tuple[Scored, list[int]]:
        """Score a set; return the places of the photos that were scored as well."""
        rows = Rows(len(test.data))
        photos: list[str] = []
        places: list[int] = []
        is_fake = test.name != REAL
        for found in maps.of_photos(test):
            table = score_maps(found.probabilities, found.masks, thresholds, is_fake)
            sizes = [test.data.photo_size(test.data.path(place)) for place in found.places]
            table[SIZE] = torch.tensor(sizes, dtype=torch.float64)
            rows.add(table | image_tables(found.scores))
            photos += found.names
            places += found.places
        return Scored.of(photos, rows.table(), is_fake), places

    @torch.inference_mode()
    def _draw(
        self,
        model: Method,
        maps: HeatMaps,
        test: TestSet,
        scored: Scored,
        places: Sequence[int],
    ) -> dict[str, Panel]:
        cell, iou = (model.name, test.name), scored.scores["iou"]
        localize = partial(maps.of_photo, test)
        return draw_panels(self.folder, cell, test.data, places, scored.photos, iou, localize)


def polarity_warnings(cells: Iterable[Cell], rule: MaskRule) -> list[str]:
    """Return a line for each test set of which most pixels are fake: its masks may be inverted."""
    shares = {cell.test: cell.fake_share for cell in cells}
    found = [mostly_fake(test, share, rule) for test, share in shares.items()]
    return [f"warning: {line}" for line in found if line]


def inverted_maps(cell: Cell) -> str:
    """Return the finding that another method's maps may be inverted, and the switch for that.

    Fakes then rank below the other pixels, which an average precision far below the share of fakes
    says; it proves nothing, as a method may be that bad.
    """
    if cell.test == REAL:
        return ""
    counts = cell.histogram.sum(2)
    precision, share = cell.scores["ap"], counts[:, 2] / counts[:, 0]
    defined = np.isfinite(precision)
    if not defined.any() or precision[defined].mean() > INVERTED * 100 * share[defined].mean():
        return ""
    return (
        f"{cell.model} on {cell.test}: fakes rank below other pixels (AP "
        f"{precision[defined].mean():.1f} where chance has {100 * share[defined].mean():.1f}); if "
        "low values mean fake in these maps, say --map_polarity black"
    )


def intact(read: Callable[[Path], T | None], path: Path) -> T | None:
    """Read a file that can be made anew; if it is damaged say so and delete it."""
    try:
        return read(path)
    except ValueError as error:
        print(f"{path} is damaged ({error}): it is made anew")
        path.unlink()
        return None


def _thresholds_key(model: Method, valid: Sequence[TestSet]) -> ThresholdsKey:
    return ThresholdsKey(
        FORMAT,
        model.sha256,
        tuple(part.sha256 for part in valid),
        tuple(part.perturbation for part in valid),
    )


def _cell_key(model: Method, test: TestSet, thresholds: Thresholds) -> CellKey:
    pixel, floor = thresholds.pixel, thresholds.floor
    names = metric_identities(thresholds)
    return CellKey(FORMAT, model.sha256, test.sha256, test.perturbation, pixel, names, floor)
