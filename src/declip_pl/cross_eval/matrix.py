"""What a cross-evaluation found, as one typed object: ``matrix.json`` and ``matrix.csv``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from declip_pl.cross_eval.estimates import Bin, Score, Summary
from declip_pl.cross_eval.figures import Curve, Panel, Rates, Reliability
from declip_pl.csv_files import write_csv
from declip_pl.errors import UserError
from declip_pl.records import from_json, read_json, write_json

ROOT = Path("outputs/cross_eval")
"""Folder of all cross-evaluations."""

FILE, TABLE = "matrix.json", "matrix.csv"

FORMAT = 2
"""Raise it with any change to what ``matrix.json`` holds but entries that may be left out."""

COLUMNS = ("train", "test", "metric", "value", "ci_low", "ci_high", "n")
"""Of ``matrix.csv``."""

UNPERTURBED = "none"
"""The perturbation of photos as they are."""


@dataclass(frozen=True)
class ChosenThresholds:
    """The thresholds of a model that were chosen on validation photos; None where none were."""

    pixel: float | None
    image: float | None
    floor: float | None = None


@dataclass(frozen=True)
class GivenMaps:
    """The heat maps by which another method was scored.

    Attributes:
        files: How many of the folder's files are maps of test photos.
        missing: How many test photos have no map, and were left out.
        sha256: Hash of all maps in the folder.
        polarity: Which values mean fake: ``white`` high ones, ``black`` low ones.
        resized: Whether maps may have another size than their photo, to which they are brought.
        scores: Where the photos' scores come from, in words.
    """

    files: int
    missing: int
    sha256: str
    polarity: str
    resized: bool
    scores: str


@dataclass(frozen=True)
class ScoredModel:
    """A model that was scored.

    Attributes:
        name: What it is called.
        row: Its row in the matrix; models of several seeds share one.
        trained_on: The generators of its training photos; empty where they are not on record.
        seed: Of its training.
        encoder: Its frozen encoder's name.
        encoder_source: Where the encoder's weights came from.
        layer: Its feature layer.
        decoder: Its decoder's name.
        supervision: ``full`` or ``weak``.
        image_size: Side of its input in pixels.
        checkpoint: Name of the file or folder that was read.
        checkpoint_sha256: Hash of the file with its weights.
        thresholds: Chosen on validation photos.
        maps: Of a method that is known by its heat maps alone: no text above says anything of it,
            but for ``checkpoint``, the maps' folder, and the hash, which is of the maps and of how
            they are read. None of a trained model.
    """

    name: str
    row: str
    trained_on: tuple[str, ...]
    seed: int
    encoder: str
    encoder_source: str
    layer: str
    decoder: str
    supervision: str
    image_size: int
    checkpoint: str
    checkpoint_sha256: str
    thresholds: ChosenThresholds
    maps: GivenMaps | None = None


@dataclass(frozen=True)
class ScoredSet:
    """A test set: how many photos, and a hash of them and their masks."""

    photos: int
    sha256: str


@dataclass(frozen=True)
class Data:
    """The data set: a hash of its path, its name, and its test sets by generator (or ``real``)."""

    root: str
    name: str
    tests: dict[str, ScoredSet]


@dataclass(frozen=True)
class Failure:
    """A part of a cross-evaluation that went wrong while the rest went on."""

    what: str
    why: str


@dataclass(frozen=True)
class Made:
    """How a cross-evaluation came about.

    Attributes:
        command: The command line; paths are cut to their last part.
        seconds: How long it took.
        machine: Operating system and processor.
        device: Where decoders and metrics ran.
        git_commit: Of the package's source; None if it is not in a repository.
        date: In UTC, as in ISO 8601.
        versions: Of Python and packages.
    """

    command: str
    seconds: float
    machine: str
    device: str
    git_commit: str | None
    date: str
    versions: dict[str, str]


@dataclass(frozen=True)
class About:
    """What a matrix is about, beside its scores.

    Attributes:
        name: Name of the cross-evaluation's folder.
        notice: What everyone who sees a score must know; None if nothing.
        perturbation: What the test photos went through, ``none`` if nothing.
        data: The data set.
        failed: The parts that failed.
        made: How it came about.
    """

    name: str
    notice: str | None
    perturbation: str
    data: Data
    failed: tuple[Failure, ...]
    made: Made


@dataclass(frozen=True)
class Matrix(About):
    """A cross-evaluation: every row (training data) on every column (test generator).

    Attributes:
        format: :data:`FORMAT` when it was written.
        pooling: How an image's score is pooled from its map.
        models: All that were scored.
        rows: What models were trained on; rows that leave one generator out come last.
        columns: Test generators.
        in_domain: The columns that each row was trained on.
        leave_one_out: The rows that leave one generator out.
        seeds: All seeds of the models.
        metrics: Names of the metrics, in the order of reports.
        matrix: Scores by metric, row and column; a cell that failed is absent.
        summary: Means by metric.
        curves: By row and column.
        reliability: By row and column.
        panels: By row, column, and ``best``, ``median`` or ``worst``.
        inputs: A hash of all that the scores are made from; None in files of older versions.
        baselines: By metric, answer and column; None in files of older versions, as for all below.
        rates: ROC and precision-recall curves, by row and column.
        bins: Scores by kinds of photos.
    """

    format: int
    pooling: str
    models: tuple[ScoredModel, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    in_domain: dict[str, tuple[str, ...]]
    leave_one_out: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    matrix: dict[str, dict[str, dict[str, Score]]]
    summary: dict[str, Summary]
    curves: dict[str, dict[str, Curve]]
    reliability: dict[str, dict[str, Reliability]]
    panels: dict[str, dict[str, dict[str, Panel]]]
    inputs: str | None = None
    baselines: dict[str, dict[str, dict[str, Score]]] | None = None
    rates: dict[str, dict[str, Rates]] | None = None
    bins: tuple[Bin, ...] | None = None

    def score(self, metric: str, row: str, column: str) -> Score | None:
        """Return a row's or a baseline's score; None if the cell failed."""
        return {**self.matrix.get(metric, {}), **self.answers(metric)}.get(row, {}).get(column)

    def of_row(self, metric: str, row: str) -> Score | None:
        """Return a row's score of a metric that is the same on every column; None if all failed."""
        scores = (self.score(metric, row, column) for column in self.columns)
        return next(filter(None, scores), None)

    def answers(self, metric: str) -> dict[str, dict[str, Score]]:
        """Return the baselines' scores of a metric, by answer and column."""
        return (self.baselines or {}).get(metric, {})

    @property
    def answer_names(self) -> list[str]:
        """The baselines."""
        return list(self.answers("iou"))

    def is_in_domain(self, row: str, column: str) -> bool:
        """Whether a row was trained on a column's generator."""
        return column in self.in_domain.get(row, ())

    def is_on_record(self, row: str) -> bool:
        """Whether it is known what a row was trained on."""
        return any(model.trained_on for model in self.models if model.row == row)

    @property
    def single_rows(self) -> list[str]:
        """The rows that do not leave one generator out."""
        return [row for row in self.rows if row not in self.leave_one_out]


