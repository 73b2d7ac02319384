"""``declip-pl cross-eval``: every trained model against every generator."""

import platform
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from declip_pl.cross_eval.cells import Cells, TestSet, content_hash
from declip_pl.cross_eval.matrix import build_matrix, summary, write_matrix
from declip_pl.cross_eval.models import (
    Failure,
    Model,
    Recipe,
    choices,
    read_models,
    train_missing,
)
from declip_pl.cross_eval.plots import matrix_png
from declip_pl.cross_eval.report import write_report
from declip_pl.cross_eval.tracking import track
from declip_pl.data.dolos import DolosDataModule
from declip_pl.data.layout import REAL, is_stand_in
from declip_pl.data.mini import build_mini
from declip_pl.encoder import build_encoder
from declip_pl.errors import UserError
from declip_pl.experiment import MINI, choose_config, choose_data
from declip_pl.features import FeatureCache
from declip_pl.network import Pooling
from declip_pl.results import STAND_IN_NOTICE, circumstances
from declip_pl.task import load_decoder, read_checkpoint

ROOT = Path("outputs/cross_eval")


def cross_eval(
    models: Sequence[Path] = (),
    data: str | None = None,
    config: str | None = None,
    source: str | None = None,
    convention: str | None = None,
    encoder: str | None = None,
    decoder: str | None = None,
    layer: str | None = None,
    supervision: str | None = None,
    seeds: int = 1,
    leave_one_out: bool = False,
    pooling: Pooling = "top",
    name: str | None = None,
) -> None:
    """Score localizers on every generator's test photos, and train those that are missing.

    What is finished is reused: after an interruption, the same command goes on where it was.

    Args:
        models: Runs' folders or checkpoints to score, and nothing else. By default one model for
            each generator of the data set, trained first where it is missing.
        data: Folder in Dolos' layout.
        config: Experiment file that missing models are trained by.
        source: Part of Dolos: ``celebahq`` or ``ffhq``.
        convention: Whose mask polarity the data follow, in place of Dolos' (black = fake).
        encoder: Frozen encoder, in place of the recipe's.
        decoder: Decoder, in place of the recipe's.
        layer: Feature layer, in place of the recipe's.
        supervision: ``full`` (masks) or ``weak`` (image labels), in place of the recipe's.
        seeds: Models for each generator, with the seeds 0, 1, ...
        leave_one_out: Also train on all generators but one, for each.
        pooling: How an image's score is pooled from its map.
        name: Name of the folder in ``outputs/cross_eval``.

    Raises:
        UserError: If there is nothing to score, or a model or cell failed; the rest is written.
    """
    start = time.monotonic()
    root, why_data = choose_data(data)
    if root == MINI:
        build_mini(MINI)
    print(f"data: {root} ({why_data})")
    options = {"convention": convention} if convention else {}
    test_data = DolosDataModule(str(root), "all", source, **options)  # type: ignore[arg-type]
    failures: list[Failure] = []
    if not models:
        chosen, why = choose_config(config, root, source)
        print(f"recipe: {chosen} ({why})")
        recipe = Recipe(root, chosen, source, convention, encoder, decoder, layer, supervision)
        wanted = choices(test_data.root, leave_one_out)
        models, failures = train_missing(recipe, wanted, seeds)
    described = read_models(models, test_data.generators)
    if not described:
        raise UserError(_failed(failures))
    folder = ROOT / (name or _name(test_data, described))
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        results, failed = _score(described, test_data, folder)
        failures += failed
        matrix = build_matrix(described, results, test_data.generators, pooling)
        matrix |= _about(folder, test_data, results, failures, start)
        write_matrix(folder, matrix)
        matrix_png(matrix, folder / "matrix.png")
        report = write_report(folder)
        hints = track(folder)
    print(summary(matrix))
    print(f"report: {report}")
    print(f"table:  {folder / 'matrix.csv'}")
    for line in hints:
        print(line)
    if failures:
        raise UserError(_failed(failures))


