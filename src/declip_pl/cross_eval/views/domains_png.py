"""The same models on several data sets as one picture: ``domains.png``."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from declip_pl.cross_eval.domains import MEAN, Domains, same_row
from declip_pl.cross_eval.matrix import Matrix
from declip_pl.cross_eval.views.heat_map import (
    HEADLINE,
    HOME,
    NOTICE,
    PLAIN,
    Style,
    changes_of,
    draw_cell,
    heading_lines,
    network_of,
    wrapped,
    write_heading,
)
from declip_pl.files import atomic_path
from declip_pl.metrics import find_metric

_CELL = (0.68, 0.52)  # inches
_GAP = 0.45  # inches between data sets
_NARROWEST = 3.0  # inches, for the means above a data set of few generators
_LINE, _CHARACTER = 0.19, 0.085  # inches that text beside the cells takes
_ACROSS = 7  # characters of a generator's name that stand across a cell; longer ones are turned


def domains_png(matrices: Sequence[Matrix], domains: Domains, path: Path) -> None:
    """Draw each data set's IoU beside the others', trained on x in the same line of all.

    Args:
        matrices: One for each data set, in the order of ``domains``.
        domains: The means that stand above.
        path: Of the picture.
    """
    first, metric = matrices[0], _metric_of(matrices)
    inner = [_CELL[0] * len(matrix.columns) for matrix in matrices]
    outer = [max(width, _NARROWEST) + _GAP for width in inner]
    titles = [
        _title(domains, entry.name, metric, taken)
        for entry, taken in zip(domains.sets, outer, strict=True)
    ]
    longest = _longest([name for matrix in matrices for name in matrix.columns])
    left = 0.55 + _CHARACTER * _longest(first.rows)
    below = 0.4 + (_CHARACTER * longest if longest > _ACROSS else _LINE)
    top = below + _CELL[1] * len(first.rows)
    width = left + sum(outer)
    lines = _heading(first, domains, metric, width)
    height = top + _LINE * max(map(len, titles)) + 0.25 * len(lines) + 0.5
    figure = Figure(figsize=(width, height), facecolor="white")
    write_heading(figure, lines)
    for index, (matrix, title) in enumerate(zip(matrices, titles, strict=True)):
        x = left + sum(outer[:index])
        place = (x / width, below / height, inner[index] / width, (top - below) / height)
        axes = figure.add_axes(place, frame_on=False)
        _heat_map(axes, matrix, first, metric)
        axes.tick_params(axis="x", labelrotation=90 if longest > _ACROSS else 0)
        for number, (text, style) in enumerate(reversed(title)):
            y = (top + 0.12 + _LINE * number) / height
            figure.text(x / width, y, text, parse_math=False, **style)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _heat_map(axes: Axes, matrix: Matrix, first: Matrix, metric: str) -> None:
    less_is_better = find_metric(metric).less_is_better
    for y, row in enumerate(first.rows):
        theirs = same_row(row, first, matrix) or ""
        for x, column in enumerate(matrix.columns):
            found = matrix.score(metric, theirs, column)
            # Intervals stand in each data set's own matrix.
            alone = found and replace(found, low=None, high=None)
            draw_cell(axes, (x, y), alone, less_is_better, size=10.0)
            if matrix.is_in_domain(theirs, column):
                inside = (x + 0.045, y + 0.055)
                axes.add_patch(Rectangle(inside, 0.91, 0.89, fill=False, ec=HOME, lw=2.0))
    axes.set(xlim=(0, len(matrix.columns)), ylim=(len(first.rows), 0))
    axes.set_xticks([x + 0.5 for x in range(len(matrix.columns))], map(wrapped, matrix.columns))
    rows = [wrapped(row) for row in first.rows] if matrix is first else []
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    axes.tick_params(length=0, labelsize=9.5)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
    axes.set_xlabel("tested on", color="#57606a")
    if matrix is first:
        axes.set_ylabel("trained on", color="#57606a")


def _metric_of(matrices: Sequence[Matrix]) -> str:
    """Return the IoU by the decision if all cells have it, or else at 0.5."""
    cells = [
        (matrix, row, column)
        for matrix in matrices
        for row, columns in matrix.matrix.get("iou", {}).items()
        for column in columns
    ]
    found = [matrix.score("iou_decided", row, column) for matrix, row, column in cells]
    decided = all(score and score.value is not None for score in found)
    return "iou_decided" if found and decided else "iou"


def _heading(first: Matrix, domains: Domains, metric: str, width: float) -> list[tuple[str, Style]]:
    shown, names = find_metric(metric), ", ".join(entry.name for entry in domains.sets)
    told = (
        "Red outline: a generator that the row was trained on; in the other data sets it made "
        "other photos. Above: means over the rows of one generator, or over all if there are none."
    )
    parts = [
        (f"The same models on {names}: {shown.title}", HEADLINE),
        (f"{network_of(first)}cross-evaluation {first.name}{changes_of(first)}", PLAIN),
        (f"{shown.title}: {shown.definition}, in percent.", PLAIN),
        (told, PLAIN),
        *((notice, NOTICE) for notice in domains.notices),
    ]
    return heading_lines(parts, width)


def _title(domains: Domains, name: str, metric: str, width: float) -> list[tuple[str, Style]]:
    """Return a data set's name and its means in words, as lines."""
    means = [
        (line.part, line.scores[metric])
        for line in domains.fakes
        if line.train == MEAN and line.data == name
    ]
    told = [f"{part}: {value:.1f}" for part, value in means if value is not None]
    lines = [(name, {**HEADLINE, "fontsize": 11.0}), *((text, PLAIN) for text in told)]
    return [
        (line, style)
        for text, style in lines
        for line in textwrap.wrap(text, int((width - _GAP) * 110 / style["fontsize"]))
    ]


def _longest(names: Sequence[str]) -> int:
    """Return how many characters the longest line beside the cells has."""
    return max(len(line) for name in names for line in wrapped(name).split("\n"))
