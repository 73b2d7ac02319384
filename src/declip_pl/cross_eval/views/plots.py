"""Small plots of lines as SVG, whatever they are lines of.

Everything is drawn on matplotlib's ``Figure`` objects; pyplot, which keeps figures alive and
looks for a screen, is not used.
"""

import hashlib
import html
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b3408a", "#8a6d00", "#4b4b4b", "#3a86d6", "#7a3e00")
_DASHES = ("", "5 2", "1.5 1.5", "7 2 1.5 2")
_INK, _GUIDE, _GRID = "#1b1f24", "#57606a", "#e3e7eb"
_OFTEN = 0.01  # share of all pixels or photos from which a point is drawn large

_INKED: Any = dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
)

VARIABLES = {
    **{colour: f"--line-{index}" for index, colour in enumerate(_COLOURS, 1)},
    _INK: "--ink", _GUIDE: "--muted", _GRID: "--line",
}  # fmt: skip
"""The page's names for the colours of plots: a dark page has others."""


class Series(NamedTuple):
    """How something is drawn in all plots; ``dash`` is an SVG dash array."""

    name: str
    colour: str
    dash: str
    home: bool

    @property
    def style(self) -> dict[str, Any]:
        """Arguments of matplotlib's ``plot`` for the line."""
        dashes = tuple(float(part) for part in self.dash.split())
        width = 2.4 if self.home else 1.5
        return {"color": self.colour, "lw": width, "ls": (0, dashes) if dashes else "-"}

    @property
    def variable(self) -> str:
        """The page's name for its colour."""
        return VARIABLES[self.colour]


def series(names: Sequence[str], home: Sequence[str]) -> list[Series]:
    """Return how each of some names is drawn; ``home`` ones get a thicker line."""
    return [
        Series(
            name,
            _COLOURS[index % len(_COLOURS)],
            # The dash moves on faster than the colour, so that no two of 32 look the same.
            _DASHES[(index + index // len(_COLOURS)) % len(_DASHES)],
            name in home,
        )
        for index, name in enumerate(names)
    ]


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes:
        series: How it is drawn.
        x: Of its points; None where there is none.
        y: Of its points.
        shares: Which share of everything each point stands for; points are then drawn, large from
            1 % on.
    """

    series: Series
    x: Sequence[float | None]
    y: Sequence[float | None]
    shares: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        name: Differs from those of all others in a page.
        label: What it shows, for those who can't see it.
        title: Above it.
        x_label: Below it.
        limits: Of x and of y.
        lines: What is drawn.
        diagonal: Whether there is a dashed diagonal.
        upright: Where solid upright lines stand.
        dashed: Where dashed ones stand.
        level: Where dashed level lines lie.
    """

    name: str
    label: str
    title: str
    x_label: str
    limits: tuple[tuple[float, float], tuple[float, float]]
    lines: Sequence[Line]
    diagonal: bool = False
    upright: Sequence[float] = ()
    dashed: Sequence[float] = ()
    level: Sequence[float] = ()


def draw(plot: Plot) -> str:
    """Return a plot as an ``<svg>`` element to stand inline in a page; "" if it has no lines."""
    if not plot.lines:
        return ""
    figure = Figure(figsize=(3.5, 2.9), layout="constrained")
    with rc_context(_INKED):
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=_GRID, lw=0.6)
        _draw_lines(axes, plot)
        axes.set(xlim=plot.limits[0], ylim=plot.limits[1], xlabel=plot.x_label, title=plot.title)
        return _svg(figure, plot.name, plot.label)


def _draw_lines(axes: Axes, plot: Plot) -> None:
    dashes = (0, (3, 2))
    if plot.diagonal:
        axes.plot(*plot.limits, color=_GUIDE, lw=0.9, ls=dashes)
    for place in plot.upright:
        axes.axvline(place, color=_GUIDE, lw=0.9)
    for place in plot.dashed:
        axes.axvline(place, color=_GUIDE, lw=0.9, ls=dashes)
    for place in plot.level:
        axes.axhline(place, color=_GUIDE, lw=0.9, ls=dashes)
    for line in plot.lines:
        x, y = _floats(line.x), _floats(line.y)
        axes.plot(x, y, **line.series.style, marker="o" if line.shares else "", ms=2.5)
        if line.shares:
            often = [share is not None and share >= _OFTEN for share in line.shares]
            axes.plot(x, y, "o", color=line.series.colour, ms=5, markevery=often)


def _svg(figure: Figure, name: str, label: str) -> str:
    """Return a figure as an element that can stand beside others in one page."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # The metadata name a web address; the style would apply to the whole page.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href=", "href=")
    prefix = "p" + hashlib.sha256(os.fsencode(name)).hexdigest()[:10]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(f": {colour}", f": var({variable}, {colour})")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    opening = f'<svg {box[0]} role="img" aria-label="{html.escape(label)}">'
    return opening + text[text.index(">") + 1 :]


def _floats(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
