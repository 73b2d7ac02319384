"""One cell of the matrix as a file: a model's scores on every photo of a test set."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from sys import intern
from typing import Any, TypeVar

import numpy as np

from declip_pl.cross_eval.columns import Column, read_columns, write_columns
from declip_pl.cross_eval.matrix import Matrix
from declip_pl.cross_eval.measured import Curve, Panel, PixelCounts
from declip_pl.cross_eval.scored_model import ScoredModel
from declip_pl.errors import UserError
from declip_pl.files import file_name
from declip_pl.metrics import CALIBRATION_BINS, Thresholds
from declip_pl.records import from_json, read_json, to_json, write_json

FORMAT = 5
"""Raise it with any change to what a cell holds; older cells are then scored anew."""

FACTS = ("width", "height", "regions")
"""What a photo is like: its size in pixels, and in how many regions its fake pixels lie."""


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
        floor: The decision's.
    """

    format: int
    checkpoint: str
    test: str
    perturbation: str
    pixel: float | None
    metrics: tuple[str, ...]
    floor: float | None = None


@dataclass(frozen=True)
class CellAbout:
    """A cell without its columns.

    Attributes:
        key: What it depends on.
        model: The model's name.
        seed: The model's seed.
        test: A generator, or ``real``.
        thresholds: The model's.
        photos: Names of the photos.
        curve: Means over photos.
        panels: The best, the median and the worst photo, and samples; empty for reals.
        seconds: How long it took.
        pixels: How all pixels of all photos are spread; None of reals and of baselines.
    """

    key: CellKey
    model: str
    seed: int
    test: str
    thresholds: Thresholds
    photos: list[str]
    curve: Curve
    panels: dict[str, Panel]
    seconds: float
    pixels: PixelCounts | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Cell(CellAbout):
    """A model's scores on a test set of P photos; NaN where one is undefined.

    Attributes:
        scores: Each photo's scores in percent by metric, ``[P]``: of maps, or of untouched photos.
        image_scores: Each photo's score in [0, 1] by pooling, ``[P]``.
        histogram: Each photo's pixels by probability, ``[P, 3, bins]``: how many, their sum, how
            many fake.
        facts: What each photo is like, ``[P]`` by :data:`FACTS`; none of reals.
    """

    scores: dict[str, Column]
    image_scores: dict[str, Column]
    histogram: Column
    facts: dict[str, Column] = field(default_factory=dict, kw_only=True)

    @property
    def about(self) -> CellAbout:
        """The cell without its columns."""
        return CellAbout(**{name: getattr(self, name) for name in CellAbout.__dataclass_fields__})

    @property
    def columns(self) -> dict[str, Column]:
        """All columns by the names that they have in the file."""
        scores = {f"scores/{name}": values for name, values in self.scores.items()}
        images = {f"image_scores/{name}": values for name, values in self.image_scores.items()}
        facts = {f"facts/{name}": values for name, values in self.facts.items()}
        return {**scores, **images, **facts, "histogram": self.histogram}

    @property
    def areas(self) -> Column:
        """How much of each photo is fake, in percent, ``[P]``."""
        counts = self.histogram.sum(-1)
        shares: Column = 100 * counts[:, 2] / np.maximum(counts[:, 0], 1)
        return shares

    @property
    def fake_share(self) -> float:
        """The share of the photos' pixels that are fake."""
        count, _, fake = self.histogram.sum((0, 2))
        return float(fake / count) if count else 0.0


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


T = TypeVar("T")


def read_cell(path: Path) -> Cell | None:
    """Return a cell; None where there is no such file, or one of another format.

    Raises:
        ValueError: If it is damaged.
    """
    return _if_there(lambda: _read_cell(path))


def write_cell(path: Path, cell: Cell) -> None:
    """Write a cell, atomically."""
    write_columns(path, to_json(cell.about), cell.columns)


def read_thresholds(path: Path) -> ThresholdsFile | None:
    """Return thresholds; None where there is no such file, or one of another format.

    Raises:
        ValueError: If it is damaged.
    """
    return _if_there(lambda: _of_this_format(ThresholdsFile, read_json(path)))


def write_thresholds(path: Path, thresholds: ThresholdsFile) -> None:
    """Write thresholds, atomically."""
    write_json(path, thresholds)


def cell_path(folder: Path, model: str, test: str, of: str = "cells") -> Path:
    """Return where the cell of a model and a test set stands in a cross-evaluation's folder."""
    return folder / of / model / file_name(test, ".safetensors")


def finished_cell(folder: Path, matrix: Matrix, model: ScoredModel, test: str) -> Cell | None:
    """Return a cell that a written matrix is made of.

    Args:
        folder: The cross-evaluation.
        matrix: Its matrix.
        model: One of its models.
        test: A generator, or ``real``.

    Returns:
        The cell, or None where it failed; a file may stand there from before.

    Raises:
        UserError: If its file is damaged.
    """
    path = cell_path(folder, model.name, test)
    try:
        cell = read_cell(path)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); run the same `cross-eval` or `evaluate` again, "
            "which scores it anew"
        ) from None
    scored = matrix.data.tests.get(test)
    if not cell or not scored:
        return None
    key = (cell.key.format, cell.key.checkpoint, cell.key.test, cell.key.perturbation)
    wanted = (FORMAT, model.checkpoint_sha256, scored.sha256, matrix.perturbation)
    return cell if key == wanted else None


def _if_there(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except OSError:
        return None


def _read_cell(path: Path) -> Cell | None:
    content, columns = read_columns(path)
    about = _of_this_format(CellAbout, content)
    if about is None:
        return None
    histogram = columns.pop("histogram", np.empty(0))
    photos = len(about.photos)
    shapes = {column.shape for column in columns.values()}
    if histogram.shape != (photos, 3, CALIBRATION_BINS) or shapes > {(photos,)}:
        raise ValueError(f"its columns are not of its {photos} photos")
    # Cells have the same photos: their names are in memory once.
    named = replace(about, photos=list(map(intern, about.photos)))
    return Cell(
        **vars(named), scores=_under("scores", columns),
        image_scores=_under("image_scores", columns), facts=_under("facts", columns),
        histogram=histogram,
    )  # fmt: skip


def _of_this_format(kind: type[T], content: Any) -> T | None:
    """Read a record, or return None if another version wrote it."""
    key = content.get("key") if isinstance(content, dict) else None
    written = key.get("format") if isinstance(key, dict) else None
    if isinstance(written, int) and written != FORMAT:
        return None
    return from_json(kind, content)


def _under(group: str, columns: dict[str, Column]) -> dict[str, Column]:
    prefix = f"{group}/"
    return {k.removeprefix(prefix): v for k, v in columns.items() if k.startswith(prefix)}
