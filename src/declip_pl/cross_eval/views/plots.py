"""Pictures of a cross-evaluation: the matrix as PNG, curves and reliability diagrams as SVG.

Everything is drawn on matplotlib's ``Figure`` objects; pyplot, which keeps figures alive and
looks for a screen, is not used.
"""

import hashlib
import html
import io
import math
import re
import textwrap
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from declip_pl.files import atomic_path
from declip_pl.metrics import THRESHOLD


class Metric(NamedTuple):
    """How a metric is shown; ``is_error`` marks those of which less is better."""

    title: str
    definition: str
    is_error: bool = False


METRICS = {
    "iou": Metric(
        "IoU",
        "intersection over union of the true region and the region found (probability over 0.5)",
    ),
    "iou_tuned": Metric(
        "IoU, tuned threshold",
        "intersection over union at the pixel threshold chosen on validation photos",
    ),
    "f1_plain": Metric("F1", "F1 of the pixels at 0.5, the mask's border counted"),
    "f1_plain_best": Metric(
        "Best F1",
        "F1 at each photo's own best threshold, the mask's border counted",
    ),
    "f1_fixed": Metric(
        "F1 without border", "F1 at 0.5; a border around the mask does not count (the paper's F1)"
    ),
    "f1_best": Metric(
        "Best F1 without border",
        "F1 at each photo's own best threshold; a border around the mask does not count",
    ),
    "f1_tuned": Metric(
        "F1, tuned threshold",
        "F1 at the pixel threshold chosen on validation photos; a border around the mask does not "
        "count",
    ),
    "ap": Metric("AP", "average precision of the pixels: do fake pixels rank above real ones?"),
    "pixel_ece": Metric(
        "Calibration error",
        "expected calibration error of the pixels: how far probabilities are from the share of "
        "fakes; less is better",
        is_error=True,
    ),
    "image_ap": Metric("Image AP", "average precision of whole photos, fakes against reals"),
    "image_auroc": Metric(
        "Image AUROC",
        "how often a fake scores above a real photo; 50 is chance",
    ),
    "image_accuracy": Metric(
        "Image accuracy at 0.5",
        "share of photos called correctly, fake where the score is over 0.5",
    ),
    "image_accuracy_tuned": Metric(
        "Image accuracy, tuned",
        "share of photos called correctly at the threshold chosen on validation photos",
    ),
    "image_ece": Metric(
        "Image calibration error",
        "expected calibration error of the photos' scores; less is better",
        is_error=True,
    ),
}
KEY_METRICS = ("iou", "f1_best", "ap", "image_auroc")
MISSING = "failed"

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b3408a", "#8a6d00", "#4b4b4b", "#3a86d6", "#7a3e00")
_DASHES = ("", "5 2", "1.5 1.5", "7 2 1.5 2")
_CELL = (0.98, 0.72)  # inches
_GAP = 0.35  # cells between rows of one generator and leave-one-out rows
_NARROWEST = 3.6  # inches, a matrix of one cell with its title beside the next
_OFTEN = 0.01  # share of all pixels or photos from which a point is drawn large
# Luminance from which black reads better than white; one of them has a contrast of at least 4.58.
_TURN = 0.179
_WRAP, _LINES = 12, 4  # characters and lines of a name beside a matrix


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


def metric_of(name: str) -> Metric:
    """Return how a metric is shown; one that is not known is shown under its own name."""
    return METRICS.get(name, Metric(name, ""))


