"""What a comparison of two cross-evaluations or models is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from declip_pl.cross_eval.evaluation import Evaluation, Photos, Where
from declip_pl.cross_eval.statistics import Estimate, holm

Seeds = dict[int, Photos]
"""The photos and scores of a cell by seed."""


@dataclass(frozen=True)
class Pair:
    """A cell of A and the cell of B that it is compared with.

    Attributes:
        rows: A's row and B's.
        column: The test set of both.
        a: What A's seeds scored.
        b: What B's seeds scored.
    """

    rows: tuple[str, str]
    column: str
    a: Seeds
    b: Seeds

    @property
    def where(self) -> Where:
        """Row and column; of two rows both."""
        return " / ".join(dict.fromkeys(self.rows)), self.column


@dataclass(frozen=True)
class Difference:
    """What changes from A to B.

    Attributes:
        where: Row and column, or the name of a mean over cells.
        a: A's score in percent, mean over seeds of the mean over photos.
        b: B's, on the same photos.
        change: ``b - a`` in points, with its interval.
        p_value: Of "no change on such photos", for these trained models.
        corrected: The same, corrected for how many cells (or means) were tested; NaN until then.
    """

    where: tuple[str, str]
    a: float
    b: float
    change: Estimate
    p_value: float
    corrected: float


@dataclass(frozen=True)
class Comparison:
    """All differences between two evaluations in one metric.

    Attributes:
        a: The one compared against.
        b: The other.
        metric: Name of the score.
        seeds: How many seeds A and B have at most in a cell.
        cells: Every cell that both have.
        means: Over the in-domain and over the out-of-domain cells.
        how: What the p-values are of.
    """

    a: Evaluation
    b: Evaluation
    metric: str
    seeds: tuple[int, int]
    cells: list[Difference]
    means: list[Difference]
    how: str


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """Return differences with p-values corrected by Holm's method over all of them."""
    p_values = holm([difference.p_value for difference in differences])
    return [replace(d, corrected=p) for d, p in zip(differences, p_values, strict=True)]
