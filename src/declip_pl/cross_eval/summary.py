"""A matrix as text: what ``declip-pl cross-eval`` prints when it is done."""

from collections.abc import Iterator

from declip_pl.cross_eval.estimates import Score
from declip_pl.cross_eval.matrix import (
    UNPERTURBED,
    GivenMaps,
    Matrix,
)
from declip_pl.cross_eval.text_table import aligned
from declip_pl.metrics import all_metrics, untouched_metrics

_SHOWN = ("iou", "iou_decided")
_MEANS = (
    ("in_domain", "in-domain mean"),
    ("out_of_domain", "out-of-domain mean"),
    ("worst_out_of_domain", "worst out-of-domain cell"),
)


def summary(matrix: Matrix) -> str:
    """Return the matrices of IoU, their means and what is marked of untouched photos as text."""
    shown = [metric for metric in _SHOWN if metric in matrix.matrix]
    if not shown:
        return "\nno cell was scored"
    perturbed = matrix.perturbation != UNPERTURBED
    through = f"; photos went through {matrix.perturbation}" if perturbed else ""
    lines = []
    for metric in shown:
        lines += ["", f"{metric} in percent; * = trained on that generator{through}"]
        lines += [*_table(matrix, metric), *_means(matrix, metric)]
    lines += _untouched(matrix)
    lines += [matrix.notice] if matrix.notice else []
    return "\n".join(lines)


def answer_means(matrix: Matrix, metric: str) -> dict[str, float | None]:
    """Return each baseline's mean over test sets; None if no score of it is defined."""
    means: dict[str, float | None] = {}
    for row, cells in matrix.answers(metric).items():
        values = [score.value for score in cells.values() if score.value is not None]
        means[row] = sum(values) / len(values) if values else None
    return means


def scores_of_all(matrix: Matrix) -> str:
    """Return the key metrics of every method on each test set with their intervals, as text.

    Beside them stands what an answer scores that calls every pixel fake.
    """
    shown = [m for m in all_metrics() if m.key and m.name in matrix.metrics]
    lines = []
    for column in matrix.columns:
        test = matrix.data.tests.get(column)
        lines += ["", f"test set {column} ({test.photos if test else 0} photos), percent with "
                  "95 % intervals"]  # fmt: skip
        table = [["", *matrix.rows, "all fake"]]
        for metric in shown:
            scores = [matrix.score(metric.name, row, column) for row in matrix.rows]
            constant = matrix.answers(metric.name).get("all fake", {}).get(column)
            beside = "" if constant is None else _number(constant.value)
            table.append([metric.name, *map(_in_brackets, scores), beside])
        lines += [f"  {line}" for line in aligned(table, left=(0,))]
    lines += _untouched(matrix)
    lines += [f"{model.row}: {of_maps(model.maps)}" for model in matrix.models if model.maps]
    lines += [matrix.notice] if matrix.notice else []
    return "\n".join(lines)


def of_maps(maps: GivenMaps) -> str:
    """Return in words what another method's maps are and how they were read."""
    parts = [f"{maps.files} heat maps", f"{maps.polarity} = fake"]
    parts += [f"{maps.missing} test photos without a map left out"] * bool(maps.missing)
    parts += ["brought to the photos' sizes"] * maps.resized
    return ", ".join([*parts, f"scores of photos: {maps.scores}"])


def _in_brackets(found: Score | None) -> str:
    if found is None or found.low is None or found.high is None:
        return _number_of(found)
    return f"{_number(found.value)} [{found.low:.1f}, {found.high:.1f}]"


def _table(matrix: Matrix, metric: str) -> Iterator[str]:
    width = max(len(name) for name in [*matrix.rows, "test on \\ train on"]) + 2
    side = max(12, *(len(name) + 2 for name in matrix.rows))
    yield f"{'test on / train on':<{width}}" + "".join(f"{row:>{side}}" for row in matrix.rows)
    for column in matrix.columns:
        entries = [
            _entry(matrix.score(metric, row, column), matrix.is_in_domain(row, column))
            for row in matrix.rows
        ]
        yield f"{column:<{width}}" + "".join(f"{entry:>{side}}" for entry in entries)


def _means(matrix: Matrix, metric: str) -> Iterator[str]:
    means = matrix.summary[metric]
    for key, title in _MEANS:
        if found := getattr(means, key):
            yield f"{title:<26}{_with_interval(found)}"
    for row, found in {**means.by_train, **means.leave_one_out}.items():
        yield f"  {f'trained on {row}':<24}{_with_interval(found)} out of domain"
    if found := answer_means(matrix, metric):
        said = ", ".join(f"{row} {_number(mean)}" for row, mean in found.items())
        yield f"baselines, means over test sets: {said}"
    for row in matrix.rows:
        if not matrix.is_on_record(row):
            yield f"  {row}: training data not on record, in none of the means"


def _untouched(matrix: Matrix) -> Iterator[str]:
    """Yield a table of the metrics that real photos alone decide: the same in every column."""
    names = [entry.name for entry in untouched_metrics(decided=True)]
    names = [name for name in names if name in matrix.matrix]
    if not names:
        return
    width = max(len(name) for name in [*matrix.rows, "trained on"]) + 2
    yield from ("", "untouched photos, percent; less is better")
    yield f"{'trained on':<{width}}" + "".join(f"{name:>{len(name) + 2}}" for name in names)
    for row in matrix.rows:
        entries = [_number_of(matrix.of_row(name, row)) for name in names]
        yield f"{row:<{width}}" + "".join(
            f"{entry:>{len(name) + 2}}" for name, entry in zip(names, entries, strict=True)
        )


def _entry(found: Score | None, in_domain: bool) -> str:
    return _number_of(found) + ("" if found is None else "*" if in_domain else " ")


def _with_interval(found: Score) -> str:
    if found.low is None or found.high is None:
        return f"{_number(found.value):>5}"
    return f"{_number(found.value):>5}  ({found.low:.1f} to {found.high:.1f})"


def _number_of(found: Score | None) -> str:
    return "failed" if found is None else _number(found.value)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1f}"