def series_of(matrix: dict[str, Any], row: str) -> list[Series]:
    """Return how each test generator is drawn; a generator looks the same in every row."""
    return [
        Series(
            column,
            _COLOURS[index % len(_COLOURS)],
            # The dash moves on faster than the colour, so that no two of 32 look the same.
            _DASHES[(index + index // len(_COLOURS)) % len(_DASHES)],
            column in matrix["in_domain"].get(row, []),
        )
        for index, column in enumerate(matrix["columns"])
    ]


def scale(is_error: bool) -> tuple[float, float]:
    """Return what is palest and what is darkest, in percent: darker is always better."""
    return (50.0, 0.0) if is_error else (0.0, 100.0)


def cell_colours(value: float, is_error: bool) -> tuple[str, str]:
    """Return a cell's background and its text colour, black or white, whichever reads better.

    The colours are YlGnBu, safe for colour-blind readers, over :func:`scale`.
    """
    palest, darkest = scale(is_error)
    share = (value - palest) / (darkest - palest)
    background = to_hex(colormaps["YlGnBu"](min(max(share, 0.0), 1.0)))
    return background, "#000000" if _luminance(background) > _TURN else "#ffffff"


def interval(estimate: dict[str, Any]) -> str:
    """Return the interval with one decimal, or nothing where there is no interval."""
    if estimate.get("low") is None or estimate.get("high") is None:
        return ""
    return f"{estimate['low']:.1f}\N{EN DASH}{estimate['high']:.1f}"


def single_rows(matrix: dict[str, Any]) -> list[str]:
    """Return the training choices that are not leave-one-out."""
    return [row for row in matrix["rows"] if row not in matrix["leave_one_out"]]


def matrix_png(matrix: dict[str, Any], path: Path) -> None:
    """Draw the matrices of :data:`KEY_METRICS`, trained on x, tested on y, as in the paper."""
    names = [name for name in KEY_METRICS if name in matrix["metrics"]] or matrix["metrics"][:1]
    placed = _placed(matrix)
    longest = max(len(line) for name in matrix["columns"] for line in _wrapped(name).split("\n"))
    left = 0.65 + 0.085 * longest
    below = 0.4 + 0.17 * max(_wrapped(row).count("\n") + 1 for row in placed)
    inner = (_CELL[0] * (max(placed.values()) + 1), _CELL[1] * len(matrix["columns"]))
    outer = (max(left + inner[0] + 0.35, _NARROWEST), 0.55 + inner[1] + below)
    across, down = min(len(names), 2), -(-len(names) // 2)
    width = max(2 * _NARROWEST, outer[0] * across)
    lines = _heading(matrix, width)
    height = outer[1] * down + 0.25 * len(lines) + 0.3
    figure = Figure(figsize=(width, height), facecolor="white")
    for number, (line, style) in enumerate(lines):
        y = 1 - (0.3 + 0.25 * number) / height
        figure.text(0.25 / width, y, line, va="center", parse_math=False, **style)
    for number, name in enumerate(names):
        x = left + (number % across) * outer[0]
        y = outer[1] * (down - 1 - number // across) + below
        axes = figure.add_axes(
            (x / width, y / height, inner[0] / width, inner[1] / height), frame_on=False
        )
        _heat_map(axes, matrix, name, placed)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def curve_svg(matrix: dict[str, Any], row: str, score: Literal["iou", "f1"]) -> str:
    """Draw a row's mean IoU or F1 against the threshold, one line for each test generator.

    Returns:
        An ``<svg>`` element to stand inline in a page; :func:`series_of` is its legend.
    """
    figure, axes = _small_figure()
    for series in series_of(matrix, row):
        curve = matrix["curves"].get(row, {}).get(series.column)
        if curve:
            axes.plot(curve["thresholds"], _floats(curve[score]), **series.style)
    axes.axvline(THRESHOLD, color="#57606a", lw=0.9)
    for threshold in _pixel_thresholds(matrix, row):
        axes.axvline(threshold, color="#57606a", lw=0.9, ls=(0, (3, 2)))
    title = {"iou": "IoU", "f1": "F1"}[score]
    axes.set(xlim=(0, 1), ylim=(0, 100), xlabel="threshold", title=f"mean {title}, percent")
    label = f"Mean {title} against the threshold, trained on {row}"
    return _svg(figure, f"curve/{score}/{row}", label)


def reliability_svg(matrix: dict[str, Any], row: str, level: Literal["pixel", "image"]) -> str:
    """Draw a row's reliability diagram: the share of fakes against the predicted probability.

    Large points stand for at least 1 % of the pixels (photos), small ones for less.

    Returns:
        An ``<svg>`` element as of :func:`curve_svg`; empty where nothing was measured.
    """
    diagrams = matrix["reliability"].get(row, {})
    if not any(diagram.get(level) for diagram in diagrams.values()):
        return ""
    figure, axes = _small_figure()
    axes.plot((0, 1), (0, 1), color="#8c959f", lw=0.9, ls=(0, (3, 2)))
    for series in series_of(matrix, row):
        bins = diagrams.get(series.column, {}).get(level)
        if bins:
            x, y = _floats(bins["probability"]), _floats(bins["fake"])
            often = [share is not None and share >= _OFTEN for share in bins["share"]]
            axes.plot(x, y, **series.style, marker="o", ms=2.5)
            axes.plot(x, y, "o", color=series.colour, ms=5, markevery=often)
    noun = {"pixel": "pixels", "image": "photos"}[level]
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="predicted probability")
    axes.set_title(f"share of {noun} that are fake")
    return _svg(figure, f"reliability/{level}/{row}", f"Reliability of {noun}, trained on {row}")


def _heat_map(axes: Axes, matrix: dict[str, Any], name: str, placed: dict[str, float]) -> None:
    columns, metric = matrix["columns"], metric_of(name)
    for row, x in placed.items():
        for y, column in enumerate(columns):
            estimate = matrix["matrix"].get(name, {}).get(row, {}).get(column)
            _draw_cell(axes, (x, y), estimate, metric.is_error)
            if column in matrix["in_domain"].get(row, []):
                inside = (x + 0.035, y + 0.045)
                axes.add_patch(Rectangle(inside, 0.93, 0.91, fill=False, ec="#d1242f", lw=2.2))
    axes.set(xlim=(0, max(placed.values()) + 1), ylim=(len(columns), 0))
    axes.set_xticks([x + 0.5 for x in placed.values()], [_wrapped(row) for row in placed])
    axes.set_yticks([y + 0.5 for y in range(len(columns))], [_wrapped(name) for name in columns])
    axes.tick_params(length=0, labelsize=10)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
    axes.set_xlabel("trained on", color="#57606a")
    axes.set_ylabel("tested on", color="#57606a")
    axes.set_title(metric.title, loc="left", fontsize=12, fontweight="bold", parse_math=False)


def _draw_cell(
    axes: Axes, corner: tuple[float, float], estimate: dict[str, Any] | None, is_error: bool
) -> None:
    x, y = corner[0] + 0.5, corner[1] + 0.5
    write = partial(axes.text, ha="center", va="center")
    if estimate is None or estimate["value"] is None:
        grey = "#eceff2"
        axes.add_patch(Rectangle(corner, 1, 1, fc=grey, ec="#c4cad1", hatch="////", lw=0))
        text = MISSING if estimate is None else "undefined"
        write(x, y, text, fontsize=9, bbox={"fc": grey, "ec": "none", "pad": 2})
        return
    background, colour = cell_colours(estimate["value"], is_error)
    axes.add_patch(Rectangle(corner, 1, 1, fc=background, ec="white", lw=1.5))
    beneath = interval(estimate)
    number = f"{estimate['value']:.1f}"
    write(x, y - (0.12 if beneath else 0), number, fontsize=13, color=colour)
    write(x, y + 0.24, beneath, fontsize=7.5, color=colour)


def _placed(matrix: dict[str, Any]) -> dict[str, float]:
    """Return where each training choice stands along x, leave-one-out ones behind a gap."""
    single, apart = single_rows(matrix), matrix["leave_one_out"]
    gap = _GAP if single else 0.0
    return {row: float(index) for index, row in enumerate(single)} | {
        row: len(single) + gap + index for index, row in enumerate(apart)
    }


def _heading(matrix: dict[str, Any], width: float) -> list[tuple[str, dict[str, Any]]]:
    """Return the lines above the matrices and their styles; ``width`` is the figure's, inches."""
    model = matrix["models"][0] if matrix["models"] else None
    network = f"{model['encoder']} {model['layer']}, {model['decoder']} decoder; " if model else ""
    told = "Percent, 95 % intervals beneath. Red outline: tested on what it was trained on."
    parts = [
        (f"Cross-evaluation {matrix['name']}", 14.0, "bold", "#000000"),
        (f"{network}data: {matrix['data']['name']}", 9.5, "normal", "#424a53"),
        (told, 9.5, "normal", "#424a53"),
        (matrix["notice"] or "", 10.5, "bold", "#9a3412"),
    ]
    return [
        (line, {"fontsize": size, "fontweight": weight, "color": colour})
        for text, size, weight, colour in parts
        for line in textwrap.wrap(text, int(width * 120 / size))
    ]


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
    prefix = "p" + hashlib.sha256(name.encode()).hexdigest()[:10]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    opening = f'<svg {box[0]} role="img" aria-label="{html.escape(label)}">'
    return opening + text[text.index(">") + 1 :]


def _pixel_thresholds(matrix: dict[str, Any], row: str) -> list[float]:
    """Return the thresholds chosen on validation photos by a row's models, one for each seed."""
    found = [model["thresholds"]["pixel"] for model in matrix["models"] if model["row"] == row]
    return sorted({value for value in found if value is not None})


def _floats(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _wrapped(name: str) -> str:
    lines = textwrap.wrap(name, _WRAP)
    # What tells two long names apart is often their end.
    return "\n".join(lines if len(lines) <= _LINES else [*lines[: _LINES - 2], "…", lines[-1]])


def _luminance(colour: str) -> float:
    """Return the relative luminance of ``#rrggbb`` (WCAG 2), within 0.001."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [math.pow((p + 0.055) / 1.055, 2.4) for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
