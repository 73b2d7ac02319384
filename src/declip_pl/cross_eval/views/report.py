"""``report.html``: a cross-evaluation as one page, and the files for a paper beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from declip_pl.cross_eval.domains import Domains, read_domains
from declip_pl.cross_eval.matrix import UNPERTURBED, Matrix, Score, read_matrix
from declip_pl.cross_eval.photos import write_photos
from declip_pl.cross_eval.scored_model import ScoredModel
from declip_pl.cross_eval.summary import answer_means, of_maps
from declip_pl.cross_eval.views import citation, curves, heat_map, published_figures
from declip_pl.cross_eval.views.domain_tables import domain_tables
from declip_pl.cross_eval.views.gallery import as_json, first_lines
from declip_pl.cross_eval.views.matrix_gallery import listing_of
from declip_pl.cross_eval.views.matrix_tables import kind_tables, level_metrics, tables_of
from declip_pl.cross_eval.views.page import environment, percent
from declip_pl.cross_eval.views.pictures import pictures_of
from declip_pl.cross_eval.views.tables import write_tables
from declip_pl.data.layout import REAL
from declip_pl.data.layouts.dolos import SOURCES
from declip_pl.files import write_text
from declip_pl.metrics import Metric, find_metric
from declip_pl.model.encoder import short_name
from declip_pl.model.network import TOP

REPORT, TEMPLATE = "report.html", "report.html.j2"

POOLING = {
    "mean": "the mean probability of its pixels",
    "mean-logit": "the mean logit of its pixels, as a probability",
    "max": "its largest pixel probability",
    "top": f"the mean of the {100 * TOP:.0f} % highest of its pixel probabilities",
}

FILES = (
    *("matrix.csv", "matrix.json", "matrix.pdf", "matrix.png", "by_kind.csv", "photos.csv"),
    *("cite.bib", "domains.csv", "domains.json", "domains.png"),
)
"""What a report links to, as far as it is there."""

_MEANS = (
    ("in_domain", "In-domain mean IoU"),
    ("out_of_domain", "Out-of-domain mean IoU"),
    ("worst_out_of_domain", "Worst out-of-domain IoU"),
)


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
    score: Score


def write_report(folder: Path) -> Path:
    """Write ``report.html`` beside ``matrix.json`` and return its path.

    The page is one file: style, plots and pictures are inside, nothing is loaded from elsewhere.
    Beside it stand ``photos.csv``, ``cite.bib`` and the tables as LaTeX and Markdown.

    Args:
        folder: A cross-evaluation: ``matrix.json``, its cells, the panels that it names and, where
            its models were scored on further data sets, ``domains.json``.

    Raises:
        UserError: If ``matrix.json`` is missing or damaged.
    """
    pages = environment()
    pages.filters["network"] = _network
    matrix = read_matrix(folder)
    write_photos(folder, matrix)
    domains = read_domains(folder, matrix)
    write_tables(folder, [*tables_of(matrix), *(domain_tables(domains) if domains else ())])
    write_text(folder / citation.FILE, citation.bibtex(matrix.made.git_commit))
    page = pages.get_template(TEMPLATE).render(_page(matrix, domains, folder))
    write_text(folder / REPORT, page)
    return folder / REPORT


def _page(matrix: Matrix, domains: Domains | None, folder: Path) -> dict[str, Any]:
    """Return what the templates show."""
    rows = [row for row in matrix.rows if any(row in table for table in matrix.matrix.values())]
    detection, untouched = (level_metrics(matrix, level) for level in ("images", "untouched"))
    pictures = pictures_of(matrix, folder)
    listing = listing_of(matrix, folder, pictures)
    return {
        "m": matrix,
        "perturbed": matrix.perturbation != UNPERTURBED,
        **_heat_maps(matrix),
        "summary": matrix.summary.get("iou"),
        "headlines": _MEANS,
        "generalisation": _generalisation(matrix),
        "bars": _bars(matrix),
        "unknown": [row for row in matrix.rows if not matrix.is_on_record(row)],
        "published": _published(matrix.columns),
        "published_means": published_figures.MEANS,
        "differences": _differences(matrix),
        "detection": detection,
        "cells": {row: {c: _cell(matrix, "iou", row, c) for c in matrix.columns} for row in rows},
        "detection_cells": _detection(matrix, detection),
        "untouched": untouched,
        "untouched_cells": {
            row: [_shown(matrix.of_row(e.name, row), e.less_is_better, False) for e in untouched]
            for row in (*matrix.rows, *matrix.answer_names)
        },
        "pooling": POOLING.get(matrix.pooling, matrix.pooling),
        "pictures": pictures,
        "linked": sum(p.linked for cells in pictures.values() for c in cells.values() for p in c),
        "listing": listing,
        "listed": first_lines(listing) if listing else [],
        "listing_json": as_json(listing) if listing else "",
        "plots": {row: _plots(matrix, row) for row in rows},
        "rates": {row: _rates(matrix, row) for row in rows},
        "exports": {table.name: table for table in tables_of(matrix)},
        "kinds": dict(kind_tables(matrix)),
        "constant": answer_means(matrix, "iou"),
        "bibtex": citation.bibtex(matrix.made.git_commit),
        "files": [name for name in FILES if (folder / name).exists()],
        "series": {row: curves.series_of(matrix, row) for row in rows},
        "domains": domains,
        "domain_tables": domain_tables(domains) if domains else [],
        "real": REAL,
        "networks": sorted({_network(model) for model in matrix.models}),
    }


def _heat_maps(matrix: Matrix) -> dict[str, Any]:
    """Return the table of each metric, leave-one-out rows apart."""
    single, apart = matrix.single_rows, matrix.leave_one_out
    return {
        "metrics": [(name, find_metric(name)) for name in matrix.metrics],
        "tables": {name: _table(matrix, name, single) for name in matrix.metrics},
        "apart": {name: _table(matrix, name, apart) for name in matrix.metrics},
        "baselines": {
            name: _table(matrix, name, [*matrix.answers(name)]) for name in matrix.metrics
        },
        "ours": _table(matrix, "iou", single),
        "scale": {less_is_better: _scale(less_is_better) for less_is_better in (False, True)},
    }


def _table(matrix: Matrix, metric: str, trained: Sequence[str]) -> Table:
    return Table(
        list(trained),
        [
            (column, [_cell(matrix, metric, row, column) for row in trained])
            for column in matrix.columns
        ],
    )


def _cell(matrix: Matrix, metric: str, row: str, column: str) -> Cell:
    if row not in matrix.rows and row not in matrix.answers(metric):  # it needs a chosen threshold
        return Cell("", "", "", False)
    score, in_domain = matrix.score(metric, row, column), matrix.is_in_domain(row, column)
    return _shown(score, find_metric(metric).less_is_better, in_domain)


def _shown(score: Score | None, less_is_better: bool, in_domain: bool) -> Cell:
    if score is None or score.value is None:
        return Cell(heat_map.MISSING if score is None else "undefined", "", "", in_domain)
    background, text = heat_map.cell_colours(score.value, less_is_better)
    colours = f"background-color:{background};color:{text}"
    return Cell(percent(score.value), heat_map.interval(score), colours, in_domain)


def _scale(less_is_better: bool) -> tuple[str, str, str]:
    """Return the colour scale's worst and best value, and its CSS gradient between them."""
    worst, best = heat_map.scale(less_is_better)
    stops = [worst + (best - worst) * step / 10 for step in range(11)]
    colours = ", ".join(heat_map.cell_colours(stop, less_is_better)[0] for stop in stops)
    return f"{worst:.0f}", f"{best:.0f}", f"linear-gradient(to right, {colours})"


