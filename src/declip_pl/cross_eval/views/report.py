"""``report.html``: a cross-evaluation as one page that needs nothing but itself."""

import base64
import io
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from declip_pl.cross_eval.views import plots
from declip_pl.data.layout import REAL, SOURCES
from declip_pl.errors import UserError
from declip_pl.files import write_text
from declip_pl.model.encoder import short_name
from declip_pl.model.network import TOP
from declip_pl.panels import HEIGHT

MATRIX, REPORT, TEMPLATE = "matrix.json", "report.html", "report.html.j2"
PICTURES = ("best", "median", "worst")
POOLING = {
    "mean": "the mean probability of its pixels",
    "mean-logit": "the mean logit of its pixels, as a probability",
    "max": "its largest pixel probability",
    "top": f"the mean of the {100 * TOP:.0f} % highest of its pixel probabilities",
}
DETECTION = ("image_ap", "image_auroc", "image_accuracy", "image_accuracy_tuned", "image_ece")

PUBLISHED: dict[str, dict[str, float]] = {
    "ldm": {"ldm": 51.1, "repaint-p2-9k": 44.7, "lama": 43.5, "pluralistic": 56.4},
    "repaint-p2-9k": {"ldm": 27.4, "repaint-p2-9k": 74.0, "lama": 42.4, "pluralistic": 54.2},
    "lama": {"ldm": 21.6, "repaint-p2-9k": 29.5, "lama": 86.5, "pluralistic": 32.0},
    "pluralistic": {"ldm": 4.9, "repaint-p2-9k": 8.1, "lama": 51.9, "pluralistic": 83.7},
}
"""The public repository's IoU on Dolos, trained on (outer) and tested on (inner), percent."""

PUBLISHED_MEANS = (
    ("DeCLIP", 73.8, 34.7),
    ("PSCC-Net", 81.0, 21.6),
    ("Patch Forensics", 69.3, 20.4),
    ("CLIP, linear", 36.2, 18.5),
)
"""Methods and their mean in-domain and out-of-domain IoU on Dolos (a secondary source)."""

_PUBLISHED_NETWORK = ("clip-vit-large-patch14+rn50", "layer20", "conv-20")
_TILE = 200  # px, the height of each of a panel's four pictures in the page
_QUALITY = 72  # of WebP: about 20 kB a panel

Matrix = dict[str, Any]
Estimate = dict[str, Any]


class Cell(NamedTuple):
    """A cell of a heat map as it is shown; ``colours`` is CSS, empty where there is no value."""

    value: str
    interval: str
    colours: str
    in_domain: bool


class Table(NamedTuple):
    """A heat map: a heading for each column, and each line's heading and cells."""

    trained: list[str]
    lines: list[tuple[str, list[Cell]]]


class Bar(NamedTuple):
    """A mean in percent to be drawn as a bar; ``kind`` is ``in`` or ``out`` (of domain)."""

    kind: Literal["in", "out"]
    estimate: Estimate


class Picture(NamedTuple):
    """A photo's panel; ``source`` is a data URI, None where the file is missing or damaged."""

    kind: str
    photo: str
    iou: float | None
    file: str
    source: str | None
    size: tuple[int, int]


def write_report(folder: Path) -> Path:
    """Write ``report.html`` beside ``matrix.json`` and return its path.

    The page is one file: style, plots and pictures are inside, nothing is loaded from elsewhere.

    Args:
        folder: A cross-evaluation: ``matrix.json`` and the panels that it names.

    Raises:
        UserError: If ``matrix.json`` is missing or damaged.
    """
    matrix = _read(folder / MATRIX)
    environment = Environment(
        loader=PackageLoader("declip_pl.cross_eval.views", "."),
        autoescape=True,  # names of generators and photos are names of files: anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": _count,
        "percent": _percent,
        "interval": plots.interval,
        "network": _network,
    }
    page = environment.get_template(TEMPLATE).render(_page(matrix, folder))
    write_text(folder / REPORT, page)
    return folder / REPORT


def _read(path: Path) -> Matrix:
    rerun = "run `declip-pl cross-eval` again: finished cells are kept"
    try:
        matrix = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {path}, which the report is made of; {rerun}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {rerun}") from None
    kinds: dict[type, str] = {
        list: "models rows columns leave_one_out seeds metrics failed",
        dict: "data in_domain matrix summary curves reliability panels made",
        str: "name pooling",
    }
    for kind, names in kinds.items():
        for name in names.split():
            if not isinstance(matrix, dict) or not isinstance(matrix.get(name), kind):
                raise UserError(f"{path} is damaged (no {name!r} in it); {rerun}")
    return {"notice": None, **matrix}


