"""One cell of the matrix: a model's scores on every photo of a test set, kept as one JSON file."""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import binary_auroc
from tqdm import tqdm

from declip_pl.cross_eval.models import Model
from declip_pl.data.dataset import LocalizationDataset, collate
from declip_pl.data.layout import REAL, Sample, read_image
from declip_pl.errors import UserError
from declip_pl.files import atomic_path, sha256, write_text
from declip_pl.metrics import (
    THRESHOLDS,
    best_accuracy_threshold,
    by_size,
    calibration_histogram,
    f1_border,
    iou,
    localization_scores,
    threshold_curves,
)
from declip_pl.model.encoder import Features
from declip_pl.model.network import POOLINGS, image_score
from declip_pl.panels import panel

FORMAT = 1
"""Raise it with any change to what a cell holds; older cells are then scored anew."""

PANELS = ("best", "median", "worst")


@dataclass(frozen=True)
class TestSet:
    """Photos that a model is scored on.

    Attributes:
        name: A generator, or ``real``.
        data: The photos, with cached features.
        sha256: Hash of their files' contents and of the masks' polarity.
    """

    name: str
    data: LocalizationDataset
    sha256: str


class Cells:
    """The cells of a cross-evaluation; finished ones are reused as long as nothing changed.

    Args:
        folder: The cross-evaluation's folder.
        device: Where decoders and metrics run.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.device = device

    def thresholds(self, model: Model, decoder: nn.Module, valid: Sequence[TestSet]) -> Any:
        """Return the thresholds that are best on validation photos.

        Args:
            model: A localizer.
            decoder: Its decoder.
            valid: The validation photos of the generators that it was trained on, and real ones
                where there are any; empty if the data set has none of those generators.

        Returns:
            ``pixel``, which has the highest mean IoU, and ``image``, the one for each pooling with
            the most correct decisions; None where that can't be said.
        """
        key = {"checkpoint": model.sha256, "valid": [part.sha256 for part in valid]}

        def measure() -> dict[str, Any]:
            scored = [self._score(decoder, part, None) for part in valid]
            return {"model": model.name, **_on_validation(scored)}

        path = self.folder / "thresholds" / f"{model.name}.json"
        return self._kept(path, key, measure)["thresholds"]

    def score(self, model: Model, decoder: nn.Module, test: TestSet, thresholds: Any) -> Any:
        """Return a cell: every photo's scores, curves, and which photos were drawn."""
        key = {"checkpoint": model.sha256, "test": test.sha256, "pixel": thresholds["pixel"]}

        def measure() -> dict[str, Any]:
            scored = self._score(decoder, test, thresholds["pixel"])
            about = {"model": model.name, "row": model.row, "seed": model.seed, "test": test.name}
            about |= {"config": model.options, "encoder": model.encoder, "thresholds": thresholds}
            return about | scored | {"panels": self._draw(model, decoder, test, scored)}

        path = self.folder / "cells" / model.name / f"{test.name}.json"
        return self._kept(path, key, measure)

    def _kept(self, path: Path, key: dict[str, Any], measure: Any) -> dict[str, Any]:
        key = {"format": FORMAT, **key}
        kept = _read(path)
        if kept and kept["key"] == key:
            return kept
        start = time.monotonic()
        cell = {"key": key, **measure(), "seconds": round(time.monotonic() - start, 2)}
        write_text(path, json.dumps(cell) + "\n")
        return cell

    @torch.inference_mode()
    def _score(self, decoder: nn.Module, test: TestSet, pixel: float | None) -> dict[str, Any]:
        columns: dict[str, list[Tensor]] = defaultdict(list)
        photos: list[str] = []
        loader = DataLoader(test.data, 32, collate_fn=collate)
        for batch in tqdm(loader, f"scoring on {test.name}", leave=False):
            assert isinstance(batch["image"], Features)
            logits = decoder(_to(batch["image"], self.device))
            masks = [mask.to(self.device) for mask in batch["mask"]]
            for name, values in _photo_scores(logits, masks, pixel).items():
                columns[name].append(values)
            photos += batch["name"]
        table = {name: torch.cat(parts).cpu() for name, parts in columns.items()}
        _check_polarity(test, table["histogram"])
        return {"photos": photos, **_as_cell(table, is_real=test.name == REAL)}

    @torch.inference_mode()
    def _draw(
        self, model: Model, decoder: nn.Module, test: TestSet, scored: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the best, the median and the worst photo of a cell."""
        if test.name == REAL:
            return {}
        scores = scored["scores"]["iou"]
        order = np.argsort([-score for score in scores], kind="stable")
        drawn = {}
        for name, index in zip(PANELS, (order[0], order[len(order) // 2], order[-1]), strict=True):
            item = test.data[int(index)]
            features = collate([item])["image"]
            assert isinstance(features, Features)
            heat = decoder(_to(features, self.device)).sigmoid()[0, 0].cpu().numpy()
            file = Path("panels") / model.name / test.name / f"{name}.png"
            with atomic_path(self.folder / file) as temporary:
                panel(read_image(Path(item["path"])), item["mask"].numpy(), heat).save(temporary)
            drawn[name] = {"file": str(file), "photo": item["name"], "iou": scores[index]}
        return drawn


def finished_cell(
    folder: Path, matrix: Mapping[str, Any], model: Mapping[str, Any], test: str
) -> dict[str, Any] | None:
    """Return a cell that a written matrix is made of.

    Args:
        folder: The cross-evaluation.
        matrix: The content of its ``matrix.json``.
        model: An entry of its ``models``.
        test: A generator, or ``real``.

    Returns:
        The cell, or None where it failed; a file may stand there from before.
    """
    cell = _read(folder / "cells" / model["name"] / f"{test}.json")
    if not cell or cell["key"]["format"] != FORMAT:
        return None
    hashes = (model["checkpoint_sha256"], matrix["data"]["tests"][test]["sha256"])
    return cell if (cell["key"]["checkpoint"], cell["key"]["test"]) == hashes else None


def content_hash(files: Sequence[Sample], fake_value: int) -> str:
    """Return a SHA-256 over names and contents of photos and masks, and the masks' polarity."""
    lines = [f"fake is {fake_value}"]
    for sample in files:
        lines += [sample.name, sha256(sample.image), sha256(sample.mask) if sample.mask else REAL]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a cell's file holds, None where there is none or it is damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if "key" in content else None


def _photo_scores(logits: Tensor, masks: list[Tensor], pixel: float | None) -> dict[str, Tensor]:
    """Score a batch of ``[B, 1, 256, 256]`` logits: per photo one row of each table."""
    table: dict[str, Tensor] = {
        f"image/{pooling}": image_score(logits, pooling) for pooling in POOLINGS
    }
    for chosen, probabilities, truth in by_size(logits.sigmoid(), masks):
        parts = {f"scores/{k}": v for k, v in localization_scores(probabilities, truth).items()}
        if pixel is not None:
            parts["scores/iou_tuned"] = iou(probabilities, truth, pixel)
            parts["scores/f1_tuned"] = f1_border(probabilities, truth, pixel)
        parts |= {f"curve/{k}": v for k, v in threshold_curves(probabilities, truth).items()}
        parts["histogram"] = calibration_histogram(probabilities, truth)
        for name, values in parts.items():
            empty = values.new_empty(len(masks), *values.shape[1:])
            table.setdefault(name, empty)[chosen] = values
    return table


def _check_polarity(test: TestSet, histogram: Tensor) -> None:
    count, _, fake = histogram.sum((0, 2))
    if fake > count / 2:
        raise UserError(
            f"{100 * fake / count:.0f} % of the pixels of {test.name} are fake: the masks look "
            "inverted; set the convention (CONVENTION=autosplice: white = fake)"
        )


def _as_cell(table: dict[str, Tensor], is_real: bool) -> dict[str, Any]:
    count, probability, fake = table["histogram"].unbind(1)
    return {
        "scores": {} if is_real else {k: _numbers(v) for k, v in _group(table, "scores/")},
        "image_scores": {k: _numbers(v) for k, v in _group(table, "image/")},
        "histogram": {
            "count": count.long().tolist(),
            "probability": [[round(p, 3) for p in row] for row in probability.tolist()],
            "fake": fake.long().tolist(),
        },
        "curve": {
            "thresholds": list(THRESHOLDS),
            **{k: _numbers(v.double().mean(0)) for k, v in _group(table, "curve/")},
        },
    }


def _on_validation(scored: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the best thresholds, and how well each pooling tells fakes from reals."""
    fakes = [part for part in scored if part["scores"]]
    reals = [part for part in scored if not part["scores"]]
    pixel, image, auroc = None, dict.fromkeys(POOLINGS), dict.fromkeys(POOLINGS)
    if fakes:
        weights = [len(part["photos"]) for part in fakes]
        curve = np.average([part["curve"]["iou"] for part in fakes], axis=0, weights=weights)
        pixel = THRESHOLDS[int(curve.argmax())]
    if fakes and reals:
        real = sum(len(part["photos"]) for part in reals)
        labels = torch.tensor([1] * sum(weights) + [0] * real)
        for pooling in POOLINGS:
            pooled = [s for part in [*fakes, *reals] for s in part["image_scores"][pooling]]
            scores = torch.tensor(pooled, dtype=torch.float64)
            image[pooling] = best_accuracy_threshold(scores, labels)
            auroc[pooling] = 100 * float(binary_auroc(scores, labels))
    return {"thresholds": {"pixel": pixel, "image": image}, "image_auroc": auroc}


def _group(table: dict[str, Tensor], prefix: str) -> list[tuple[str, Tensor]]:
    return [(k.removeprefix(prefix), v) for k, v in table.items() if k.startswith(prefix)]


def _numbers(values: Tensor) -> list[float | None]:
    """Return plain numbers of six digits, None for NaN (JSON has none)."""
    return [None if np.isnan(v) else float(f"{v:.6g}") for v in values.double().tolist()]


def _to(features: Features, device: torch.device) -> Features:
    cls = features.cls
    return Features(features.grid.to(device), None if cls is None else cls.to(device)).float()
