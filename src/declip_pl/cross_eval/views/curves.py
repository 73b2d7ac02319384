"""A row's curves and reliability diagrams as SVG, one line for each test generator.

Everything is drawn on matplotlib's ``Figure`` objects; pyplot, which keeps figures alive and
looks for a screen, is not used.
"""

import hashlib
import html
import io
import os
import re
from typing import Any, Literal, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from declip_pl.cross_eval.matrix import Matrix
from declip_pl.metrics import THRESHOLD

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b3408a", "#8a6d00", "#4b4b4b", "#3a86d6", "#7a3e00")
_DASHES = ("", "5 2", "1.5 1.5", "7 2 1.5 2")
_OFTEN = 0.01  # share of all pixels or photos from which a point is drawn large


class Series(NamedTuple):
    """How one test generator is drawn in all plots of a row; ``dash`` is an SVG dash array."""

    column: str
    colour: str
    dash: str
    in_domain: bool

    @property
    def style(self) -> dict[str, Any]:
        """Arguments of matplotlib's ``plot`` for the line."""
        dashes = tuple(float(part) for part in self.dash.split())
        width = 2.4 if self.in_domain else 1.5
        return {"color": self.colour, "lw": width, "ls": (0, dashes) if dashes else "-"}


def series_of(matrix: Matrix, row: str) -> list[Series]:
    """Return how each test generator is drawn; a generator looks the same in every row."""
    return [
        Series(
            column,
            _COLOURS[index % len(_COLOURS)],
            # The dash moves on faster than the colour, so that no two of 32 look the same.
            _DASHES[(index + index // len(_COLOURS)) % len(_DASHES)],
            matrix.is_in_domain(row, column),
        )
        for index, column in enumerate(matrix.columns)
    ]


def curve_svg(matrix: Matrix, row: str, score: Literal["iou", "f1"]) -> str:
    """Draw a row's mean IoU or F1 against the threshold, one line for each test generator.

    Returns:
        An ``<svg>`` element to stand inline in a page; :func:`series_of` is its legend.
    """
    figure, axes = _small_figure()
    for series in series_of(matrix, row):
        curve = matrix.curves.get(row, {}).get(series.column)
        if curve:
            axes.plot(curve.thresholds, _floats(getattr(curve, score)), **series.style)
    axes.axvline(THRESHOLD, color="#57606a", lw=0.9)
    for threshold in _pixel_thresholds(matrix, row):
        axes.axvline(threshold, color="#57606a", lw=0.9, ls=(0, (3, 2)))
    title = {"iou": "IoU", "f1": "F1"}[score]
    axes.set(xlim=(0, 1), ylim=(0, 100), xlabel="threshold", title=f"mean {title}, percent")
    label = f"Mean {title} against the threshold, trained on {row}"
    return _svg(figure, f"curve/{score}/{row}", label)


def reliability_svg(matrix: Matrix, row: str, level: Literal["pixel", "image"]) -> str:
    """Draw a row's reliability diagram: the share of fakes against the predicted probability.

    Large points stand for at least 1 % of the pixels (photos), small ones for less.

    Returns:
        An ``<svg>`` element as of :func:`curve_svg`; empty where nothing was measured.
    """
    diagrams = matrix.reliability.get(row, {})
    if not any(getattr(diagram, level) for diagram in diagrams.values()):
        return ""
    figure, axes = _small_figure()
    axes.plot((0, 1), (0, 1), color="#8c959f", lw=0.9, ls=(0, (3, 2)))
    for series in series_of(matrix, row):
        bins = getattr(diagrams.get(series.column), level, None)
        if bins:
            x, y = _floats(bins.probability), _floats(bins.fake)
            often = [share is not None and share >= _OFTEN for share in bins.share]
            axes.plot(x, y, **series.style, marker="o", ms=2.5)
            axes.plot(x, y, "o", color=series.colour, ms=5, markevery=often)
    noun = {"pixel": "pixels", "image": "photos"}[level]
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="predicted probability")
    axes.set_title(f"share of {noun} that are fake")
    return _svg(figure, f"reliability/{level}/{row}", f"Reliability of {noun}, trained on {row}")


def _small_figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.5, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e7eb", lw=0.6)
    return figure, axes


def _svg(figure: Figure, name: str, label: str) -> str:
    """Return a figure as an element that can stand beside others in one page.

    Args:
        figure: What to draw.
        name: Makes the ids of this figure differ from those of all others.
        label: What it shows, for those who can't see it.
    """
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
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    opening = f'<svg {box[0]} role="img" aria-label="{html.escape(label)}">'
    return opening + text[text.index(">") + 1 :]


def _pixel_thresholds(matrix: Matrix, row: str) -> list[float]:
    """Return the thresholds chosen on validation photos by a row's models, one for each seed."""
    found = [model.thresholds.pixel for model in matrix.models if model.row == row]
    return sorted({value for value in found if value is not None})


def _floats(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
