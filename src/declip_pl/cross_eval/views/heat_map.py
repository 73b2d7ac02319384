"""The matrix as a picture: ``matrix.png`` and ``matrix.pdf``, and the colours of its cells.

Everything is drawn on matplotlib's ``Figure`` objects; pyplot, which keeps figures alive and
looks for a screen, is not used.
"""

import math
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from declip_pl.cross_eval.estimates import Score
from declip_pl.cross_eval.matrix import (
    UNPERTURBED,
    Matrix,
)
from declip_pl.files import atomic_path
from declip_pl.metrics import find_metric

MISSING = "failed"

_CELL = (0.98, 0.72)  # inches
_GAP = 0.35  # cells between rows of one generator and leave-one-out rows
_NARROWEST = 3.6  # inches, a matrix of one cell with its title beside the next
# Luminance from which black reads better than white; one of them has a contrast of at least 4.58.
_TURN = 0.179
_WRAP, _LINES = 12, 4  # characters and lines of a name beside a matrix

Style = dict[str, Any]
"""Of text, for matplotlib."""
HEADLINE: Style = {"fontsize": 14.0, "fontweight": "bold", "color": "#000000"}
PLAIN: Style = {"fontsize": 9.5, "fontweight": "normal", "color": "#424a53"}
NOTICE: Style = {"fontsize": 10.5, "fontweight": "bold", "color": "#9a3412"}
HOME = "#d1242f"
"""Colour of the outline of cells that were tested on what they were trained on."""


def scale(less_is_better: bool) -> tuple[float, float]:
    """Return what is palest and what is darkest, in percent: darker is always better."""
    return (50.0, 0.0) if less_is_better else (0.0, 100.0)


def cell_colours(value: float, less_is_better: bool) -> tuple[str, str]:
    """Return a cell's background and its text colour, black or white, whichever reads better.

    The colours are YlGnBu, safe for colour-blind readers, over :func:`scale`.
    """
    palest, darkest = scale(less_is_better)
    share = (value - palest) / (darkest - palest)
    background = to_hex(colormaps["YlGnBu"](min(max(share, 0.0), 1.0)))
    return background, "#000000" if _luminance(background) > _TURN else "#ffffff"


def interval(score: Score) -> str:
    """Return the interval with one decimal, or nothing where there is no interval."""
    if score.low is None or score.high is None:
        return ""
    return f"{score.low:.1f}\N{EN DASH}{score.high:.1f}"


