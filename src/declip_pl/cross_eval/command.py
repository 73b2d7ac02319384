"""``declip-pl cross-eval``: every trained model against every generator."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Interval

from declip_pl.cross_eval.build import build_matrix
from declip_pl.cross_eval.cell import Cell
from declip_pl.cross_eval.cells import Cells, TestSet, polarity_warnings
from declip_pl.cross_eval.domains import (
    PICTURE,
    SPREADSHEET,
    domains_of,
    domains_text,
    write_domains,
)
from declip_pl.cross_eval.folder import check_folder, choose_folder, name_of
from declip_pl.cross_eval.matrix import (
    TABLE,
    UNPERTURBED,
    Failure,
    Matrix,
    ScoredSet,
    write_matrix,
)
from declip_pl.cross_eval.models import (
    Model,
    attempt,
    by_encoder,
    read_models,
    shared_pooling,
)
from declip_pl.cross_eval.plan import (
    choose_data_sets,
    choose_recipe,
    read_changes,
    read_data_sets,
    trained,
)
from declip_pl.cross_eval.progress import Countdown
from declip_pl.cross_eval.provenance import describe
from declip_pl.cross_eval.summary import summary
from declip_pl.cross_eval.views.domains_png import domains_png
from declip_pl.cross_eval.views.heat_map import matrix_png
from declip_pl.cross_eval.views.report import REPORT, write_report
from declip_pl.cross_eval.views.wandb_run import track
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.layout import REAL, left_out_line, notices
from declip_pl.data.stamps import content_hash
from declip_pl.data.transforms import Changes, key_of
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import load_decoder, load_encoder
from declip_pl.model.devices import find_device
from declip_pl.model.encoder import Encoder
from declip_pl.model.network import Pooling
from declip_pl.names import check_name
from declip_pl.parts import Spec, as_text
from declip_pl.training.recipe import Options
from declip_pl.training.run_folder import claim


def cross_eval(
    options: Options,
    models: Sequence[str] = (),
    also: str | None = None,
    seeds: Annotated[int, Interval(ge=1, le=1000)] = 1,
    loo: bool = False,
    pooling: Pooling | None = None,
    perturbation: Changes = "none",
    name: str | None = None,
    none: bool = False,
) -> None:
    """Score localizers on every generator's test photos, and train those that are missing.

    What is finished is reused: after an interruption, the same command goes on where it was.

    Args:
        options: What to test on, and how missing models are trained.
        models: Runs' folders, checkpoints, saved folders, hub ids or starter to score, no others.
            By default one model for each generator of the data set, trained first where missing.
        also: Further data sets to score the same models on, joined by commas; each is a
            cross-evaluation of its own, and the first shows all of them together.
        seeds: Models for each generator, with the seeds 0, 1, ...
        loo: Also train on all generators but one, for each (leave one out).
        pooling: From a map to an image's score; by default what all models say, or else top.
        perturbation: Changes of the test photos: none, blur, jitter, jpeg, all, or a YAML file.
        name: Name of the folder in outputs/cross_eval; that of a further data set is not changed.
        none: Also train on forgeries alone, on no generator's photos.

    Raises:
        UserError: If there is nothing to score, or a model or cell failed; the rest is written.
    """
    start = time.monotonic()
    _check_given(name, models, seeds > 1 or loo or none or replace(options, encoder=None).trains())
    (options, places), device = choose_data_sets(options, also), find_device(options.device)
    recipe = None if models else choose_recipe(options, places[0].root)
    data, *others = read_data_sets(options, recipe, places, read_changes(perturbation))
    paths, failures, label = (
        trained(recipe, data, seeds, loo, none) if recipe else (models, [], None)
    )
    described, unread = read_models(paths, data.generators)
    failures += unread
    if not described:
        raise UserError(_failed(failures))
    evaluate = partial(evaluated, named=options.encoder, pooling=pooling, device=device)
    folder = choose_folder(data, label or name_of(described), name)
    matrix = evaluate(described, data, folder, failures, start)
    if others:
        _show_all(folder, [matrix, *_on_further(paths, others, evaluate, failures)])
    if failures:
        raise UserError(_failed(failures))


def _check_given(name: str | None, models: Sequence[str], trains: bool) -> None:
    if name:
        check_name(name, "a cross-evaluation's name")
    if models and trains:
        raise UserError("given models are scored as they are: leave out all options of training")


def _warnings(data: LocalizationDataModule, cells: Iterable[Cell]) -> list[str]:
    """Return what deserves a look in the data that were scored, one line each."""
    left_out = left_out_line(data.layout, [*data.generators, REAL])
    lines = [*notices(data.layout), *([left_out] if left_out else [])]
    return polarity_warnings(cells, data.mask_rule) + [f"warning: {line}" for line in lines]


def write_views(
    folder: Path, matrix: Matrix, models: Sequence[Model], warnings: Sequence[str]
) -> None:
    """Write the matrix and all that people look at, and print the warnings."""
    write_matrix(folder, matrix)
    matrix_png(matrix, folder / "matrix.png")
    write_report(folder)
    for line in warnings:
        print(line)


def _show(folder: Path, matrix: Matrix, models: Sequence[Model], warnings: Sequence[str]) -> None:
    """Write and log the matrix and all that people look at, and print the summary."""
    write_views(folder, matrix, models, ())
    hints = track(folder, {model.name: model.checkpoint.path for model in models})
    print(summary(matrix))
    print(f"report: {folder / REPORT}")
    print(f"table:  {folder / TABLE}")
    for line in [*hints, *warnings]:
        print(line)


def evaluated(
    models: Sequence[Model],
    data: LocalizationDataModule,
    folder: Path,
    failures: list[Failure],
    start: float,
    *,
    named: Spec | None,
    pooling: Pooling | None,
    device: torch.device,
    show: Callable[[Path, Matrix, Sequence[Model], Sequence[str]], None] = _show,
    features: Path | None = None,
) -> Matrix:
    """Score models on a data set and write what came out; add to the failures.

    Args:
        models: The localizers.
        data: What they are scored on.
        folder: Of the cross-evaluation.
        failures: What went wrong before.
        start: When it began, by the monotonic clock.
        named: Where the encoder is, if not where the models say.
        pooling: From a map to an image's score; by default what all models say, or else top.
        device: Where it runs.
        show: Writes what people look at, given the warnings.
        features: Where features of the test photos are cached, if not where all others are.
    """
    with claim(folder, "cross-evaluating into"):
        before = check_folder(folder, data)
        results, failed = _score(models, data, folder, named, device, features)
        failures += failed
        about = describe(folder, data, results, failures, start)
        scored = (results["cells"], results["thresholds"], data.generators)
        pooled = pooling or shared_pooling(models)
        matrix = build_matrix(models, *scored, pooled, about, before)
        show(folder, matrix, models, _warnings(data, results["cells"].values()))
    return matrix


def _on_further(
    paths: Sequence[str | Path],
    others: Sequence[LocalizationDataModule],
    evaluate: Callable[..., Matrix],
    failures: list[Failure],
) -> list[Matrix]:
    """Score models on further data sets, each as a cross-evaluation of its own; add to failures."""
    known = {failure.what for failure in failures}
    readable = [path for path in paths if str(path) not in known]

    def score(data: LocalizationDataModule, own: list[Failure]) -> Matrix:
        start = time.monotonic()
        models, unread = read_models(readable, data.generators)
        own += unread
        return evaluate(models, data, choose_folder(data, name_of(models)), own, start)

    matrices = []
    for data in others:
        own: list[Failure] = []
        matrix = attempt(own, "all of it", partial(score, data, own))
        failures += [Failure(f"data set {data.root.name}: {f.what}", f.why) for f in own]
        matrices += [matrix] if matrix else []
    return matrices


def _show_all(folder: Path, matrices: Sequence[Matrix]) -> None:
    """Write what shows all data sets into the first one's folder, and print it."""
    if len(matrices) == 1:  # all others failed
        return
    domains = domains_of(matrices)
    with claim(folder, "cross-evaluating into"):
        write_domains(folder, domains)
        domains_png(matrices, domains, folder / PICTURE)
        write_report(folder)
    print(domains_text(domains))
    print(f"all data sets: {folder / PICTURE}")
    print(f"their table:   {folder / SPREADSHEET}")