def _page(matrix: Matrix, folder: Path) -> dict[str, Any]:
    """Return what the template shows."""
    single = plots.single_rows(matrix)
    rows = [row for row in matrix["rows"] if any(row in m for m in matrix["matrix"].values())]
    return {
        "m": matrix,
        "metrics": [(name, plots.metric_of(name)) for name in matrix["metrics"]],
        "tables": {name: _table(matrix, name, single) for name in matrix["metrics"]},
        "apart": {
            name: _table(matrix, name, matrix["leave_one_out"]) for name in matrix["metrics"]
        },
        "scale": {error: _scale(error) for error in (False, True)},
        "summary": matrix["summary"].get("iou", {}),
        "generalisation": _generalisation(matrix),
        "bars": _bars(matrix),
        "ours": _table(matrix, "iou", single),
        "published": _published(),
        "published_means": PUBLISHED_MEANS,
        "differences": _differences(matrix),
        "detection": [name for name in DETECTION if name in matrix["metrics"]],
        "cells": {
            row: {c: _cell(matrix, "iou", row, c) for c in matrix["columns"]} for row in rows
        },
        "detection_cells": _detection(matrix),
        "pooling": POOLING.get(matrix["pooling"], matrix["pooling"]),
        "pictures": {row: _pictures(matrix, row, folder) for row in rows},
        "plots": {row: _plots(matrix, row) for row in rows},
        "series": {row: plots.series_of(matrix, row) for row in rows},
        "real": REAL,
        "networks": sorted({_network(model) for model in matrix["models"]}),
    }


def _table(matrix: Matrix, metric: str, trained: list[str]) -> Table:
    return Table(
        trained,
        [
            (column, [_cell(matrix, metric, row, column) for row in trained])
            for column in matrix["columns"]
        ],
    )


def _cell(matrix: Matrix, metric: str, row: str, column: str) -> Cell:
    estimate = matrix["matrix"].get(metric, {}).get(row, {}).get(column)
    in_domain = column in matrix["in_domain"].get(row, [])
    return _shown(estimate, plots.metric_of(metric).is_error, in_domain)


def _shown(estimate: Estimate | None, is_error: bool, in_domain: bool) -> Cell:
    if estimate is None or estimate["value"] is None:
        return Cell(plots.MISSING if estimate is None else "undefined", "", "", in_domain)
    background, text = plots.cell_colours(estimate["value"], is_error)
    colours = f"background-color:{background};color:{text}"
    return Cell(_percent(estimate["value"]), plots.interval(estimate), colours, in_domain)


def _scale(is_error: bool) -> tuple[str, str, str]:
    """Return the colour scale's worst and best value, and its CSS gradient between them."""
    worst, best = plots.scale(is_error)
    stops = [worst + (best - worst) * step / 10 for step in range(11)]
    colours = ", ".join(plots.cell_colours(stop, is_error)[0] for stop in stops)
    return f"{worst:.0f}", f"{best:.0f}", f"linear-gradient(to right, {colours})"


def _generalisation(matrix: Matrix) -> dict[str, Any] | None:
    """Return which training generator does best on others, and whether that is settled."""
    means = matrix["summary"].get("iou", {}).get("by_train", {})
    defined = [(row, mean) for row, mean in means.items() if mean["value"] is not None]
    ranked = sorted(defined, key=lambda pair: -pair[1]["value"])
    if not ranked:
        return None
    (row, best), *others = ranked
    found = {"row": row, "best": best, "count": len(ranked), "second": None}
    if others:
        second, mean = others[0]
        bounded = best.get("low") is not None and mean.get("high") is not None
        settled = best["low"] > mean["high"] if bounded else None
        found |= {"second": second, "mean": mean, "settled": settled}
        found["lead"] = best["value"] - mean["value"]
    return found


def _bars(matrix: Matrix) -> dict[str, list[tuple[str, list[Bar]]]]:
    """Return the mean IoUs to be drawn as bars, under what they are grouped by."""
    summary = matrix["summary"].get("iou", {})
    trained_on = summary.get("by_train", {}) | summary.get("leave_one_out", {})
    tested_on = summary.get("by_test", {})
    groups = {
        "By training choice": [
            (row, _in_domain(matrix, row) + _outside(trained_on, row)) for row in matrix["rows"]
        ],
        "By test generator": [(name, _outside(tested_on, name)) for name in matrix["columns"]],
    }
    return {title: [pair for pair in pairs if pair[1]] for title, pairs in groups.items()}