def _generalisation(matrix: Matrix) -> dict[str, Any] | None:
    """Return which training generator does best on others, and whether that is settled."""
    summary = matrix.summary.get("iou")
    means = summary.by_train.items() if summary else ()
    defined = [(mean.value, row, mean) for row, mean in means if mean.value is not None]
    ranked = sorted(defined, key=lambda found: -found[0])
    if not ranked:
        return None
    (value, row, best), *others = ranked
    found = {"row": row, "best": best, "count": len(ranked), "second": None}
    if others:
        second_value, second, mean = others[0]
        bounded = best.low is not None and mean.high is not None
        settled = best.low > mean.high if bounded else None  # type: ignore[operator]
        found |= {"second": second, "mean": mean, "settled": settled, "lead": value - second_value}
    return found


def _bars(matrix: Matrix) -> dict[str, list[tuple[str, list[Bar]]]]:
    """Return the mean IoUs to be drawn as bars, under what they are grouped by."""
    summary = matrix.summary.get("iou")
    if not summary:
        return {}
    trained_on = summary.by_train | summary.leave_one_out
    groups = {
        "By training choice": [
            (row, _in_domain(matrix, row) + _outside(trained_on, row)) for row in matrix.rows
        ],
        "By test generator": [(name, _outside(summary.by_test, name)) for name in matrix.columns],
    }
    return {title: [pair for pair in pairs if pair[1]] for title, pairs in groups.items()}


