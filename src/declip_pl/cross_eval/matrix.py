"""From cells to the matrix: estimates with intervals, summary figures, ``matrix.json``."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from declip_pl.cross_eval.models import LEAVE_ONE_OUT, Model
from declip_pl.cross_eval.statistics import (
    BINS,
    Array,
    Estimate,
    Statistic,
    calibration_error,
    combined,
    detection,
    estimate,
    image_histogram,
    mean_of_cells,
    reliability,
)
from declip_pl.data.layout import REAL
from declip_pl.files import write_text
from declip_pl.metrics import THRESHOLD
from declip_pl.model.network import Pooling

LOCALIZATION = (
    "iou", "iou_tuned", "f1_plain", "f1_plain_best", "f1_fixed", "f1_best", "f1_tuned", "ap"
)  # fmt: skip
"""Means over photos, in the order of reports; ``*_tuned`` at the threshold of validation."""

COLUMNS = ("train", "test", "metric", "value", "ci_low", "ci_high", "n")


class _Scores:
    """The scores of all cells as arrays, photos aligned by name."""

    def __init__(
        self,
        models: Sequence[Model],
        results: Mapping[str, Any],
        columns: Sequence[str],
        pooling: Pooling,
    ) -> None:
        self.cells = results["cells"]
        self.thresholds = results["thresholds"]
        self.columns = columns
        self.pooling = pooling
        rows: dict[str, list[Model | None]] = {}
        for model in models:
            rows.setdefault(model.row, []).append(model)
        self.seeds = max(len(found) for found in rows.values())
        # A row with fewer seeds than others gets empty ones, which means leave out.
        self.models = {
            row: found + [None] * (self.seeds - len(found)) for row, found in rows.items()
        }
        self.trained_on = {model.row: model.trained_on for model in models}
        names = sorted({name for cell in self.cells.values() for name in cell["photos"]})
        self.position = {name: index for index, name in enumerate(names)}

    def found(self, row: str, column: str) -> list[Any]:
        """Return the cells of a row's seeds on a test set, None where one failed."""
        return [self.cells.get((m.name, column)) if m else None for m in self.models[row]]

    def column(self, row: str, test: str, group: str, name: str) -> Array:
        """Return ``[S, P]`` scores, NaN where there is none."""
        table = np.full((self.seeds, len(self.position)), np.nan)
        for scores, cell in zip(table, self.found(row, test), strict=True):
            if cell and name in cell[group]:
                at = [self.position[photo] for photo in cell["photos"]]
                scores[at] = np.array(cell[group][name], dtype=np.float64)  # None becomes NaN
        return table

    def histogram(self, row: str, test: str) -> Array:
        """Return ``[S, P, 3, BINS]`` pixel histograms."""
        table = np.zeros((self.seeds, len(self.position), 3, BINS))
        for counts, cell in zip(table, self.found(row, test), strict=True):
            if cell:
                at = [self.position[photo] for photo in cell["photos"]]
                parts = cell["histogram"]
                counts[at] = np.stack([parts["count"], parts["probability"], parts["fake"]], axis=1)
        return table

    def image_thresholds(self, row: str) -> list[float] | None:
        """Return the image thresholds of a row's seeds, chosen on validation photos."""
        chosen = [
            self.thresholds[m.name]["image"][self.pooling] if m and m.name in self.thresholds
            else THRESHOLD  # nothing was scored
            for m in self.models[row]
        ]  # fmt: skip
        return None if None in chosen else chosen

    def statistics(self, row: str, test: str) -> Iterator[tuple[str, Statistic, int]]:
        """Yield each metric of a cell, what computes it, and of how many photos."""
        for name in LOCALIZATION:
            scores = self.column(row, test, "scores", name)
            if count := _photos(scores):
                yield name, mean_of_cells(scores[None]), count
        histogram = self.histogram(row, test)
        counted = int(histogram[:, :, 0].any(axis=(0, 2)).sum())
        yield "pixel_ece", calibration_error(histogram), counted
        fakes = self.column(row, test, "image_scores", self.pooling)
        reals = self.column(row, REAL, "image_scores", self.pooling)
        if not _photos(reals):
            return
        count = _photos(fakes) + _photos(reals)
        yield "image_ap", detection("ap", fakes, reals), count
        yield "image_auroc", detection("auroc", fakes, reals), count
        fixed, tuned = [THRESHOLD] * len(fakes), self.image_thresholds(row)
        yield "image_accuracy", detection("accuracy", fakes, reals, fixed), count
        if tuned:
            yield "image_accuracy_tuned", detection("accuracy", fakes, reals, tuned), count
        yield "image_ece", calibration_error(_image_histograms(fakes, reals)), count


