"""Baselines: answers that never look at the photo, scored as models are."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from declip_pl.cross_eval.cell import FORMAT, Cell, CellKey, cell_path, read_cell, write_cell
from declip_pl.cross_eval.cells import intact
from declip_pl.cross_eval.failures import attempt
from declip_pl.cross_eval.heat_maps import TestSet
from declip_pl.cross_eval.map_scores import (
    Rows,
    Scored,
    image_tables,
    metric_identities,
    score_maps,
)
from declip_pl.cross_eval.matrix import Failure
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.layout import REAL
from declip_pl.metrics import Thresholds
from declip_pl.model.features import OUTPUT_SIZE
from declip_pl.model.network import POOLINGS, image_score
from declip_pl.training.baselines import constant, mean_mask

FOLDER = "baselines"
"""In a cross-evaluation's folder, where their cells are."""

_CHUNK = 32  # masks that are scored at once
_THRESHOLDS = Thresholds(None, {}, 0.0)
"""The decision needs a floor; with this one it marks wherever the answer does."""


@dataclass(frozen=True)
class Answer:
    """A map that is given for every photo; it stands where a model stands.

    Attributes:
        name: What it is called, as its row is.
        key: What the map depends on.
        make: Returns the map, ``[H, W]`` in [0, 1].
        trained_on: No generator.
        seed: None was drawn.
    """

    name: str
    key: str
    make: Callable[[], Tensor | None]
    trained_on: tuple[str, ...] = ()
    seed: int = 0

    @property
    def row(self) -> str:
        """Its row in the matrix."""
        return self.name

    @cached_property
    def map(self) -> Tensor:
        """The map."""
        found = self.make()
        assert found is not None
        return found


def answers(data: LocalizationDataModule) -> list[Answer]:
    """Return all fake, all real and, where there are training masks, their mean."""
    found = [
        Answer("all fake", "1", lambda: constant(1)),
        Answer("all real", "0", lambda: constant(0)),
    ]
    masks = [sample.mask for sample in data.train_mask_files() if sample.mask]
    if masks:
        hash_of = data.index.hashes(masks)
        known = "".join([data.mask_rule_key, *(hash_of[mask] for mask in masks)])
        key = sha256(known.encode()).hexdigest()
        found.append(Answer("mean train mask", key, lambda: mean_mask(data.train_masks())))
    return found


def score_answers(
    folder: Path,
    data: LocalizationDataModule,
    tests: Sequence[TestSet],
    failures: list[Failure],
) -> dict[tuple[str, str], Cell]:
    """Score answers on test sets; what is finished and unchanged is taken as it is.

    Args:
        folder: The cross-evaluation's.
        data: What has the training masks.
        tests: The test sets.
        failures: What went wrong is added to it.

    Returns:
        Cells by answer and test set.
    """
    cells = {}
    for answer in attempt(failures, "baselines", partial(answers, data)) or []:
        kept = {test.name: _kept(folder, answer, test) for test in tests}
        if not all(kept.values()) and _map_of(answer, failures) is None:
            continue
        for test in tests:
            # A mask that can't be read here can't be read for any model, and is named there.
            cell = kept[test.name] or attempt([], "", partial(_scored, folder, answer, test))
            if cell:
                cells[answer.name, test.name] = cell
    return cells


def _map_of(answer: Answer, failures: list[Failure]) -> Tensor | None:
    return attempt(failures, f"baseline {answer.name}", lambda: answer.map)


def _key(answer: Answer, test: TestSet) -> CellKey:
    names = metric_identities(_THRESHOLDS)
    floor, changes = _THRESHOLDS.floor, test.perturbation  # masks follow a crop
    return CellKey(FORMAT, answer.key, test.sha256, changes, None, names, floor)


def _kept(folder: Path, answer: Answer, test: TestSet) -> Cell | None:
    cell = intact(read_cell, cell_path(folder, answer.name, test.name, FOLDER))
    return cell if cell and cell.key == _key(answer, test) else None


def _scored(folder: Path, answer: Answer, test: TestSet) -> Cell:
    start = time.monotonic()
    is_fake = test.name != REAL
    answers_map = answer.map[None, None]
    rows = Rows(len(test.data))
    for masks in _masks(test):
        found = score_maps(answers_map.expand(len(masks), -1, -1, -1), masks, _THRESHOLDS, is_fake)
        # A logit is finite here, so that its mean is a number.
        logits = answers_map.logit(1e-6).expand(len(masks), -1, -1, -1)
        scores: dict[str, Tensor] = {pooling: image_score(logits, pooling) for pooling in POOLINGS}
        rows.add(found | image_tables(scores))
    photos = [sample.name for sample in test.data.samples]
    scored = Scored.of(photos, rows.table(), is_fake)
    cell = Cell(
        _key(answer, test), answer.name, answer.seed, test.name, _THRESHOLDS, **vars(scored),
        panels={}, seconds=round(time.monotonic() - start, 2),
    )  # fmt: skip
    write_cell(cell_path(folder, answer.name, test.name, FOLDER), cell)
    return cell


def _masks(test: TestSet) -> Iterator[list[Tensor]]:
    """Yield a test set's masks in batches; those of reals are empty."""
    empty = torch.zeros(OUTPUT_SIZE, OUTPUT_SIZE, dtype=torch.bool)
    masks = (empty for _ in test.data.samples) if test.name == REAL else test.data.masks()
    while batch := list(islice(masks, _CHUNK)):
        yield batch