class DamagedMatrixError(UserError):
    """A ``matrix.json`` that can't be read, and that the command that wrote it makes anew."""


def read_matrix(folder: Path) -> Matrix:
    """Read the ``matrix.json`` of a cross-evaluation.

    Raises:
        DamagedMatrixError: If it is damaged.
        UserError: If it is missing, or written by a newer declip-pl.
    """
    path = folder / FILE
    try:
        content = read_json(path)
        _check_format(path, content.get("format"))
        return from_json(Matrix, _upgraded(content))
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no cross-evaluation: there is no {FILE} in it; expected a folder that "
            "`declip-pl cross-eval` or `evaluate` wrote"
        ) from None
    except (OSError, ValueError) as error:
        advice = "run the same `cross-eval` or `evaluate` again, which makes it anew"
        raise DamagedMatrixError(f"{path} is damaged ({error}); {advice}") from None


def readable_matrices(root: Path) -> Iterator[tuple[Path, Matrix]]:
    """Yield each cross-evaluation in a folder that can be read and its matrix, newest first."""
    files = sorted(root.glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files:
        try:
            matrix = read_matrix(path.parent)
        except UserError:
            continue
        yield path.parent, matrix


def write_matrix(folder: Path, matrix: Matrix) -> None:
    """Write ``matrix.json`` and the tidy ``matrix.csv``."""
    write_json(folder / FILE, matrix, indent=1)
    lines = [
        (row, column, metric, score.value, score.low, score.high, score.n)
        for metric, table in matrix.matrix.items()
        for row, cells in {**table, **matrix.answers(metric)}.items()
        for column, score in cells.items()
    ]
    write_csv(folder / TABLE, COLUMNS, lines)


def _check_format(path: Path, found: Any) -> None:
    if isinstance(found, int) and found > FORMAT:
        raise UserError(
            f"{path} was written by a newer declip-pl (format {found}; this one reads up to "
            f"{FORMAT}): update declip-pl"
        )


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content in today's format: the first had no number and no perturbations."""
    first = {"format": FORMAT, "notice": None, "perturbation": UNPERTURBED}
    return content if "format" in content else first | content