def build_matrix(
    models: Sequence[Model], results: Mapping[str, Any], columns: Sequence[str], pooling: Pooling
) -> dict[str, Any]:
    """Return all that ``matrix.json`` holds of scores; the caller adds what they are about.

    Args:
        models: The localizers.
        results: ``cells`` by model and test set, ``thresholds`` by model.
        columns: Test generators.
        pooling: How an image's score is pooled from its map.
    """
    scores = _Scores(models, results, columns, pooling)
    rows = sorted(scores.models, key=lambda row: (row.startswith(LEAVE_ONE_OUT), row))
    in_domain = {row: [c for c in columns if c in scores.trained_on[row]] for row in rows}
    statistics = _statistics(scores, rows, columns)
    size = len(scores.position)
    estimates: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, cells in tqdm(statistics.items(), "intervals", leave=False):
        table = estimates.setdefault(name, {row: {} for row in rows})
        for (row, column), (statistic, n) in cells.items():
            table[row][column] = estimate(statistic, size, scores.seeds, n)
    alone = [row for row in rows if len(scores.trained_on[row]) == 1] or rows
    done = [(row, column) for row in rows for column in columns if any(scores.found(row, column))]
    return {
        "pooling": pooling,
        "models": [_about(model, results["thresholds"], pooling) for model in models],
        "rows": rows,
        "columns": list(columns),
        "in_domain": in_domain,
        "leave_one_out": [row for row in rows if row.startswith(LEAVE_ONE_OUT)],
        "seeds": sorted({model.seed for model in models}),
        "metrics": list(statistics),
        "matrix": {
            metric: {row: {c: _plain(e) for c, e in cells.items()} for row, cells in table.items()}
            for metric, table in estimates.items()
        },
        "summary": {
            metric: _summary(metric, cells, estimates[metric], alone, in_domain, scores)
            for metric, cells in tqdm(statistics.items(), "summary", leave=False)
        },
        "curves": _by_cell(done, lambda row, column: _curve(scores.found(row, column))),
        "reliability": _by_cell(done, lambda row, column: _reliability(scores, row, column)),
        "panels": _by_cell(
            done, lambda row, column: next(filter(None, scores.found(row, column)))["panels"]
        ),
    }


def write_matrix(folder: Path, matrix: Mapping[str, Any]) -> None:
    """Write ``matrix.json`` and the tidy ``matrix.csv``."""
    write_text(folder / "matrix.json", json.dumps(matrix, indent=1) + "\n")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for metric, table in matrix["matrix"].items():
        for row, cells in table.items():
            for column, e in cells.items():
                writer.writerow(
                    [row, column, metric, *(e[k] for k in ("value", "low", "high", "n"))]
                )
    write_text(folder / "matrix.csv", text.getvalue())


def summary(matrix: Mapping[str, Any], metric: str = "iou") -> str:
    """Return the matrix of one metric and its means as text."""
    if metric not in matrix["matrix"]:
        return "\nno cell was scored"
    rows, columns, cells = matrix["rows"], matrix["columns"], matrix["matrix"][metric]
    width = max(len(name) for name in [*rows, "test on \\ train on"]) + 2
    side = max(12, *(len(name) + 2 for name in rows))
    lines = ["", f"{metric} in percent; * = trained on that generator"]
    lines += [f"{'test on / train on':<{width}}" + "".join(f"{row:>{side}}" for row in rows)]
    for column in columns:
        entries = [
            _entry(cells[row].get(column), column in matrix["in_domain"][row]) for row in rows
        ]
        lines += [f"{column:<{width}}" + "".join(f"{entry:>{side}}" for entry in entries)]
    means = matrix["summary"][metric]
    for key, title in (
        ("in_domain", "in-domain mean"),
        ("out_of_domain", "out-of-domain mean"),
        ("worst_out_of_domain", "worst out-of-domain cell"),
    ):
        if key in means:
            lines += [f"{title:<26}{_with_interval(means[key])}"]
    for row, found in {**means["by_train"], **means["leave_one_out"]}.items():
        lines += [f"  {f'trained on {row}':<24}{_with_interval(found)} out of domain"]
    lines += [matrix["notice"]] if matrix["notice"] else []
    return "\n".join(lines)


def _statistics(
    scores: _Scores, rows: Sequence[str], columns: Sequence[str]
) -> dict[str, dict[tuple[str, str], tuple[Statistic, int]]]:
    """Return what computes each cell, by metric."""
    found: dict[str, dict[tuple[str, str], tuple[Statistic, int]]] = {}
    for row in rows:
        for column in columns:
            if any(scores.found(row, column)):
                for name, statistic, n in scores.statistics(row, column):
                    found.setdefault(name, {})[row, column] = statistic, n
    order = [*LOCALIZATION, "pixel_ece", "image_ap", "image_auroc", "image_accuracy"]
    order += ["image_accuracy_tuned", "image_ece"]
    return {name: found[name] for name in order if name in found}


