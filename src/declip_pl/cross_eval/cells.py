"""Scoring: what each model makes of each test set, reused as long as nothing changed."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

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
from declip_pl.cross_eval.columns import Column
from declip_pl.cross_eval.figures import Curve, Panel
from declip_pl.cross_eval.heat_maps import HeatMaps, Localized, TestSet
from declip_pl.cross_eval.methods import Method
from declip_pl.data.layout import REAL
from declip_pl.data.masks import MaskRule, mostly_fake
from declip_pl.files import atomic_path, file_name, sha256
from declip_pl.metrics import (
    THRESHOLDS,
    Metric,
    Thresholds,
    by_size,
    calibration_histogram,
    localization_scores,
    map_metrics,
    threshold_curves,
    untouched_scores,
)
from declip_pl.metrics.accumulate import ThresholdChoice
from declip_pl.model.network import POOLINGS
from declip_pl.panels import panel
from declip_pl.parts import code_of

T = TypeVar("T")

_ScoreMaps = Callable[[Tensor, Tensor, Thresholds], dict[str, Tensor]]
"""Scores each of ``[B, H, W]`` maps, given their masks and the model's thresholds."""

INVERTED = 0.75
"""Maps may be inverted where their average precision is below this part of what chance has."""

PANELS = ("best", "median", "worst")


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
        kept = _intact(read_thresholds, self._thresholds_path(model))
        return kept.thresholds if kept and kept.key == _thresholds_key(model, valid) else None

    def _kept_cell(self, model: Method, test: TestSet, thresholds: Thresholds) -> Cell | None:
        path = cell_path(self.folder, model.name, test.name)
        kept = _intact(read_cell, path)
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
    ) -> tuple["_Scored", list[int]]:
        """Score a set; return the places of the photos that were scored as well."""
        columns: dict[str, list[Tensor]] = defaultdict(list)
        photos: list[str] = []
        places: list[int] = []
        score_maps = _untouched_scores if test.name == REAL else _map_scores
        for found in maps.of_photos(test):
            for name, values in _photo_scores(found, thresholds, score_maps).items():
                columns[name].append(values)
            photos += found.names
            places += found.places
        table = {name: torch.cat(parts).cpu() for name, parts in columns.items()}
        return _scored(photos, table), places

    @torch.inference_mode()
    def _draw(
        self,
        model: Method,
        maps: HeatMaps,
        test: TestSet,
        scored: "_Scored",
        places: Sequence[int],
    ) -> dict[str, Panel]:
        """Draw the best, the median and the worst photo of a cell."""
        scores = scored.scores["iou"]
        order = np.argsort(-np.nan_to_num(scores), kind="stable")
        drawn = {}
        for name, index in zip(PANELS, (order[0], order[len(order) // 2], order[-1]), strict=True):
            item = test.data[places[index]]
            heat = maps.of_photo(test, places[index])
            file = Path("panels") / model.name / test.name / f"{name}.png"
            with atomic_path(self.folder / file) as temporary:
                picture = panel(test.data.photo(item["path"]), item["mask"].numpy(), heat)
                picture.save(temporary, compress_level=1)  # a third of the time
            drawn[name] = Panel(
                str(file), item["name"], _number(scores[index]), sha256(self.folder / file)
            )
        return drawn


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


def _intact(read: Callable[[Path], T | None], path: Path) -> T | None:
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
    names = tuple(map(_identity, map_metrics(pixel is not None, floor is not None)))
    return CellKey(FORMAT, model.sha256, test.sha256, test.perturbation, pixel, names, floor)


def _identity(entry: Metric) -> str:
    """Return a metric's name, and a hash of its code if that is a user's own."""
    return ":".join(filter(None, (entry.name, code_of(entry.score))))


@dataclass(frozen=True)
class _Scored:
    """What scoring a test set gives; fields as of :class:`Cell`."""

    photos: list[str]
    scores: dict[str, Column]
    image_scores: dict[str, Column]
    histogram: Column
    curve: Curve


def _photo_scores(
    found: Localized, thresholds: Thresholds, score_maps: _ScoreMaps
) -> dict[str, Tensor]:
    """Score a batch of heat maps: per photo one row of each table."""
    table: dict[str, Tensor] = {f"image/{name}": scores for name, scores in found.scores.items()}
    for chosen, probabilities, truth in by_size(found.probabilities, found.masks):
        scores = score_maps(probabilities, truth, thresholds)
        parts = {f"scores/{name}": values for name, values in scores.items()}
        parts |= {f"curve/{k}": v for k, v in threshold_curves(probabilities, truth).items()}
        parts["histogram"] = calibration_histogram(probabilities, truth)
        for name, values in parts.items():
            empty = values.new_empty(len(found.masks), *values.shape[1:])
            table.setdefault(name, empty)[chosen] = values
    return table


def _map_scores(probabilities: Tensor, truth: Tensor, chosen: Thresholds) -> dict[str, Tensor]:
    return localization_scores(probabilities, truth, chosen.pixel, chosen.floor)


def _untouched_scores(
    probabilities: Tensor, truth: Tensor, chosen: Thresholds
) -> dict[str, Tensor]:
    return untouched_scores(probabilities, chosen.floor)


def _scored(photos: list[str], table: dict[str, Tensor]) -> _Scored:
    curves = {
        name: [_number(v) for v in values.double().mean(0).tolist()]
        for name, values in _group(table, "curve/")
    }
    return _Scored(
        photos,
        scores={name: values.double().numpy() for name, values in _group(table, "scores/")},
        image_scores={name: values.double().numpy() for name, values in _group(table, "image/")},
        histogram=table["histogram"].double().numpy(),
        curve=Curve(list(THRESHOLDS), **curves),
    )


def _group(table: dict[str, Tensor], prefix: str) -> list[tuple[str, Tensor]]:
    return [(k.removeprefix(prefix), v) for k, v in table.items() if k.startswith(prefix)]


def _number(value: float) -> float | None:
    """Return a figure for JSON, which has no NaN."""
    return None if isnan(value) else float(value)