def _outside(means: Mapping[str, Score], name: str) -> list[Bar]:
    found = means.get(name)
    return [Bar("out", found)] if found and found.value is not None else []


def _in_domain(matrix: Matrix, row: str) -> list[Bar]:
    """Return a row's mean over the generators that it was trained on; one cell has its interval."""
    cells = [matrix.score("iou", row, name) for name in matrix.in_domain.get(row, ())]
    defined = [(cell.value, cell) for cell in cells if cell and cell.value is not None]
    if len(defined) <= 1:
        return [Bar("in", cell) for _, cell in defined]
    mean = sum(value for value, _ in defined) / len(defined)
    return [Bar("in", Score(mean, None, None, sum(cell.n for _, cell in defined)))]


def _published(columns: Sequence[str]) -> Table:
    """Return the published figures, in the order of ours as far as the generators are the same."""
    figures = published_figures.MATRIX
    order = [name for name in columns if name in figures]
    order += [name for name in figures if name not in order]
    lines = [
        (test, [_shown(Score(figures[row][test], None, None, 0), False, row == test)
                for row in order])
        for test in order
    ]  # fmt: skip
    return Table(order, lines)


def _differences(matrix: Matrix) -> list[str]:
    """Return in what the published figures were measured otherwise than ours."""
    data = matrix.data.name
    is_dolos = data in (*SOURCES, "dolos_data") and not matrix.notice
    differences = [] if is_dolos else [f"other data: Dolos, not {data}"]
    if matrix.perturbation != UNPERTURBED:
        differences.append(f"other photos: as they are, not through {matrix.perturbation}")
    ours = sorted(
        {(short_name(m.encoder), m.layer, m.decoder) for m in matrix.models if not m.maps}
    )
    if ours and ours != [published_figures.NETWORK]:
        told = " and ".join(f"{encoder} {layer}, {decoder}" for encoder, layer, decoder in ours)
        differences.append(
            "another network: CLIP ViT-L/14 layer20 joined with RN50 layer3 and a conv-20 decoder, "
            f"not {told}"
        )
    return differences


def _detection(matrix: Matrix, metrics: Sequence[Metric]) -> dict[str, dict[str, list[Cell]]]:
    """Return each cell's image-level scores, in the order of ``metrics``."""
    return {
        row: {c: [_cell(matrix, e.name, row, c) for e in metrics] for c in matrix.columns}
        for row in (*matrix.rows, *matrix.answer_names)
    }


def _network(model: ScoredModel) -> str:
    if model.maps:
        return f"another method: {of_maps(model.maps)}"
    return (
        f"{model.encoder} {model.layer}, {model.decoder} decoder, "
        f"{model.supervision} supervision, {model.image_size} px; encoder from "
        f"{model.encoder_source}"
    )


def _rates(matrix: Matrix, row: str) -> list[str]:
    drawn = [
        draw(matrix, row, level)
        for level in ("pixel", "image")
        for draw in (curves.roc_svg, curves.precision_svg)
    ]
    return [svg for svg in drawn if svg]


def _plots(matrix: Matrix, row: str) -> list[str]:
    drawn = [
        curves.curve_svg(matrix, row, "iou"),
        curves.curve_svg(matrix, row, "f1"),
        curves.reliability_svg(matrix, row, "pixel"),
        curves.reliability_svg(matrix, row, "image"),
    ]
    return [svg for svg in drawn if svg]