def _outside(means: dict[str, Estimate], name: str) -> list[Bar]:
    found = means.get(name)
    return [Bar("out", found)] if found and found["value"] is not None else []


def _in_domain(matrix: Matrix, row: str) -> list[Bar]:
    """Return a row's mean over the generators that it was trained on; one cell has its interval."""
    cells = matrix["matrix"].get("iou", {}).get(row, {})
    home = [cells[name] for name in matrix["in_domain"].get(row, []) if name in cells]
    defined = [estimate for estimate in home if estimate["value"] is not None]
    if len(defined) <= 1:
        return [Bar("in", estimate) for estimate in defined]
    mean = sum(estimate["value"] for estimate in defined) / len(defined)
    return [Bar("in", {"value": mean, "low": None, "high": None})]


def _published() -> Table:
    lines = [
        (test, [_shown({"value": PUBLISHED[row][test]}, False, row == test) for row in PUBLISHED])
        for test in PUBLISHED
    ]
    return Table(list(PUBLISHED), lines)


def _differences(matrix: Matrix) -> list[str]:
    """Return in what the published figures were measured otherwise than ours."""
    data, models = matrix["data"]["name"], matrix["models"]
    is_dolos = data in (*SOURCES, "dolos_data") and not matrix["notice"]
    differences = [] if is_dolos else [f"other data: Dolos, not {data}"]
    ours = sorted({(short_name(m["encoder"]), m["layer"], m["decoder"]) for m in models})
    if ours and ours != [_PUBLISHED_NETWORK]:
        told = " and ".join(f"{encoder} {layer}, {decoder}" for encoder, layer, decoder in ours)
        differences.append(
            "another network: CLIP ViT-L/14 layer20 joined with RN50 layer3 and a conv-20 decoder, "
            f"not {told}"
        )
    return differences


def _detection(matrix: Matrix) -> dict[str, dict[str, list[Cell]]]:
    """Return each cell's image-level scores, in the order of :data:`DETECTION`."""
    names = [name for name in DETECTION if name in matrix["metrics"]]
    return {
        row: {c: [_cell(matrix, name, row, c) for name in names] for c in matrix["columns"]}
        for row in matrix["rows"]
    }


def _network(model: dict[str, Any]) -> str:
    return (
        f"{model['encoder']} {model['layer']}, {model['decoder']} decoder, "
        f"{model['supervision']} supervision, {model['image_size']} px; encoder from "
        f"{model['encoder_source']}"
    )


def _plots(matrix: Matrix, row: str) -> list[str]:
    drawn = [
        plots.curve_svg(matrix, row, "iou"),
        plots.curve_svg(matrix, row, "f1"),
        plots.reliability_svg(matrix, row, "pixel"),
        plots.reliability_svg(matrix, row, "image"),
    ]
    return [svg for svg in drawn if svg]


def _pictures(matrix: Matrix, row: str, folder: Path) -> dict[str, list[Picture]]:
    cells = matrix["panels"].get(row, {})
    return {
        column: [
            Picture(
                kind,
                entry["photo"],
                entry["iou"],
                entry["file"],
                *_data_uri(folder / entry["file"]),
            )
            for kind in PICTURES
            if (entry := cells[column].get(kind))
        ]
        for column in matrix["columns"]
        if column in cells
    }


def _data_uri(path: Path) -> tuple[str | None, tuple[int, int]]:
    """Return a panel as a small WebP and its size, None where it is missing or damaged.

    Its four pictures stand two by two, so that a phone shows them.
    """
    try:
        with Image.open(path) as opened:
            panel = opened.convert("RGB")
    except OSError:  # missing, or not a picture
        return None, (0, 0)
    top, side = panel.height - HEIGHT, panel.width // 4  # the titles are written by the page
    width = round(_TILE * side / HEIGHT)
    small = Image.new("RGB", (2 * width + 2, 2 * _TILE + 2), "white")
    for index in range(4):
        box = (index * side, top, (index + 1) * side, panel.height)
        tile = panel.resize((width, _TILE), Image.Resampling.LANCZOS, box)
        small.paste(tile, ((index % 2) * (width + 2), (index // 2) * (_TILE + 2)))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/webp;base64,{encoded}", small.size


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _percent(number: float | None) -> str:
    return "undefined" if number is None else f"{number:.1f}"