def draw_matrix(matrix: Matrix, *paths: Path) -> None:
    """Draw the matrices of the key metrics, trained on x, tested on y, as in the paper.

    Args:
        matrix: The cross-evaluation.
        paths: Files to write, PNG or PDF by their names.
    """
    names = [name for name in matrix.metrics if find_metric(name).key] or matrix.metrics[:1]
    placed = _placed(matrix)
    longest = max(len(line) for name in matrix.columns for line in wrapped(name).split("\n"))
    left = 0.65 + 0.085 * longest
    below = 0.4 + 0.17 * max(wrapped(row).count("\n") + 1 for row in placed)
    inner = (_CELL[0] * (max(placed.values()) + 1), _CELL[1] * len(matrix.columns))
    outer = (max(left + inner[0] + 0.35, _NARROWEST), 0.55 + inner[1] + below)
    across, down = min(len(names), 2), -(-len(names) // 2)
    width = max(2 * _NARROWEST, outer[0] * across)
    lines = _heading(matrix, width)
    height = outer[1] * down + 0.25 * len(lines) + 0.3
    figure = Figure(figsize=(width, height), facecolor="white")
    write_heading(figure, lines)
    for number, name in enumerate(names):
        x = left + (number % across) * outer[0]
        y = outer[1] * (down - 1 - number // across) + below
        axes = figure.add_axes(
            (x / width, y / height, inner[0] / width, inner[1] / height), frame_on=False
        )
        _heat_map(axes, matrix, name, placed)
    for path in paths:
        kind = path.suffix[1:]
        # A PDF's text stays text that can be searched, and says no date.
        metadata = {"CreationDate": None} if kind == "pdf" else None
        with atomic_path(path) as temporary, rc_context({"pdf.fonttype": 42}):
            figure.savefig(temporary, format=kind, dpi=130, metadata=metadata)


def _heat_map(axes: Axes, matrix: Matrix, name: str, placed: dict[str, float]) -> None:
    columns, metric = matrix.columns, find_metric(name)
    shown = {*matrix.rows, *matrix.answers(name)}  # a tuned metric has no baselines
    for row, x in placed.items():
        if row not in shown:
            continue
        for y, column in enumerate(columns):
            found = matrix.score(name, row, column)
            draw_cell(axes, (x, y), found, metric.less_is_better)
            if matrix.is_in_domain(row, column):
                inside = (x + 0.035, y + 0.045)
                axes.add_patch(Rectangle(inside, 0.93, 0.91, fill=False, ec=HOME, lw=2.2))
    axes.set(xlim=(0, max(placed.values()) + 1), ylim=(len(columns), 0))
    axes.set_xticks([x + 0.5 for x in placed.values()], [wrapped(row) for row in placed])
    axes.set_yticks([y + 0.5 for y in range(len(columns))], [wrapped(name) for name in columns])
    axes.tick_params(length=0, labelsize=10)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
    constant = ", or a baseline" if matrix.answer_names else ""
    axes.set_xlabel(f"trained on{constant}", color="#57606a")
    axes.set_ylabel("tested on", color="#57606a")
    axes.set_title(metric.title, loc="left", fontsize=12, fontweight="bold", parse_math=False)


def draw_cell(
    axes: Axes,
    corner: tuple[float, float],
    score: Score | None,
    less_is_better: bool,
    size: float = 13.0,
) -> None:
    """Draw a cell of 1 by 1 with its number and interval.

    Args:
        axes: What to draw on.
        corner: Upper left, ``(x, y)``.
        score: None where the cell failed.
        less_is_better: Whether low scores are good.
        size: Of the number, in points.
    """
    x, y = corner[0] + 0.5, corner[1] + 0.5
    write = partial(axes.text, ha="center", va="center")
    if score is None or score.value is None:
        grey = "#eceff2"
        axes.add_patch(Rectangle(corner, 1, 1, fc=grey, ec="#c4cad1", hatch="////", lw=0))
        text = MISSING if score is None else "undefined"
        write(x, y, text, fontsize=min(9.0, 0.7 * size), bbox={"fc": grey, "ec": "none", "pad": 2})
        return
    background, colour = cell_colours(score.value, less_is_better)
    axes.add_patch(Rectangle(corner, 1, 1, fc=background, ec="white", lw=1.5))
    beneath = interval(score)
    number = f"{score.value:.1f}"
    write(x, y - (0.12 if beneath else 0), number, fontsize=size, color=colour)
    write(x, y + 0.24, beneath, fontsize=7.5, color=colour)


def _placed(matrix: Matrix) -> dict[str, float]:
    """Return where each row stands along x; leave-one-out rows and baselines behind gaps."""
    placed: dict[str, float] = {}
    x = 0.0
    for group in (matrix.single_rows, matrix.leave_one_out, matrix.answer_names):
        x += _GAP if placed and group else 0.0
        placed |= {row: x + index for index, row in enumerate(group)}
        x += len(group)
    return placed


def _heading(matrix: Matrix, width: float) -> list[tuple[str, Style]]:
    told = "Percent, 95 % intervals beneath. Red outline: tested on what it was trained on."
    parts = [
        (f"Cross-evaluation {matrix.name}", HEADLINE),
        (f"{network_of(matrix)}data: {matrix.data.name}{changes_of(matrix)}", PLAIN),
        (told, PLAIN),
        (matrix.notice or "", NOTICE),
    ]
    return heading_lines(parts, width)


def network_of(matrix: Matrix) -> str:
    """Return the network of a matrix' first trained model, to be followed by more."""
    model = next((model for model in matrix.models if not model.maps), None)
    return f"{model.encoder} {model.layer}, {model.decoder} decoder; " if model else ""


def changes_of(matrix: Matrix) -> str:
    """Return what its photos went through, to follow something; nothing where they are as is."""
    through = matrix.perturbation
    return "" if through == UNPERTURBED else f", photos went through {through}"


def heading_lines(parts: Sequence[tuple[str, Style]], width: float) -> list[tuple[str, Style]]:
    """Return texts and their styles as lines for a figure that is ``width`` inches wide."""
    return [
        (line, style)
        for text, style in parts
        for line in textwrap.wrap(text, int(width * 120 / style["fontsize"]))
    ]


def write_heading(figure: Figure, lines: Sequence[tuple[str, Style]]) -> None:
    """Write lines on top of a figure; it takes 0.25 inches for each and 0.3 more."""
    width, height = figure.get_size_inches()
    for number, (line, style) in enumerate(lines):
        y = 1 - (0.3 + 0.25 * number) / height
        figure.text(0.25 / width, y, line, va="center", parse_math=False, **style)


def wrapped(name: str) -> str:
    """Return a name on lines that are short enough to stand beside a matrix."""
    lines = textwrap.wrap(name, _WRAP)
    # What tells two long names apart is often their end.
    return "\n".join(lines if len(lines) <= _LINES else [*lines[: _LINES - 2], "…", lines[-1]])


def _luminance(colour: str) -> float:
    """Return the relative luminance of ``#rrggbb`` (WCAG 2), within 0.001."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [math.pow((p + 0.055) / 1.055, 2.4) for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
