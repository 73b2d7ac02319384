"""Scoring: what each model makes of each test set, reused as long as nothing changed."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

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
from declip_pl.cross_eval.matrix import UNPERTURBED, Curve, Panel
from declip_pl.cross_eval.models import Model
from declip_pl.data.dataset import Batch, LocalizationDataset, collate
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
from declip_pl.model.features import Features
from declip_pl.model.network import POOLINGS, image_score
from declip_pl.panels import panel
from declip_pl.parts import code_of

T = TypeVar("T")

_ScoreMaps = Callable[[Tensor, Tensor, Thresholds], dict[str, Tensor]]
"""Scores each of ``[B, H, W]`` maps, given their masks and the model's thresholds."""

PANELS = ("best", "median", "worst")


@dataclass(frozen=True)
class TestSet:
    """Photos that a model is scored on.

    Attributes:
        name: A generator, or ``real``.
        data: The photos, with cached features.
        sha256: Hash of their files' contents and of how masks are read.
        perturbation: What the photos went through, ``none`` if nothing.
    """

    name: str
    data: LocalizationDataset
    sha256: str
    perturbation: str = UNPERTURBED


class Cells:
    """The cells of a cross-evaluation; finished ones are reused as long as nothing changed.

    Args:
        folder: The cross-evaluation's folder.
        device: Where decoders and metrics run.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.device = device

    def thresholds(self, model: Model, decoder: nn.Module, valid: Sequence[TestSet]) -> Thresholds:
        """Return a model's thresholds: those in its checkpoint, or else chosen now.

        Args:
            model: A localizer.
            decoder: Its decoder.
            valid: The validation photos of the generators that it was trained on, and real ones
                where there are any; empty if there are none, or the checkpoint has thresholds.
        """
        found = self._kept_thresholds(model, valid)
        if not found:
            start = time.monotonic()
            found, auroc = self._chosen(decoder, valid)
            seconds = round(time.monotonic() - start, 2)
            key = _thresholds_key(model, valid)
            record = ThresholdsFile(key, model.name, found, auroc, seconds)
            write_thresholds(self._thresholds_path(model), record)
        return found

    def score(
        self, model: Model, decoder: nn.Module, test: TestSet, thresholds: Thresholds
    ) -> Cell:
        """Return a cell: every photo's scores, curves, and which photos were drawn."""
        kept = self._kept_cell(model, test, thresholds)
        if not kept:
            start = time.monotonic()
            scored = self._score(decoder, test, thresholds)
            panels = {} if test.name == REAL else self._draw(model, decoder, test, scored)
            kept = Cell(
                _cell_key(model, test, thresholds), model.name, model.seed, test.name, thresholds,
                **vars(scored), panels=panels, seconds=round(time.monotonic() - start, 2),
            )  # fmt: skip
            write_cell(cell_path(self.folder, model.name, test.name), kept)
        return kept

    def finished(
        self, model: Model, valid: Sequence[TestSet], tests: Sequence[TestSet]
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

    def _kept_thresholds(self, model: Model, valid: Sequence[TestSet]) -> Thresholds | None:
        if model.checkpoint.thresholds:
            return model.checkpoint.thresholds
        kept = _intact(read_thresholds, self._thresholds_path(model))
        return kept.thresholds if kept and kept.key == _thresholds_key(model, valid) else None

    def _kept_cell(self, model: Model, test: TestSet, thresholds: Thresholds) -> Cell | None:
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

    def _thresholds_path(self, model: Model) -> Path:
        return self.folder / "thresholds" / file_name(model.name, ".json")

    @torch.inference_mode()
    def _chosen(
        self, decoder: nn.Module, valid: Sequence[TestSet]
    ) -> tuple[Thresholds, dict[str, float | None]]:
        """Choose thresholds as training does; say how well each pooling tells fakes from reals."""
        none: dict[str, float | None] = dict.fromkeys(POOLINGS)
        if not valid:
            return Thresholds(None, none), none
        choice = ThresholdChoice(POOLINGS)
        for part in valid:
            for logits, masks, batch in self._localized(decoder, part):
                scores: dict[str, Tensor] = {
                    pooling: image_score(logits, pooling).cpu() for pooling in POOLINGS
                }
                choice.update(logits.sigmoid(), masks, scores, batch["label"])
        return choice.choose(), choice.image_auroc()

    @torch.inference_mode()
    def _score(self, decoder: nn.Module, test: TestSet, thresholds: Thresholds) -> "_Scored":
        columns: dict[str, list[Tensor]] = defaultdict(list)
        photos: list[str] = []
        score_maps = _untouched_scores if test.name == REAL else _map_scores
        for logits, masks, batch in self._localized(decoder, test):
            for name, values in _photo_scores(logits, masks, thresholds, score_maps).items():
                columns[name].append(values)
            photos += batch["name"]
        return _scored(photos, {name: torch.cat(parts).cpu() for name, parts in columns.items()})

    def _localized(
        self, decoder: nn.Module, test: TestSet
    ) -> Iterator[tuple[Tensor, list[Tensor], Batch]]:
        """Yield the photos in batches: ``[B, 1, 256, 256]`` logits, masks, and the batch itself."""
        loader = DataLoader(test.data, 32, collate_fn=collate)
        for batch in tqdm(loader, f"scoring on {test.name}", leave=False, disable=None):
            assert isinstance(batch["image"], Features)
            logits = decoder(batch["image"].to(self.device).float())
            yield logits, [mask.to(self.device) for mask in batch["mask"]], batch

    @torch.inference_mode()
    def _draw(
        self, model: Model, decoder: nn.Module, test: TestSet, scored: "_Scored"
    ) -> dict[str, Panel]:
        """Draw the best, the median and the worst photo of a cell."""
        scores = scored.scores["iou"]
        order = np.argsort(-np.nan_to_num(scores), kind="stable")
        drawn = {}
        for name, index in zip(PANELS, (order[0], order[len(order) // 2], order[-1]), strict=True):
            item = test.data[int(index)]
            features = collate([item])["image"]
            assert isinstance(features, Features)
            heat = decoder(features.to(self.device).float()).sigmoid()[0, 0].cpu().numpy()
            file = Path("panels") / model.name / test.name / f"{name}.png"
            with atomic_path(self.folder / file) as temporary:
                picture = panel(test.data.shown(item["path"]), item["mask"].numpy(), heat)
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


def _intact(read: Callable[[Path], T | None], path: Path) -> T | None:
    """Read a file that can be made anew; if it is damaged say so and delete it."""
    try:
        return read(path)
    except ValueError as error:
        print(f"{path} is damaged ({error}): it is made anew")
        path.unlink()
        return None


def _thresholds_key(model: Model, valid: Sequence[TestSet]) -> ThresholdsKey:
    return ThresholdsKey(
        FORMAT,
        model.checkpoint.sha256,
        tuple(part.sha256 for part in valid),
        tuple(part.perturbation for part in valid),
    )


def _cell_key(model: Model, test: TestSet, thresholds: Thresholds) -> CellKey:
    pixel, floor = thresholds.pixel, thresholds.floor
    names = tuple(map(_identity, map_metrics(pixel is not None, floor is not None)))
    return CellKey(
        FORMAT, model.checkpoint.sha256, test.sha256, test.perturbation, pixel, names, floor
    )


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
    logits: Tensor, masks: list[Tensor], thresholds: Thresholds, score_maps: _ScoreMaps
) -> dict[str, Tensor]:
    """Score a batch of ``[B, 1, 256, 256]`` logits: per photo one row of each table."""
    table: dict[str, Tensor] = {
        f"image/{pooling}": image_score(logits, pooling) for pooling in POOLINGS
    }
    for chosen, probabilities, truth in by_size(logits.sigmoid(), masks):
        scores = score_maps(probabilities, truth, thresholds)
        parts = {f"scores/{name}": values for name, values in scores.items()}
        parts |= {f"curve/{k}": v for k, v in threshold_curves(probabilities, truth).items()}
        parts["histogram"] = calibration_histogram(probabilities, truth)
        for name, values in parts.items():
            empty = values.new_empty(len(masks), *values.shape[1:])
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