def _summary(
    metric: str,
    cells: Mapping[tuple[str, str], tuple[Statistic, int]],
    estimates: Mapping[str, Mapping[str, Estimate]],
    alone: Sequence[str],
    in_domain: Mapping[str, Sequence[str]],
    scores: _Scores,
) -> dict[str, Any]:
    """Return the paper's means: in domain, out of domain, the worst cell, by train, by test."""

    def over(chosen: Sequence[tuple[str, str]], how: Any = "mean") -> dict[str, Any]:
        statistic = combined([cells[cell][0] for cell in chosen], how)
        n = sum(cells[cell][1] for cell in chosen)
        return _plain(estimate(statistic, len(scores.position), scores.seeds, n))

    inside = [cell for cell in cells if cell[0] in alone and cell[1] in in_domain[cell[0]]]
    outside = [cell for cell in cells if cell[1] not in in_domain[cell[0]]]
    plain = [cell for cell in outside if cell[0] in alone]
    left_out = [row for row in dict.fromkeys(c[0] for c in outside) if row not in alone]
    result: dict[str, Any] = {
        "by_train": {
            row: over([c for c in plain if c[0] == row])
            for row in dict.fromkeys(c[0] for c in plain)
        },
        "by_test": {
            test: over([c for c in plain if c[1] == test]) for test in sorted({c[1] for c in plain})
        },
        "leave_one_out": {row: over([c for c in outside if c[0] == row]) for row in left_out},
    }
    if inside:
        result["in_domain"] = over(inside)
    if plain:
        result["out_of_domain"] = over(plain)
        # An error is worst where it is highest.
        pick, how = (max, "highest") if metric.endswith("_ece") else (min, "lowest")
        train, test = pick(plain, key=lambda cell: estimates[cell[0]][cell[1]].value)
        result["worst_out_of_domain"] = {**over(plain, how), "train": train, "test": test}
    return result


def _about(model: Model, thresholds: Mapping[str, Any], pooling: Pooling) -> dict[str, Any]:
    chosen = thresholds.get(model.name, {"pixel": None, "image": {}})
    return {
        "name": model.name,
        "row": model.row,
        "trained_on": list(model.trained_on),
        "seed": model.seed,
        "encoder": model.encoder["name"],
        "encoder_source": model.encoder["source"],
        "layer": model.encoder["layer"],
        **{name: model.options[name] for name in ("decoder", "supervision", "image_size")},
        "checkpoint": str(model.checkpoint),
        "checkpoint_sha256": model.sha256,
        "thresholds": {"pixel": chosen["pixel"], "image": chosen["image"].get(pooling)},
    }


def _curve(cells: Sequence[Any]) -> dict[str, Any]:
    """Return the mean over seeds of the cells' threshold curves."""
    curves = [cell["curve"] for cell in cells if cell]
    means = {name: np.mean([c[name] for c in curves], axis=0).tolist() for name in ("iou", "f1")}
    return {"thresholds": curves[0]["thresholds"], **means}


def _reliability(scores: _Scores, row: str, column: str) -> dict[str, Any]:
    reals = scores.column(row, REAL, "image_scores", scores.pooling)
    fakes = scores.column(row, column, "image_scores", scores.pooling)
    image = _image_histograms(fakes, reals).sum((0, 1)) if _photos(reals) else None
    return {
        "pixel": reliability(scores.histogram(row, column).sum((0, 1))),
        "image": None if image is None else reliability(image),
    }


def _image_histograms(fakes: Array, reals: Array) -> Array:
    """Return ``[S, P, 3, BINS]``: a photo's fake and its real together."""
    return np.stack(
        [
            image_histogram(fake, np.ones(len(fake))) + image_histogram(real, np.zeros(len(real)))
            for fake, real in zip(fakes, reals, strict=True)
        ]
    )


def _by_cell(done: Sequence[tuple[str, str]], make: Any) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for row, column in done:
        table.setdefault(row, {})[column] = make(row, column)
    return table


def _photos(scores: Array) -> int:
    return int(np.isfinite(scores).any(axis=0).sum())


def _plain(found: Estimate) -> dict[str, Any]:
    """Return an estimate for JSON, which has no NaN."""
    return {k: None if math.isnan(v) else v for k, v in found._asdict().items()}


def _entry(found: Mapping[str, Any] | None, in_domain: bool) -> str:
    if found is None:
        return "failed"
    return f"{found['value']:.1f}{'*' if in_domain else ' '}"


def _with_interval(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return f"{found['value']:5.1f}"
    return f"{found['value']:5.1f}  ({found['low']:.1f} to {found['high']:.1f})"
