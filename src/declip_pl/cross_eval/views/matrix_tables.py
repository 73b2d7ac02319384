"""A matrix as the tables of a paper."""

from collections.abc import Iterator, Mapping, Sequence

from declip_pl.cross_eval.breakdown import KINDS, METRICS
from declip_pl.cross_eval.estimates import Score
from declip_pl.cross_eval.matrix import (
    UNPERTURBED,
    Matrix,
)
from declip_pl.cross_eval.views.tables import Cell, Entry, Table, line
from declip_pl.metrics import Metric, all_metrics, find_metric

_HOME = "tested on what it was trained on"
Where = tuple[str, str | None]
"""A row or baseline, and the part of it."""

_MEANS = (
    ("in_domain", "in-domain mean"),
    ("out_of_domain", "out-of-domain mean"),
    ("worst_out_of_domain", "worst out-of-domain cell"),
)


def tables_of(matrix: Matrix) -> list[Table]:
    """Return every table of scores: matrices, means, whole photos, untouched ones, kinds."""
    if not matrix.columns:
        return []
    found = [matrix_table(matrix, name) for name in matrix.metrics]
    found += [means_table(matrix)]
    found += filter(None, (level_table(matrix, level) for level in ("images", "untouched")))
    return [*found, *(table for _, tables in kind_tables(matrix) for table in tables)]


def matrix_table(matrix: Matrix, name: str) -> Table:
    """Return the matrix of one metric: a column for each row of it and each baseline."""
    rows = [*matrix.rows, *matrix.answers(name)]
    lines = [
        line([column], [_entry(matrix, name, row, column) for row in rows])
        for column in matrix.columns
    ]
    return Table(
        name,
        f"{find_metric(name).title}: percent, trained on (columns) and tested on (lines)",
        notes(matrix, find_metric(name)),
        ["tested on", *rows],
        [lines],
        home=_HOME,
    )


def means_table(matrix: Matrix) -> Table:
    """Return the means of the key metrics over cells, and what each row reaches out of domain."""
    names = [name for name in matrix.metrics if find_metric(name).key and name in matrix.summary]
    summaries = [matrix.summary[name] for name in names]
    means = [
        line([title], [Entry(getattr(found, key)) for found in summaries])
        for key, title in _MEANS
        if any(getattr(found, key) for found in summaries)
    ]
    tables = [{**found.by_train, **found.leave_one_out} for found in summaries]
    rows = [row for row in matrix.rows if any(row in table for table in tables)]
    outside = [
        line([f"out-of-domain mean, trained on {row}"], [Entry(table.get(row)) for table in tables])
        for row in rows
    ]
    head = ["mean", *(find_metric(name).title for name in names)]
    groups = [group for group in (means, outside) if group]
    return Table("means", "Means over cells, percent", notes(matrix), head, groups)


def level_table(matrix: Matrix, level: str) -> Table | None:
    """Return the scores of whole photos (``images``) or of untouched ones; None without them."""
    metrics = level_metrics(matrix, level)
    if not metrics:
        return None
    rows = [*matrix.rows, *matrix.answer_names]
    head = [metric.title for metric in metrics]
    if level == "untouched":
        groups = [[line([row], [_of_row(matrix, m.name, row) for m in metrics]) for row in rows]]
        title = "Untouched photos, percent; less is better"
        return Table(level, title, notes(matrix), ["trained on", *head], groups)
    lines = [
        [
            line([row, column], [_entry(matrix, m.name, row, column) for m in metrics])
            for column in matrix.columns
        ]
        for row in rows
    ]
    words = ["trained on", "tested on"]
    title = "Image-level detection, percent"
    return Table(level, title, notes(matrix), [*words, *head], lines, len(words), _HOME)


def level_metrics(matrix: Matrix, level: str) -> list[Metric]:
    """Return the metrics of a level that the matrix has."""
    entries = (entry for entry in all_metrics() if entry.level == level)
    return [entry for entry in entries if entry.name in matrix.metrics]


def _of_row(matrix: Matrix, metric: str, row: str) -> Cell:
    return Entry(matrix.of_row(metric, row)) if _has(matrix, metric, row) else ""


def _entry(matrix: Matrix, metric: str, row: str, column: str) -> Cell:
    if not _has(matrix, metric, row):
        return ""
    return Entry(matrix.score(metric, row, column), matrix.is_in_domain(row, column))


def _has(matrix: Matrix, metric: str, row: str) -> bool:
    """Whether a row may have a metric: a baseline has none that needs a chosen threshold."""
    return row in matrix.rows or row in matrix.answers(metric)


def kind_tables(matrix: Matrix) -> Iterator[tuple[str, list[Table]]]:
    """Yield the kinds that fakes are sorted by, and a table of each metric for it."""
    for key, kind in KINDS.items():
        bins = [found for found in matrix.bins or () if found.kind == key]
        tables = []
        for metric in METRICS:
            scores = [
                {(s.train, s.part): s.score for s in found.scores if s.metric == metric}
                for found in bins
            ]
            lines = dict.fromkeys(where for table in scores for where in table)
            models = [_kind_line(where, scores) for where in lines if where[1]]
            constant = [_kind_line(where, scores) for where in lines if not where[1]]
            head = ["trained on", "cells", *(f"{b.name} ({b.photos:,} photos)" for b in bins)]
            title = (
                f"{find_metric(metric).title}: percent, by {kind.title[0].lower()}{kind.title[1:]}"
            )
            groups = [group for group in (models, constant) if group]
            if groups:
                name = f"{metric}_by_{key}"
                tables.append(Table(name, title, notes(matrix), head, groups, 2))
        if tables:
            yield kind.title, tables


def _kind_line(where: Where, scores: Sequence[Mapping[Where, Score]]) -> list[Cell]:
    cells = [Entry(table[where]) if where in table else "" for table in scores]
    return line([where[0], where[1] or "all"], cells)


def notes(matrix: Matrix, metric: Metric | None = None) -> list[str]:
    """Return what readers of a table must know, one sentence each."""
    seeds = len(matrix.seeds)
    over = (
        f"over test photos and {seeds} training seeds"
        if seeds > 1
        else "over test photos; there is one training seed, so how much trainings differ is not in "
        "them"
    )
    found = [f"95 % bootstrap intervals {over}."]
    if metric and metric.less_is_better:
        found.append("Less is better.")
    if matrix.perturbation != UNPERTURBED:
        found.append(f"Photos went through {matrix.perturbation}.")
    if matrix.notice:
        found.append(f"{matrix.notice}.")
    return found