def _score(
    models: Sequence[Model],
    data: LocalizationDataModule,
    folder: Path,
    named: Spec | None,
    device: torch.device,
    features: Path | None,
) -> tuple[dict[str, Any], list[Failure]]:
    """Score every model on every test set; photos pass each encoder once, whatever the models.

    Returns:
        ``tests`` by name, ``thresholds`` by model, ``cells`` by model and test set, ``device``;
        and what went wrong.
    """
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
    # Where nothing is left to score, no encoder is loaded. What fails here is tried again below.
    add = partial(_add_finished, cells, data, tests, results)
    left = [model for model in models if not attempt([], model.name, partial(add, model))]
    data.index.save()
    countdown = Countdown(len(left))
    for sharing in by_encoder(left):
        names = [model.name for model in sharing]
        encoder = attempt(failures, ", ".join(names), partial(_shared_encoder, sharing, named))
        if encoder is None:
            continue
        cache = FeatureCache(encoder, perturbation=data.perturbation, root=features)
        clean = FeatureCache(encoder)  # thresholds are chosen on photos as they are
        encode = partial(_encode, cache, data, device)
        encoded = [t for t in tests if attempt(failures, f"test set {t.name}", partial(encode, t))]
        for model in sharing:
            print(countdown.next(f"scoring {model.name}"), flush=True)
            work = partial(_score_model, cells, model, data, encoder, clean, encoded, results)
            failures += attempt(failures, model.name, work) or []
    return results, failures