def _score(
    models: Sequence[Model], data: DolosDataModule, folder: Path
) -> tuple[dict[str, Any], list[Failure]]:
    """Score every model on every test set; photos pass each encoder once, whatever the models.

    Returns:
        ``{"tests": {test: ...}, "thresholds": {model: ...}, "cells": {(model, test): ...}}`` and
        what went wrong.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cells = Cells(folder, device)
    tests = _test_sets(data)
    results: dict[str, Any] = {
        "tests": {t.name: {"photos": len(t.data), "sha256": t.sha256} for t in tests},
        "thresholds": {},
        "cells": {},
        "device": str(device),
    }
    failures: list[Failure] = []
    for sharing in _by_encoder(models):
        options = sharing[0].options
        try:
            encoder = build_encoder(options["encoder"], options["layer"], options["image_size"])
            valid = {model.name: _valid_sets(data, model) for model in sharing}
            everything = [*tests, *(part for parts in valid.values() for part in parts)]
            photos = {s.image: None for part in everything for s in part.data.samples}
            cache = FeatureCache(encoder, options["image_size"])
            features = cache.fetch(list(photos), device)
        except UserError as error:
            failures += [Failure(model.name, str(error)) for model in sharing]
            continue
        for part in everything:
            part.data.features = features
        for model in sharing:
            try:
                decoder = load_decoder(read_checkpoint(model.checkpoint), encoder).to(device)
                results["thresholds"][model.name] = thresholds = cells.thresholds(
                    model, decoder, valid[model.name]
                )
            except (UserError, RuntimeError, OSError, ValueError) as error:
                failures.append(Failure(model.name, _first_line(error)))
                continue
            failures += _score_model(cells, model, decoder, tests, thresholds, results)
    return results, failures


def _score_model(
    cells: Cells,
    model: Model,
    decoder: nn.Module,
    tests: Sequence[TestSet],
    thresholds: Any,
    results: dict[str, Any],
) -> list[Failure]:
    failures = []
    for test in tests:
        try:
            results["cells"][model.name, test.name] = cells.score(model, decoder, test, thresholds)
        except (UserError, RuntimeError, OSError, ValueError) as error:
            failures.append(Failure(f"{model.name} on {test.name}", _first_line(error)))
    return failures


def _by_encoder(models: Sequence[Model]) -> list[list[Model]]:
    groups: dict[tuple[str, int], list[Model]] = defaultdict(list)
    for model in models:
        groups[model.encoder["sha256"], model.options["image_size"]].append(model)
    return list(groups.values())


def _test_sets(data: DolosDataModule) -> list[TestSet]:
    names = [*data.generators, *([REAL] if data.has_reals else [])]
    return [_test_set(data, name, "test", name) for name in names]


def _valid_sets(data: DolosDataModule, model: Model) -> list[TestSet]:
    """Return the validation photos that a model's thresholds may be chosen on."""
    if not set(model.trained_on) <= set(data.generators):
        return []
    sets = [_test_set(data, model.row, "valid", *model.trained_on)]
    return sets + ([_test_set(data, REAL, "valid", REAL)] if data.has_reals else [])


def _test_set(data: DolosDataModule, name: str, split: Any, *generators: str) -> TestSet:
    photos = data.evaluation_set(name, split, *generators)
    return TestSet(name, photos, content_hash(photos.samples, data.fake_value))


def _about(
    folder: Path,
    data: DolosDataModule,
    results: dict[str, Any],
    failures: Sequence[Failure],
    start: float,
) -> dict[str, Any]:
    """Return what the matrix is about and how it was made."""
    return {
        "name": folder.name,
        "notice": STAND_IN_NOTICE if is_stand_in(data.root) else None,
        "data": {
            "root": str(data.root.absolute()),
            "name": data.root.name,
            "tests": results["tests"],
        },
        "failed": [failure._asdict() for failure in failures],
        "made": {
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "seconds": round(time.monotonic() - start, 1),
            "machine": platform.platform(),
            "device": results["device"],
            **circumstances(),
        },
    }


def _name(data: DolosDataModule, models: Sequence[Model]) -> str:
    kinds = {model.kind for model in models}
    if len(kinds) > 1:
        return f"{data.root.name}-{len(models)}-models"
    parts = [part for part in kinds.pop() if part != "full"]
    return "-".join([data.root.name, *parts])


class _alone(FileLock):  # noqa: N801 - used as a function
    """Keep a second cross-evaluation out of a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / ".lock")

    def __enter__(self) -> "_alone":
        try:
            self.acquire(timeout=0)
        except Timeout as error:
            folder = Path(self.lock_file).parent
            raise UserError(f"another process is cross-evaluating into {folder}") from error
        return self


def _failed(failures: Sequence[Failure]) -> str:
    lines = [f"  {failure.what}: {failure.why}" for failure in failures]
    return "\n".join(["these parts of the cross-evaluation failed:", *lines,
                      "the same command tries them again"])  # fmt: skip


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
