"""From cells to the matrix: estimates with intervals, and the means over cells."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from declip_pl.cross_eval.breakdown import bins_of
from declip_pl.cross_eval.cell import Cell
from declip_pl.cross_eval.inputs import inputs_hash
from declip_pl.cross_eval.matrix import FORMAT, About, Matrix, Score, Summary, WorstScore
from declip_pl.cross_eval.measured import Bins, Curve, Rates, Reliability
from declip_pl.cross_eval.methods import Method
from declip_pl.cross_eval.models import rows_of_means
from declip_pl.cross_eval.rates import rates_of
from declip_pl.cross_eval.scored_model import ChosenThresholds, ScoredModel
from declip_pl.cross_eval.scores import Scores
from declip_pl.cross_eval.statistics import Sampled, combined, reliability, sampled
from declip_pl.data.layout import ALL_BUT, REAL
from declip_pl.metrics import Thresholds, all_metrics, find_metric
from declip_pl.model.network import Pooling

T = TypeVar("T")

Pair = tuple[str, str]
"""A row and a column."""
Table = dict[str, dict[Pair, Sampled]]
"""Each cell's score and its resamples, by metric."""


def build_matrix(
    models: Sequence[Method],
    cells: Mapping[tuple[str, str], Cell],
    thresholds: Mapping[str, Thresholds],
    columns: Sequence[str],
    pooling: Pooling,
    about: About,
    before: Matrix | None = None,
    baselines: Mapping[tuple[str, str], Cell] | None = None,
) -> Matrix:
    """Return the matrix of what was scored.

    Args:
        models: The localizers.
        cells: By model and test set; those that failed are absent.
        thresholds: By model.
        columns: Test generators.
        pooling: How an image's score is pooled from its map.
        about: What the matrix is about.
        before: A matrix of before; its figures are taken if they were made from the same.
        baselines: Cells of :func:`declip_pl.cross_eval.answers.score_answers`.
    """
    scored = [
        model.described(ChosenThresholds(found.pixel, found.image.get(pooling), found.floor))
        for model in models
        for found in (thresholds.get(model.name, Thresholds(None, {})),)
    ]
    answers = baselines or {}
    inputs = inputs_hash(scored, {**cells, **answers}, thresholds, columns, pooling)
    if before and before.inputs == inputs:
        return replace(before, **vars(about))
    names = dict.fromkeys(name for name, _ in answers)
    chosen = {name: Thresholds(None, {pooling: None}) for name in names}
    constant = None
    if names:
        constant = Scores([Constant(name) for name in names], answers, chosen, pooling)
    scores = Scores(models, cells, thresholds, pooling)
    return _built(scores, constant, scored, columns, about, inputs)


@dataclass(frozen=True)
class Constant:
    """A baseline, where a model stands; it is a row of its own name."""

    name: str
    trained_on: tuple[str, ...] = ()

    @property
    def row(self) -> str:
        """Its row."""
        return self.name


def _built(
    scores: Scores,
    constant: Scores | None,
    models: Sequence[ScoredModel],
    columns: Sequence[str],
    about: About,
    inputs: str,
) -> Matrix:
    rows = sorted(scores.models, key=lambda row: (row.startswith(ALL_BUT), row))
    done = [(row, column) for row in rows for column in columns if any(scores.found(row, column))]
    samples = _sampled(scores, done)
    table = {metric: _estimates(found, rows, done) for metric, found in samples.items()}
    domains = _Domains.of(scores, rows, columns)
    return Matrix(
        **vars(about),
        format=FORMAT,
        pooling=scores.pooling,
        models=tuple(models),
        rows=tuple(rows),
        columns=tuple(columns),
        in_domain={row: domains.inside[row] for row in rows},
        leave_one_out=tuple(row for row in rows if row.startswith(ALL_BUT)),
        seeds=tuple(sorted({model.seed for model in models})),
        metrics=tuple(samples),
        matrix=table,
        summary={
            metric: _summary(metric, found, table[metric], domains)
            for metric, found in samples.items()
        },
        curves=_by_cell(done, lambda row, column: _curve(scores.found(row, column))),
        reliability=_by_cell(done, lambda row, column: _reliability(scores, row, column)),
        panels=_by_cell(
            done, lambda row, column: next(filter(None, scores.found(row, column))).panels
        ),
        inputs=inputs,
        baselines=_baselines(constant, columns) if constant else None,
        rates=_by_cell(done, lambda row, column: _rates(scores, row, column)),
        bins=bins_of(scores, constant, sorted(domains.known), columns, domains.inside),
    )


def _baselines(scores: Scores, columns: Sequence[str]) -> dict[str, dict[str, dict[str, Score]]]:
    """Return the scores of answers by metric, answer and column."""
    rows = list(scores.models)
    done = [(row, column) for row in rows for column in columns if any(scores.found(row, column))]
    found = _sampled(scores, done)
    return {metric: _estimates(cells, rows, done) for metric, cells in found.items()}


