"""One cell of the matrix as a file: a model's scores on every photo of a test set."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from declip_pl.cross_eval.matrix import Curve, Matrix, Panel, ScoredModel
from declip_pl.cross_eval.records import from_json, to_json
from declip_pl.files import file_name, write_text
from declip_pl.metrics import Thresholds

FORMAT = 2
"""Raise it with any change to what a cell holds; older cells are then scored anew."""


@dataclass(frozen=True)
class CellKey:
    """What a cell depends on; a cell of another key is scored anew.

    Attributes:
        format: :data:`FORMAT` when it was written.
        checkpoint: Hash of the model's weights.
        test: Hash of the photos and masks.
        perturbation: What the photos went through, ``none`` if nothing.
        pixel: The threshold that tuned metrics were measured at.
        metrics: Names of the metrics that score maps; a user's own with a hash of its code.
    """

    format: int
    checkpoint: str
    test: str
    perturbation: str
    pixel: float | None
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Histogram:
    """Each photo's pixels by probability, ``[P][bins]``: how many, their sum, how many fake."""

    count: list[list[int]]
    probability: list[list[float]]
    fake: list[list[int]]


@dataclass(frozen=True)
class Cell:
    """A model's scores on a test set.

    Attributes:
        key: What it depends on.
        model: The model's name.
        seed: The model's seed.
        test: A generator, or ``real``.
        thresholds: The model's.
        photos: Names of the photos.
        scores: Each photo's scores in percent by metric, None where undefined; empty for reals.
        image_scores: Each photo's score in [0, 1] by pooling.
        histogram: Each photo's pixels by probability.
        curve: Means over photos.
        panels: The best, the median and the worst photo; empty for reals.
        seconds: How long it took.
    """

    key: CellKey
    model: str
    seed: int
    test: str
    thresholds: Thresholds
    photos: list[str]
    scores: dict[str, list[float | None]]
    image_scores: dict[str, list[float | None]]
    histogram: Histogram
    curve: Curve
    panels: dict[str, Panel]
    seconds: float

    @property
    def fake_share(self) -> float:
        """The share of the photos' pixels that are fake."""
        fake, count = (sum(map(sum, p)) for p in (self.histogram.fake, self.histogram.count))
        return fake / count if count else 0.0


@dataclass(frozen=True)
class ThresholdsKey:
    """What a model's thresholds depend on; its hashes and perturbations are of validation sets."""

    format: int
    checkpoint: str
    valid: tuple[str, ...]
    perturbations: tuple[str, ...]


@dataclass(frozen=True)
class ThresholdsFile:
    """A model's thresholds as a file.

    Attributes:
        key: What they depend on.
        model: The model's name.
        thresholds: The thresholds.
        image_auroc: Percent by pooling: how well scores tell fakes from reals on validation photos.
        seconds: How long it took.
    """

    key: ThresholdsKey
    model: str
    thresholds: Thresholds
    image_auroc: dict[str, float | None]
    seconds: float


Record = TypeVar("Record", Cell, ThresholdsFile)


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """Return a cell or thresholds; None where there is no such file, or it is damaged or older."""
    try:
        return from_json(kind, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def write_record(path: Path, record: Cell | ThresholdsFile) -> None:
    """Write a cell or thresholds as JSON, atomically."""
    write_text(path, json.dumps(to_json(record)) + "\n")


def cell_path(folder: Path, model: str, test: str) -> Path:
    """Return where the cell of a model and a test set stands in a cross-evaluation's folder."""
    return folder / "cells" / model / file_name(test, ".json")


def finished_cell(folder: Path, matrix: Matrix, model: ScoredModel, test: str) -> Cell | None:
    """Return a cell that a written matrix is made of.

    Args:
        folder: The cross-evaluation.
        matrix: Its matrix.
        model: One of its models.
        test: A generator, or ``real``.

    Returns:
        The cell, or None where it failed; a file may stand there from before.
    """
    cell = read_record(cell_path(folder, model.name, test), Cell)
    scored = matrix.data.tests.get(test)
    if not cell or not scored:
        return None
    key = (cell.key.format, cell.key.checkpoint, cell.key.test, cell.key.perturbation)
    wanted = (FORMAT, model.checkpoint_sha256, scored.sha256, matrix.perturbation)
    return cell if key == wanted else None
