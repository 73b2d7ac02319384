"""What degraded photos cost, as one typed object: ``robustness.json`` and ``robustness.csv``."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from declip_pl.cross_eval.matrix import Failure, Made, Matrix, Score
from declip_pl.csv_files import write_csv
from declip_pl.metrics import untouched_metrics
from declip_pl.records import read_record, write_json

ROOT = Path("outputs/robustness")
"""Folder of all of them."""

FILE, SPREADSHEET = "robustness.json", "robustness.csv"

CLEAN = "clean"
"""Stands where a degradation does: photos as they are."""

IN, OUT, UNTOUCHED = "in-domain", "out-of-domain", "untouched photos"
"""Parts of the cells that a mean is over."""

EVERY = "all rows"
"""Stands where a row does: the means over rows of one generator."""

COLUMNS = (
    *("degradation", "value", "train", "part", "metric"),
    *("score", "ci_low", "ci_high", "n"),
)
"""Of ``robustness.csv``."""


@dataclass(frozen=True)
class Line:
    """A mean over some cells, on degraded photos.

    Attributes:
        degradation: Its name, or :data:`CLEAN`.
        value: Its strength, as text; empty for clean photos.
        train: A row of the matrix, or :data:`EVERY`.
        part: Which cells.
        metric: Name of the metric.
        score: In percent.
    """

    degradation: str
    value: str
    train: str
    part: str
    metric: str
    score: Score


@dataclass(frozen=True)
class Robustness:
    """Models on photos that were degraded in several ways.

    Attributes:
        name: Of its folder.
        data: Name of the data set.
        notice: What everyone who sees a score must know; None if nothing.
        rows: What the models were trained on.
        models: Their names.
        degradations: Each one's values, as text, from weak to strong.
        lines: All scores.
        failed: What went wrong.
        made: How it came about.
    """

    name: str
    data: str
    notice: str | None
    rows: tuple[str, ...]
    models: tuple[str, ...]
    degradations: dict[str, tuple[str, ...]]
    lines: tuple[Line, ...]
    failed: tuple[Failure, ...]
    made: Made

    def score(
        self, metric: str, part: str, degradation: str, value: str, train: str = EVERY
    ) -> float | None:
        """Return a mean in percent; None if there is none."""
        wanted = (degradation, value, train, part, metric)
        for line in self.lines:
            if (line.degradation, line.value, line.train, line.part, line.metric) == wanted:
                return line.score.value
        return None

    def clean(self, metric: str, part: str, train: str = EVERY) -> float | None:
        """Return a mean on photos as they are."""
        return self.score(metric, part, CLEAN, "", train)

    def curve(
        self, metric: str, part: str, degradation: str, train: str = EVERY
    ) -> list[float | None]:
        """Return a mean at each strength, from weak to strong."""
        values = self.degradations[degradation]
        return [self.score(metric, part, degradation, value, train) for value in values]

    def area(self, metric: str, part: str, degradation: str, train: str = EVERY) -> float | None:
        """Return the mean over all strengths relative to clean photos, in percent.

        None where a strength failed, or nothing is left on clean photos.
        """
        clean = self.clean(metric, part, train)
        found = self.curve(metric, part, degradation, train)
        known = [value for value in found if value is not None]
        if not clean or len(known) < len(found):
            return None
        return 100 * sum(known) / len(known) / clean


def lines_of(degradation: str, value: str, matrix: Matrix) -> Iterator[Line]:
    """Yield the means of a matrix: of each row and over rows, in and out of domain, untouched."""
    reals = [entry.name for entry in untouched_metrics(decided=True)]
    for metric in matrix.metrics:
        summary = matrix.summary[metric]
        for row in matrix.rows:
            for part, score in _of_row(matrix, metric, row, metric in reals):
                yield Line(degradation, value, row, part, metric, score)
        if metric in reals:
            rows = [matrix.of_row(metric, row) for row in matrix.single_rows]
            score = mean([found for found in rows if found])
            yield Line(degradation, value, EVERY, UNTOUCHED, metric, score)
        else:
            for part, found in ((IN, summary.in_domain), (OUT, summary.out_of_domain)):
                if found:
                    yield Line(degradation, value, EVERY, part, metric, found)


def mean(scores: Sequence[Score]) -> Score:
    """Return the mean of some scores, without an interval; undefined if any of them is."""
    values = [score.value for score in scores if score.value is not None]
    value = sum(values) / len(values) if values and len(values) == len(scores) else None
    return Score(value, None, None, sum(score.n for score in scores))


def write_robustness(folder: Path, found: Robustness) -> None:
    """Write ``robustness.json`` and the tidy ``robustness.csv``."""
    write_json(folder / FILE, found, indent=1)
    write_csv(folder / SPREADSHEET, COLUMNS, _rows(found.lines))


def read_robustness(folder: Path) -> Robustness:
    """Read the ``robustness.json`` of a folder.

    Raises:
        UserError: If it is missing or damaged.
    """
    return read_record(Robustness, folder / FILE, "robustness")


def _of_row(matrix: Matrix, metric: str, row: str, real: bool) -> Iterator[tuple[str, Score]]:
    if real:
        if found := matrix.of_row(metric, row):
            yield UNTOUCHED, found
        return
    summary = matrix.summary[metric]
    inside = [matrix.score(metric, row, column) for column in matrix.in_domain[row]]
    if known := [score for score in inside if score]:
        yield IN, known[0] if len(known) == 1 else mean(known)
    if outside := {**summary.by_train, **summary.leave_one_out}.get(row):
        yield OUT, outside


def _rows(lines: Iterable[Line]) -> Iterator[tuple[object, ...]]:
    for line in lines:
        score = line.score
        whose = (line.degradation, line.value, line.train, line.part, line.metric)
        yield (*whose, score.value, score.low, score.high, score.n)