@dataclass(frozen=True)
class _Domains:
    """Which cells are in domain and which out of it.

    Attributes:
        inside: The columns that each row was trained on.
        known: The rows of which the training data are on record.
        single: The rows that the means are made of.
    """

    inside: dict[str, tuple[str, ...]]
    known: frozenset[str]
    single: frozenset[str]

    @classmethod
    def of(cls, scores: Scores, rows: Sequence[str], columns: Sequence[str]) -> "_Domains":
        trained_on = scores.trained_on
        known = frozenset(row for row in rows if trained_on[row])
        inside = {row: tuple(c for c in columns if c in trained_on[row]) for row in rows}
        return cls(inside, known, rows_of_means(trained_on))

    def is_in(self, pair: Pair) -> bool:
        return pair[1] in self.inside[pair[0]]

    def is_out(self, pair: Pair) -> bool:
        return pair[0] in self.known and not self.is_in(pair)


def _sampled(scores: Scores, done: Sequence[Pair]) -> Table:
    """Return each cell's score and its resamples, metrics in the order of the table."""
    found: Table = {}
    for row in dict.fromkeys(row for row, _ in done):
        tests = [column for other, column in done if other == row]
        # Every row sees the same draws. Drawing them again takes less than the memory is worth that
        # the photos of all rows would take at once.
        for test, metric, score in _sampled_row(scores, row, tests):
            found.setdefault(metric, {})[row, test] = score
    return {entry.name: found[entry.name] for entry in all_metrics() if entry.name in found}


def _sampled_row(
    scores: Scores, row: str, tests: Sequence[str]
) -> Iterator[tuple[str, str, Sampled]]:
    """Yield the scores of a row: test set, metric, and what it is."""
    measures = list(scores.measures(row, tests))
    statistics = [(measure.statistic, measure.photos) for measure in measures]
    results = sampled(statistics, len(scores.position), scores.seeds)
    for measure, result in zip(measures, results, strict=True):
        for (beside, metric), score in zip(measure.metrics, result, strict=True):
            for test in beside:
                yield test, metric, score


def _estimates(
    cells: Mapping[Pair, Sampled], rows: Sequence[str], done: Sequence[Pair]
) -> dict[str, dict[str, Score]]:
    """Return the scores of one metric; a cell that was scored, but not by it, has an empty one."""
    table: dict[str, dict[str, Score]] = {row: {} for row in rows}
    for row, column in done:
        found = cells.get((row, column))
        table[row][column] = _plain(found) if found else Score(None, None, None, 0)
    return table


def _summary(
    metric: str,
    cells: Mapping[Pair, Sampled],
    table: Mapping[str, Mapping[str, Score]],
    domains: _Domains,
) -> Summary:
    """Return the paper's means: in domain, out of domain, the worst cell, by train, by test."""

    def over(chosen: Sequence[Pair], how: Literal["mean", "lowest", "highest"] = "mean") -> Score:
        return _plain(combined([cells[pair] for pair in chosen], how))

    def grouped(chosen: Sequence[Pair], axis: int) -> dict[str, Score]:
        names = dict.fromkeys(pair[axis] for pair in chosen)
        return {name: over([pair for pair in chosen if pair[axis] == name]) for name in names}

    single = [pair for pair in cells if pair[0] in domains.single]
    inside = [pair for pair in single if domains.is_in(pair)]
    outside = [pair for pair in single if domains.is_out(pair)]
    others = [pair for pair in cells if domains.is_out(pair) and pair[0] not in domains.single]
    less_is_better = find_metric(metric).less_is_better
    return Summary(
        by_train=grouped(outside, 0),
        by_test=dict(sorted(grouped(outside, 1).items())),
        leave_one_out=grouped(others, 0),
        in_domain=over(inside) if inside else None,
        out_of_domain=over(outside) if outside else None,
        worst_out_of_domain=_worst(
            outside, table, less_is_better, over(outside, "highest" if less_is_better else "lowest")
        )
        if outside
        else None,
    )


def _worst(
    outside: Sequence[Pair],
    table: Mapping[str, Mapping[str, Score]],
    less_is_better: bool,
    score: Score,
) -> WorstScore:
    def badness(pair: Pair) -> float:
        value = table[pair[0]][pair[1]].value
        return -math.inf if value is None else value if less_is_better else -value

    train, test = max(outside, key=badness)
    return WorstScore(**vars(score), train=train, test=test)


def _curve(cells: Sequence[Cell | None]) -> Curve:
    """Return the mean over seeds of the cells' threshold curves."""
    curves = [cell.curve for cell in cells if cell]
    iou, f1 = (
        np.mean([np.array(getattr(curve, name), np.float64) for curve in curves], axis=0).tolist()
        for name in ("iou", "f1")
    )
    return Curve(curves[0].thresholds, iou, f1)


def _reliability(scores: Scores, row: str, column: str) -> Reliability:
    pixel = scores.pixel_histograms(row, column).sum((0, 1))
    image = None
    if scores.has_reals(row):
        image = Bins(**reliability(scores.image_histograms(row, column).sum((0, 1))))
    return Reliability(Bins(**reliability(pixel)), image)


def _rates(scores: Scores, row: str, column: str) -> Rates:
    photos = (scores.of_images(row, column), scores.of_images(row, REAL))
    return rates_of(scores.found(row, column), photos)


def _by_cell(done: Sequence[Pair], make: Callable[[str, str], T]) -> dict[str, dict[str, T]]:
    table: dict[str, dict[str, T]] = {}
    for row, column in done:
        table.setdefault(row, {})[column] = make(row, column)
    return table


def _plain(score: Sampled) -> Score:
    """Return an estimate for JSON, which has no NaN."""
    found = score.estimate()
    value, low, high = (None if math.isnan(v) else v for v in found[:3])
    return Score(value, low, high, found.n)
