"""What a generator adds to a training set, on generators that neither has: a matrix of gains."""

from collections.abc import Iterator, Mapping
from itertools import permutations

from declip_pl.ablation.ablation import OUT, Ablation, Gain
from declip_pl.ablation.changes import corrected_changes, means
from declip_pl.ablation.table import change_cells
from declip_pl.cross_eval.differences import Difference
from declip_pl.cross_eval.evaluation import Evaluation
from declip_pl.cross_eval.views.tables import Table
from declip_pl.metrics import find_metric


def gains(evaluations: Mapping[str, Evaluation], metric: str) -> tuple[Gain, ...]:
    """Compare each variant with those that were trained on one generator more, paired by photo.

    Args:
        evaluations: What each variant scored. Variants of several training sets take no part.
        metric: A score of single photos.

    Returns:
        The changes out of domain on both sides, their p-values corrected for all of them together.
    """
    trained = dict(_trained_on(evaluations))
    found: dict[tuple[str, str], Difference] = {}
    for fewer, more in permutations(trained, 2):
        added = trained[more] - trained[fewer]
        if trained[fewer] < trained[more] and len(added) == 1:
            for part, difference in means(evaluations[fewer], evaluations[more], metric):
                if part == OUT:
                    found[fewer, added.pop()] = difference
    return tuple(Gain(*key, change) for key, change in corrected_changes(found).items())


def gains_table(ablation: Ablation) -> Table | None:
    """Return the matrix of gains, training sets as rows; None if there are none."""
    if not ablation.gains:
        return None
    found = {(gain.variant, gain.added): gain.change for gain in ablation.gains}
    rows = list(dict.fromkeys(variant for variant, _ in found))
    columns = sorted({added for _, added in found})
    cells = [
        [row, *(_shown(change_cells(found.get((row, column)))) for column in columns)]
        for row in rows
    ]
    return Table(
        name="gains",
        title=f"What a generator adds: change of {find_metric(ablation.metric).title} in points",
        notes=[
            "On the test generators that neither set has, paired by photo; with 95 % intervals.",
            "A star: p below 0.05, corrected for all changes of this table.",
        ],
        head=["trained on", *(f"and {column}" for column in columns)],
        groups=[cells],
    )


def _trained_on(evaluations: Mapping[str, Evaluation]) -> Iterator[tuple[str, set[str]]]:
    for variant, evaluation in evaluations.items():
        if len(evaluation.rows) == 1 and (names := evaluation.trained_on(evaluation.rows[0])):
            yield variant, set(names)


def _shown(cells: tuple[str, str, str, str]) -> str:
    value, interval, _, star = cells
    return f"{value}{star} {interval}".strip()