def _add_finished(
    cells: Cells,
    data: LocalizationDataModule,
    tests: Sequence[TestSet],
    results: dict[str, Any],
    model: Model,
) -> bool:
    """Add a model's thresholds and cells to the results if all of them are there."""
    found = cells.finished(model, _valid_sets(data, model), tests)
    if not found:
        return False
    results["thresholds"][model.name], scored = found
    results["cells"] |= {(model.name, test): cell for test, cell in scored.items()}
    return True


def _score_model(
    cells: Cells,
    model: Model,
    data: LocalizationDataModule,
    encoder: Encoder,
    cache: FeatureCache,
    tests: Sequence[TestSet],
    results: dict[str, Any],
) -> list[Failure]:
    """Add a model's thresholds and cells to the results; return which cells failed."""
    decoder = load_decoder(model.checkpoint, encoder).to(cells.device)
    valid = _valid_sets(data, model)
    for part in valid:
        _encode(cache, data, cells.device, part)
    encoder.offload()
    thresholds = cells.thresholds(model, decoder, valid)
    results["thresholds"][model.name] = thresholds
    failures: list[Failure] = []
    for test in tests:
        work = partial(cells.score, model, decoder, test, thresholds)
        cell = attempt(failures, f"{model.name} on {test.name}", work)
        if cell:
            results["cells"][model.name, test.name] = cell
    return failures


def _encode(
    cache: FeatureCache, data: LocalizationDataModule, device: torch.device, test: TestSet
) -> bool:
    """Give a set its photos' features."""
    photos = [sample.image for sample in test.data.samples]
    test.data.views = [cache.fetch(photos, device, data.index.hashes)]
    test.data.check_photos()
    return True


def _shared_encoder(models: Sequence[Model], named: Spec | None) -> Encoder:
    """Return the encoder of models that have the same, from wherever one of them says it is."""
    ways = {as_text(model.checkpoint.encoder): model.checkpoint for model in models}
    *others, last = ways.values()
    for checkpoint in others:
        with suppress(UserError):
            return load_encoder(checkpoint, named)
    return load_encoder(last, named)


def _valid_sets(data: LocalizationDataModule, model: Model) -> list[TestSet]:
    """Return the validation photos to choose a model's thresholds on.

    None if its checkpoint has thresholds, or any generator that it was trained on has no such
    photos here.
    """
    there = {sample.generator for sample in data.layout.samples("valid")}
    named = set(model.trained_on)
    if model.checkpoint.thresholds or not named or not named <= there & set(data.generators):
        return []
    sets = [_test_set(data, model.row, "valid", *model.trained_on)]
    return sets + ([_test_set(data, REAL, "valid", REAL)] if REAL in there else [])


def _test_set(data: LocalizationDataModule, name: str, split: Any, *generators: str) -> TestSet:
    photos = data.evaluation_set(name, split, *generators)
    perturbation = key_of(data.perturbation if split == "test" else UNPERTURBED)
    digest = content_hash(photos.samples, data.mask_rule_key, data.index.hashes)
    return TestSet(name, photos, digest, perturbation)


def _failed(failures: Sequence[Failure]) -> str:
    lines = [f"  {failure.what}: {failure.why}" for failure in failures]
    return "\n".join(["these parts of the cross-evaluation failed:", *lines,
                      "the same command tries them again"])  # fmt: skip
