"""Scores against the strength of each degradation as one picture: ``robustness.png``."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from declip_pl.cross_eval.views.heat_map import (
    HEADLINE,
    NOTICE,
    PLAIN,
    heading_lines,
    write_heading,
)
from declip_pl.files import atomic_path
from declip_pl.robustness.robustness import Robustness
from declip_pl.robustness.table import Column, alarms_of, scores_of

PICTURE = "robustness.png"

_ACROSS = 3
_PLOT = (3.3, 2.3)  # inches
_LEGEND = 0.5  # inches
_STYLES = (
    {"color": "#0072b2", "marker": "o"},
    {"color": "#d55e00", "marker": "s"},
    {"color": "#4b4b4b", "marker": "^", "ls": "--"},
    {"color": "#b3408a", "marker": "v", "ls": ":"},
)


def robustness_png(found: Robustness, path: Path) -> None:
    """Draw scores and false alarms against the strength of each degradation."""
    shown = [*scores_of(found), alarms_of(found)[0]]
    down = -(-len(found.degradations) // _ACROSS)
    width = _ACROSS * _PLOT[0]
    parts = [
        (f"Degraded photos of {found.data}", HEADLINE),
        ("Means over cells in percent; the first point is clean photos.", PLAIN),
        *([(found.notice, NOTICE)] if found.notice else []),
    ]
    lines = heading_lines(parts, width)
    heading = 0.25 * len(lines) + 0.4
    height = down * _PLOT[1] + heading + _LEGEND
    figure = Figure(figsize=(width, height), facecolor="white")
    write_heading(figure, lines)
    for index, name in enumerate(found.degradations):
        column, row = index % _ACROSS, index // _ACROSS
        x = column * _PLOT[0] + 0.45
        y = _LEGEND + (down - 1 - row) * _PLOT[1] + 0.35
        place = (x / width, y / height, (_PLOT[0] - 0.6) / width, (_PLOT[1] - 0.8) / height)
        _plot(figure.add_axes(place), found, name, shown)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(shown), frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _plot(axes: Axes, found: Robustness, name: str, shown: list[Column]) -> None:
    values = found.degradations[name]
    for style, (label, metric, part) in zip(_STYLES, shown, strict=True):
        curve = [found.clean(metric, part), *found.curve(metric, part, name)]
        y = [float("nan") if value is None else value for value in curve]
        axes.plot(range(len(y)), y, label=label, ms=4, lw=1.5, **style)  # type: ignore[arg-type]
    axes.set_xticks(range(len(values) + 1), ["clean", *values])
    axes.set_ylim(0, 100)
    axes.set_title(name, fontsize=10, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e7eb", lw=0.6)
