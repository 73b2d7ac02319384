"""What an ablation found, as one typed object: ``ablation.json`` and ``ablation.csv``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from declip_pl.cross_eval.matrix import Failure, Made, Matrix, Score
from declip_pl.csv_files import write_csv
from declip_pl.records import read_record, write_json

ROOT = Path("outputs/ablate")
"""Folder of all ablations."""

FILE, SPREADSHEET = "ablation.json", "ablation.csv"

IN, OUT, WORST = "in-domain", "out-of-domain", "worst out-of-domain"
"""Parts of the cells; the others are :data:`TEST` and a name: out of domain, on one generator."""

TEST = "test "

COLUMNS = (
    *("variant", "metric", "part", "value", "ci_low", "ci_high", "n"),
    *("against", "change", "change_low", "change_high", "p", "corrected_p"),
)
"""Of ``ablation.csv``."""


@dataclass(frozen=True)
class Change:
    """By how much a variant scores more than the one that all are compared with.

    Attributes:
        value: In points, paired by photo.
        low: Where its 95 % interval begins; None where there is none.
        high: Where it ends.
        p: Of "no change on such photos", for these trained models.
        corrected: The same, corrected for all changes of the ablation by Holm's method.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    corrected: float | None


@dataclass(frozen=True)
class Line:
    """A variant's mean over some cells.

    Attributes:
        variant: Its name.
        metric: Name of the metric.
        part: Which cells.
        score: The mean, in percent.
        change: Against the other variant; None for that one, and where it is not tested.
    """

    variant: str
    metric: str
    part: str
    score: Score
    change: Change | None = None


@dataclass(frozen=True)
class Gain:
    """What one more generator in training changes on generators that it does not have either.

    Attributes:
        variant: The one with fewer.
        added: The generator.
        change: Against it, out of domain on both sides.
    """

    variant: str
    added: str
    change: Change


@dataclass(frozen=True)
class Variant:
    """A variant that was scored; its cross-evaluation is in the folder of its name.

    Attributes:
        changes: What it changes in the recipe, as text by entry.
        models: Names of its runs.
        number: Its place on the axis, where one number varies; None otherwise.
    """

    changes: dict[str, str]
    models: tuple[str, ...]
    number: float | None


@dataclass(frozen=True)
class Ablation:
    """An answered question.

    Attributes:
        name: Of its folder.
        question: In words.
        recipe: Name of the recipe's file.
        axis: What the variants' numbers are; None where they have none.
        fixed: What is changed in the recipe for all variants, as text by entry.
        data: Name of the data set.
        notice: What everyone who sees a score must know; None if nothing.
        seeds: Models of each variant and training set.
        against: The variant that the others are compared with.
        metric: What they are compared by.
        variants: By name.
        lines: The scores of all variants.
        gains: Where variants are training sets of which one has a generator more than another.
        failed: What went wrong.
        made: How it came about.
    """

    name: str
    question: str
    recipe: str
    axis: str | None
    fixed: dict[str, str]
    data: str
    notice: str | None
    seeds: int
    against: str
    metric: str
    variants: dict[str, Variant]
    lines: tuple[Line, ...]
    gains: tuple[Gain, ...]
    failed: tuple[Failure, ...]
    made: Made

    def find(self, variant: str, metric: str, part: str) -> Line | None:
        """Return a variant's line; None if there is none."""
        wanted = (variant, metric, part)
        found = (line for line in self.lines if (line.variant, line.metric, line.part) == wanted)
        return next(found, None)


def lines_of(variant: str, matrix: Matrix) -> Iterator[Line]:
    """Yield a variant's means: in domain, out of domain, worst, by test set, untouched photos."""
    for metric in matrix.metrics:
        summary = matrix.summary[metric]
        means = {IN: summary.in_domain, OUT: summary.out_of_domain,
                 WORST: summary.worst_out_of_domain}  # fmt: skip
        means |= {f"{TEST}{name}": score for name, score in summary.by_test.items()}
        for part, score in means.items():
            if score:
                yield Line(
                    variant, metric, part, Score(score.value, score.low, score.high, score.n)
                )


def write_ablation(folder: Path, ablation: Ablation) -> None:
    """Write ``ablation.json`` and the tidy ``ablation.csv``."""
    write_json(folder / FILE, ablation, indent=1)
    write_csv(folder / SPREADSHEET, COLUMNS, [_row(ablation, line) for line in ablation.lines])


def read_ablation(folder: Path) -> Ablation:
    """Read the ``ablation.json`` of an ablation.

    Raises:
        UserError: If it is missing or damaged.
    """
    return read_record(Ablation, folder / FILE, "ablate")


def _row(ablation: Ablation, line: Line) -> tuple[object, ...]:
    score, change = line.score, line.change
    compared = (
        (ablation.against, change.value, change.low, change.high, change.p, change.corrected)
        if change
        else (None,) * 6
    )
    whose = (line.variant, line.metric, line.part)
    return (*whose, score.value, score.low, score.high, score.n, *compared)
