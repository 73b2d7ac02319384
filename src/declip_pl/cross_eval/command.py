"""``declip-pl cross-eval``: every trained model against every generator."""

import hashlib
import platform
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from declip_pl.cross_eval.build import build_matrix
from declip_pl.cross_eval.cells import Cells, TestSet, content_hash, polarity_warnings
from declip_pl.cross_eval.matrix import (
    FILE,
    ROOT,
    UNPERTURBED,
    About,
    Data,
    Failure,
    Made,
    ScoredSet,
    read_matrix,
    write_matrix,
)
from declip_pl.cross_eval.models import (
    Model,
    Recipe,
    attempt,
    choices,
    read_models,
    train_missing,
)
from declip_pl.cross_eval.summary import summary
from declip_pl.cross_eval.views.heat_map import matrix_png
from declip_pl.cross_eval.views.report import write_report
from declip_pl.cross_eval.views.wandb_run import track
from declip_pl.data.datamodule import DolosDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.layout import REAL, is_stand_in, source_root
from declip_pl.data.mini import build_mini
from declip_pl.errors import UserError
from declip_pl.model.encoder import Encoder, build_encoder
from declip_pl.model.network import Pooling
from declip_pl.training.results import STAND_IN_NOTICE, circumstances
from declip_pl.training.run_folder import claim
from declip_pl.training.task import load_decoder, read_checkpoint
from declip_pl.training.train import MINI, choose_config, choose_data


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
    options: Any = {"source": source, "convention": convention}
    training: Any = {"encoder": encoder, "decoder": decoder, "layer": layer}
    training |= {"supervision": supervision}
    if models and (seeds > 1 or leave_one_out or config or any(training.values())):
        raise UserError("given models are scored as they are: leave out all options of training")
    root, why = choose_data(data)
    if root == MINI:
        build_mini(MINI)
    print(f"data: {root} ({why})")
    failures: list[Failure] = []
    label = None
    if not models:
        chosen, why = choose_config(config, root, source)
        print(f"recipe: {chosen} ({why})")
        recipe = Recipe(root, chosen, **options, **training)
        options = {name: recipe.options["data", name] for name in options}
        wanted = choices(source_root(root, options["source"]), leave_one_out)
        models, failures = train_missing(recipe, wanted, seeds)
        label = recipe.kind + f"-{seeds}-seeds" * (seeds > 1) + "-leave-one-out" * leave_one_out
    given = {key: value for key, value in options.items() if value}
    test_data = DolosDataModule(str(root), "all", **given)
    described, unread = read_models(models, test_data.generators)
    failures += unread
    if not described:
        raise UserError(_failed(failures))
    folder = ROOT / (name or f"{test_data.root.name}-{label or _name(described)}")
    with claim(folder, "cross-evaluating into"):
        _check_folder(folder, test_data)
        results, failed = _score(described, test_data, folder)
        failures += failed
        about = _about(folder, test_data, results, failures, start)
        matrix = build_matrix(
            described, results["cells"], results["thresholds"], test_data.generators, pooling, about
        )
        write_matrix(folder, matrix)
        matrix_png(matrix, folder / "matrix.png")
        report = write_report(folder)
        hints = track(folder)
    print(summary(matrix))
    print(f"report: {report}")
    print(f"table:  {folder / 'matrix.csv'}")
    hints += polarity_warnings(results["cells"].values())
    for line in hints:
        print(line)
    if failures:
        raise UserError(_failed(failures))


def _score(
    models: Sequence[Model], data: DolosDataModule, folder: Path
) -> tuple[dict[str, Any], list[Failure]]:
    """Score every model on every test set; photos pass each encoder once, whatever the models.

    Returns:
        ``tests`` by name, ``thresholds`` by model, ``cells`` by model and test set, ``device``;
        and what went wrong.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cells = Cells(folder, device)
    failures: list[Failure] = []
    names = [*data.generators, *([REAL] if data.has_reals else [])]
    attempted = [
        attempt(failures, f"test set {name}", partial(_test_set, data, name, "test", name))
        for name in names
    ]
    tests = [test for test in attempted if test]
    results: dict[str, Any] = {
        "tests": {t.name: ScoredSet(len(t.data), t.sha256) for t in tests},
        "thresholds": {},
        "cells": {},
        "device": str(device),
    }
    for sharing in _by_encoder(models):
        options = sharing[0].options
        names = [model.name for model in sharing]
        parts = (options["encoder"], options["layer"], options["image_size"])
        encoder = attempt(failures, ", ".join(names), partial(build_encoder, *parts))
        if encoder is None:
            continue
        cache = FeatureCache(encoder, options["image_size"])
        encoded = [
            test
            for test in tests
            if attempt(failures, f"test set {test.name}", partial(_encode, cache, test, device))
        ]
        for model in sharing:
            work = partial(_score_model, cells, model, data, encoder, cache, encoded, results)
            failures += attempt(failures, model.name, work) or []
    return results, failures


def _score_model(
    cells: Cells,
    model: Model,
    data: DolosDataModule,
    encoder: Encoder,
    cache: FeatureCache,
    tests: Sequence[TestSet],
    results: dict[str, Any],
) -> list[Failure]:
    """Add a model's thresholds and cells to the results; return which cells failed."""
    decoder = load_decoder(read_checkpoint(model.checkpoint), encoder).to(cells.device)
    valid = _valid_sets(data, model)
    for part in valid:
        _encode(cache, part, cells.device)
    encoder.release()
    thresholds = cells.thresholds(model, decoder, valid)
    results["thresholds"][model.name] = thresholds
    failures: list[Failure] = []
    for test in tests:
        work = partial(cells.score, model, decoder, test, thresholds)
        cell = attempt(failures, f"{model.name} on {test.name}", work)
        if cell:
            results["cells"][model.name, test.name] = cell
    return failures


def _encode(cache: FeatureCache, test: TestSet, device: torch.device) -> bool:
    """Give a set its photos' features."""
    test.data.views = [cache.fetch([sample.image for sample in test.data.samples], device)]
    return True


def _check_folder(folder: Path, data: DolosDataModule) -> None:
    """Refuse to replace the cross-evaluation of another data set."""
    if (folder / FILE).exists():
        there = read_matrix(folder).data.root
        if there != str(data.root.absolute()):
            raise UserError(f"{folder} is of the data {there}; name another folder (RUN=...)")


def _by_encoder(models: Sequence[Model]) -> list[list[Model]]:
    groups: dict[tuple[str, int], list[Model]] = defaultdict(list)
    for model in models:
        groups[model.encoder["sha256"], model.options["image_size"]].append(model)
    return list(groups.values())


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
) -> About:
    """Return what the matrix is about and how it was made."""
    return About(
        name=folder.name,
        notice=STAND_IN_NOTICE if is_stand_in(data.root) else None,
        perturbation=UNPERTURBED,
        data=Data(str(data.root.absolute()), data.root.name, results["tests"]),
        failed=tuple(failures),
        made=Made(
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            seconds=round(time.monotonic() - start, 1),
            machine=platform.platform(),
            device=results["device"],
            **circumstances(),
        ),
    )


def _name(models: Sequence[Model]) -> str:
    """Return a name for just these models."""
    names = "\n".join(sorted(model.name for model in models))
    return f"{len(models)}-models-{hashlib.sha256(names.encode()).hexdigest()[:6]}"


def _failed(failures: Sequence[Failure]) -> str:
    lines = [f"  {failure.what}: {failure.why}" for failure in failures]
    return "\n".join(["these parts of the cross-evaluation failed:", *lines,
                      "the same command tries them again"])  # fmt: skip
