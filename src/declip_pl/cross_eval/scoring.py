"""Scoring every method on every test set of a data set, and reusing what is finished."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from declip_pl.cross_eval.answers import score_answers
from declip_pl.cross_eval.cells import Cells
from declip_pl.cross_eval.failures import attempt
from declip_pl.cross_eval.heat_maps import DecodedMaps, HeatMaps, TestSet
from declip_pl.cross_eval.map_folder import MapFolder
from declip_pl.cross_eval.matrix import UNPERTURBED, Failure, ScoredSet
from declip_pl.cross_eval.methods import Method
from declip_pl.cross_eval.models import Model, by_encoder
from declip_pl.cross_eval.progress import Countdown
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.layout import REAL
from declip_pl.data.stamps import content_hash
from declip_pl.data.transforms import key_of
from declip_pl.errors import UserError
from declip_pl.metrics import Thresholds
from declip_pl.model.checkpoint import load_decoder, load_encoder
from declip_pl.model.encoder import Encoder
from declip_pl.parts import Spec, as_text


def score_all(
    models: Sequence[Method],
    data: LocalizationDataModule,
    folder: Path,
    named: Spec | None,
    device: torch.device,
    features: Path | None = None,
    answers: bool = True,
) -> tuple[dict[str, Any], list[Failure]]:
    """Score every method on every test set; photos pass each encoder once, whatever the models.

    Args:
        models: Trained localizers and other methods' maps.
        data: The data set.
        folder: The cross-evaluation's.
        named: Where the user says that the models' encoder is.
        device: Where networks run.
        features: Where features of the test photos are cached, if not where all others are.
        answers: Also score answers that never look at the photo.

    Returns:
        ``tests`` by name, ``thresholds`` by model, ``cells`` by model and test set, ``device``;
        and what went wrong.
    """
    cells = Cells(folder)
    failures: list[Failure] = []
    tests = _test_sets(data, failures)
    results: dict[str, Any] = {
        "tests": {t.name: ScoredSet(len(t.data), t.sha256) for t in tests},
        "thresholds": {},
        "cells": {},
        "baselines": score_answers(folder, data, tests, failures) if answers else {},
        "device": str(device),
    }
    # Where nothing is left to score, no encoder is loaded. What fails here is tried again below.
    add = partial(_add_finished, cells, data, tests, results)
    left = [model for model in models if not attempt([], model.name, partial(add, model))]
    data.index.save()
    countdown = Countdown(len(left))
    for maps in (method for method in left if isinstance(method, MapFolder)):
        print(countdown.next(f"scoring {maps.name}"), flush=True)
        work = partial(_score_maps, cells, maps, tests, results)
        failures += attempt(failures, maps.name, work) or []
    for sharing in by_encoder([method for method in left if isinstance(method, Model)]):
        failures += _score_sharing(
            cells, sharing, data, named, device, tests, results, countdown, features
        )
    return results, failures


def unfinished(
    models: Sequence[Method], data: LocalizationDataModule, folder: Path
) -> list[Method]:
    """Return the methods that have not been scored on every test set.

    Args:
        models: Trained localizers.
        data: The data set.
        folder: The cross-evaluation's.
    """
    tests = _test_sets(data, [])
    results: dict[str, Any] = {"thresholds": {}, "cells": {}}
    add = partial(_add_finished, Cells(folder), data, tests, results)
    left = [model for model in models if not attempt([], model.name, partial(add, model))]
    data.index.save()
    return left


def _score_sharing(
    cells: Cells,
    models: Sequence[Model],
    data: LocalizationDataModule,
    named: Spec | None,
    device: torch.device,
    tests: Sequence[TestSet],
    results: dict[str, Any],
    countdown: Countdown,
    features: Path | None,
) -> list[Failure]:
    """Add thresholds and cells of models of one encoder to the results; return what failed."""
    failures: list[Failure] = []
    names = [model.name for model in models]
    encoder = attempt(failures, ", ".join(names), partial(_shared_encoder, models, named))
    if encoder is None:
        return failures
    cache = FeatureCache(encoder, perturbation=data.perturbation, root=features)
    clean = FeatureCache(encoder)  # thresholds are chosen on photos as they are
    encode = partial(_encode, cache, data, device)
    encoded = [t for t in tests if attempt(failures, f"test set {t.name}", partial(encode, t))]
    for model in models:
        print(countdown.next(f"scoring {model.name}"), flush=True)
        work = partial(_score_model, cells, model, data, encoder, clean, encoded, results, device)
        failures += attempt(failures, model.name, work) or []
    return failures


def _add_finished(
    cells: Cells,
    data: LocalizationDataModule,
    tests: Sequence[TestSet],
    results: dict[str, Any],
    model: Method,
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
    device: torch.device,
) -> list[Failure]:
    """Add a model's thresholds and cells to the results; return which cells failed."""
    maps = DecodedMaps(load_decoder(model.checkpoint, encoder), device)
    valid = _valid_sets(data, model)
    for part in valid:
        _encode(cache, data, device, part)
    encoder.offload()
    thresholds = cells.thresholds(model, maps, valid)
    return _add_cells(cells, model, maps, tests, thresholds, results)


def _score_maps(
    cells: Cells, maps: MapFolder, tests: Sequence[TestSet], results: dict[str, Any]
) -> list[Failure]:
    """Add the cells of another method's maps to the results; return which cells failed."""
    covered = [test for test in tests if maps.covers(test)]
    maps.check(covered)
    failures = [
        Failure(f"{maps.name} on {test.name}", "no photo of it has a map")
        for test in tests
        if test not in covered and test.name != REAL
    ]
    return failures + _add_cells(cells, maps, maps, covered, maps.thresholds, results)


def _add_cells(
    cells: Cells,
    model: Method,
    maps: HeatMaps,
    tests: Sequence[TestSet],
    thresholds: Thresholds,
    results: dict[str, Any],
) -> list[Failure]:
    """Add a method's thresholds and cells to the results; return which cells failed."""
    results["thresholds"][model.name] = thresholds
    failures: list[Failure] = []
    for test in tests:
        work = partial(cells.score, model, maps, test, thresholds)
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


def _valid_sets(data: LocalizationDataModule, model: Method) -> list[TestSet]:
    """Return the validation photos to choose a model's thresholds on.

    None if its checkpoint has thresholds, or any generator that it was trained on has no such
    photos here.
    """
    there = {sample.generator for sample in data.layout.samples("valid")}
    named = set(model.trained_on)
    if model.thresholds or not named or not named <= there & set(data.generators):
        return []
    sets = [_test_set(data, model.row, "valid", *model.trained_on)]
    return sets + ([_test_set(data, REAL, "valid", REAL)] if REAL in there else [])


def _test_sets(data: LocalizationDataModule, failures: list[Failure]) -> list[TestSet]:
    """Return each generator's test photos and the real ones; add to the failures."""
    names = [*data.generators, *([REAL] if data.has_reals else [])]
    attempted = [
        attempt(failures, f"test set {name}", partial(_test_set, data, name, "test", name))
        for name in names
    ]
    return [test for test in attempted if test]


def _test_set(data: LocalizationDataModule, name: str, split: Any, *generators: str) -> TestSet:
    photos = data.evaluation_set(name, split, *generators)
    perturbation = key_of(data.perturbation if split == "test" else UNPERTURBED)
    digest = content_hash(photos.samples, data.mask_rule_key, data.index.hashes)
    return TestSet(name, photos, digest, perturbation)
