"""Scores with their intervals, and means of them over cells."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A score with its 95 % interval.

    Attributes:
        value: In percent; None where it is not defined.
        low: Where the interval begins; None where there is none.
        high: Where it ends.
        n: How many photos it is made of.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class WorstScore(Score):
    """The score of the worst cell, which is the one of ``train`` and ``test``."""

    train: str
    test: str


@dataclass(frozen=True)
class Summary:
    """The means of one metric over cells.

    Attributes:
        by_train: Out of domain, by row of one generator.
        by_test: Out of domain, by test generator, over rows of one generator.
        leave_one_out: Out of domain, by row of several generators.
        in_domain: Over rows of one generator.
        out_of_domain: Over rows of one generator.
        worst_out_of_domain: Over rows of one generator.
    """

    by_train: dict[str, Score]
    by_test: dict[str, Score]
    leave_one_out: dict[str, Score]
    in_domain: Score | None = None
    out_of_domain: Score | None = None
    worst_out_of_domain: WorstScore | None = None


@dataclass(frozen=True)
class BinScore:
    """A row's or baseline's mean over a part of its cells (None: all), of their photos in a bin."""

    train: str
    part: str | None
    metric: str
    score: Score


@dataclass(frozen=True)
class Bin:
    """Fakes of one kind, such as those of which 1 to 5 % of the pixels are fake.

    Attributes:
        kind: What they are sorted by, of :data:`declip_pl.cross_eval.breakdown.KINDS`.
        name: Which of them these are.
        photos: How many there are, over all test sets.
        scores: Of rows and baselines.
    """

    kind: str
    name: str
    photos: int
    scores: tuple[BinScore, ...]
