"""An ablation as a picture: ``ablation.png``."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from declip_pl.ablation.ablation import IN, OUT, WORST, Ablation
from declip_pl.cross_eval.matrix import Score
from declip_pl.cross_eval.views.heat_map import (
    HEADLINE,
    NOTICE,
    PLAIN,
    heading_lines,
    write_heading,
)
from declip_pl.files import atomic_path
from declip_pl.metrics import find_metric

PICTURE = "ablation.png"

_WIDTH = 7.5  # inches
_LINE = 0.36  # inches a variant takes
_CURVE = 3.4  # inches high


class Part(NamedTuple):
    """How a part of the cells is drawn."""

    name: str
    colour: str
    marker: str


PARTS = (Part(IN, "#0072b2", "o"), Part(OUT, "#d55e00", "s"), Part(WORST, "#4b4b4b", "v"))


def ablation_png(ablation: Ablation, path: Path) -> None:
    """Draw the means of all variants with their intervals.

    Variants of one number are a curve; others stand below each other.
    """
    shown = find_metric(ablation.metric)
    parts = [
        (ablation.question, HEADLINE),
        (f"{shown.title} in percent: {shown.definition}. Bars: 95 % intervals over photos.", PLAIN),
        *([(ablation.notice, NOTICE)] if ablation.notice else []),
    ]
    lines = heading_lines(parts, _WIDTH)
    inner = _CURVE if ablation.axis else _LINE * len(ablation.variants) + 0.2
    height = inner + 0.25 * len(lines) + 1.2
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    write_heading(figure, lines)
    left = 0.7 if ablation.axis else 0.3 + 0.085 * max(map(len, _names(ablation)))
    place = (left / _WIDTH, 0.6 / height, (_WIDTH - left - 0.2) / _WIDTH, inner / height)
    axes = figure.add_axes(place)
    _curve(axes, ablation) if ablation.axis else _dots(axes, ablation)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e7eb", lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=len(PARTS), frameon=False, fontsize=9
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _curve(axes: Axes, ablation: Ablation) -> None:
    order = sorted(ablation.variants, key=lambda name: ablation.variants[name].number or 0.0)
    x = [ablation.variants[name].number or 0.0 for name in order]
    for part in PARTS:
        values, errors = _values(_scores(ablation, order, part))
        axes.errorbar(
            x, values, errors, color=part.colour, marker=part.marker, ms=5, lw=1.5, capsize=2,
            label=part.name,
        )  # fmt: skip
    axes.set_xticks(x)
    axes.set_xlabel(ablation.axis or "", parse_math=False)
    axes.set_ylim(0, 100)


def _dots(axes: Axes, ablation: Ablation) -> None:
    order = list(ablation.variants)
    for index, part in enumerate(PARTS):
        values, errors = _values(_scores(ablation, order, part))
        y = [place + 0.2 * (index - 1) for place in range(len(order))]
        axes.errorbar(
            values, y, xerr=errors, color=part.colour, marker=part.marker, ms=5, lw=0,
            elinewidth=1.5, label=part.name,
        )  # fmt: skip
    axes.set_yticks(range(len(order)), _names(ablation))
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set(xlim=(0, 100), ylim=(len(order) - 0.5, -0.5))


def _names(ablation: Ablation) -> list[str]:
    against = ablation.against
    return [f"{name} (compared with)" if name == against else name for name in ablation.variants]


def _scores(ablation: Ablation, variants: Sequence[str], part: Part) -> list[Score | None]:
    found = [ablation.find(name, ablation.metric, part.name) for name in variants]
    return [line.score if line else None for line in found]


def _values(scores: Sequence[Score | None]) -> tuple[list[float], list[list[float]]]:
    """Return the values, and how far their intervals reach below and above; NaN where undefined."""
    values, below, above = [], [], []
    for score in scores:
        value = float("nan") if score is None or score.value is None else score.value
        low, high = (score.low, score.high) if score else (None, None)
        values.append(value)
        below.append(0.0 if low is None else value - low)
        above.append(0.0 if high is None else high - value)
    return values, [below, above]
