"""``declip-pl robustness``: localizers on photos that were degraded in several ways."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from declip_pl.cross_eval.failures import as_error, attempt, failures_of, on_record
from declip_pl.cross_eval.matrix import UNPERTURBED, Failure, Matrix
from declip_pl.cross_eval.methods import Method
from declip_pl.cross_eval.models import read_models, train_missing, trained_models
from declip_pl.cross_eval.one_set import Way, evaluate_set, print_warnings
from declip_pl.cross_eval.pieces import encode_part
from declip_pl.cross_eval.plan import choose_data_sets, choose_recipe, read_data_sets
from declip_pl.cross_eval.progress import Countdown
from declip_pl.cross_eval.provenance import made
from declip_pl.cross_eval.views.report import REPORT
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.errors import UserError
from declip_pl.jobs.where import Jobs, read_jobs
from declip_pl.model.devices import find_device
from declip_pl.names import check_name
from declip_pl.robustness.degradations import Degradation, read_degradations
from declip_pl.robustness.picture import PICTURE, robustness_png
from declip_pl.robustness.pieces import Pieces, Step, folder_of
from declip_pl.robustness.report import write_report
from declip_pl.robustness.robustness import (
    CLEAN,
    SPREADSHEET,
    Robustness,
    lines_of,
    write_robustness,
)
from declip_pl.robustness.table import robustness_text
from declip_pl.training.recipe import Options, Recipe
from declip_pl.training.recipe_file import command_line
from declip_pl.training.run_folder import claim

FEATURES = "features"
"""The folder of degraded photos' features, in the folder of a strength while it is scored."""


def robustness(
    options: Options,
    jobs: Jobs,
    models: Sequence[str] = (),
    degradations: Path | None = None,
    only: str | None = None,
    name: str | None = None,
) -> None:
    """Score localizers on photos that were compressed, resized, blurred or sent around.

    What is finished is reused: after an interruption, the same command goes on where it was.

    Args:
        options: What to test on, and how missing models are trained.
        jobs: Where its pieces run; in --part=score:MODEL a degradation with its strength stands in
            the model's place.
        models: Runs' folders, checkpoints, saved folders, hub ids or starter to score, no others.
            By default one model for each generator of the data set, trained first where missing.
        degradations: A YAML file; by default experiments/degradations/common.yaml.
        only: Names of degradations, joined by semicolons; by default all in the file.
        name: Name of the folder in outputs/robustness.

    Raises:
        UserError: If there is nothing to score, or a part failed; the rest is written.
    """
    start = time.monotonic()
    _check_given(options, models, name)
    where, part = read_jobs(jobs)
    further = {"degradations": degradations, "only": only, "name": name}
    command = tuple(command_line("robustness", vars(options) | further, *models))
    chosen = _chosen(read_degradations(degradations), only)
    options, places = choose_data_sets(options, None)
    recipe = None if models else choose_recipe(options, places[0].root)
    (photos,) = read_data_sets(options, recipe, places, UNPERTURBED)
    if where or jobs.dry_run:
        pieces = Pieces(command, recipe, models, photos, list(_steps(chosen)), name)
        pieces.do(where, jobs.dry_run, options.device)
        return
    device = find_device(options.device)
    if part and part.kind == "encode" and recipe:
        encode_part(recipe, photos.generators, [photos], part, device)
        return
    described, failures = _models(models, recipe, photos, trains=not part)
    folder = folder_of(photos, recipe, described, name)
    score = partial(_score_steps, described, photos=photos, folder=folder, device=device)
    if part and part.kind == "score":
        _score_one(part.model, list(_steps(chosen)), score)
    else:
        _score_and_write(folder, chosen, score, failures, start)


def _models(
    given: Sequence[str], recipe: Recipe | None, photos: LocalizationDataModule, trains: bool
) -> tuple[list[Method], list[Failure]]:
    """Return the models to score, trained first where that is asked for, and what failed.

    Raises:
        UserError: If there is none.
    """
    paths: Sequence[str | Path] = given
    failures: list[Failure] = []
    if recipe:
        find = train_missing if trains else trained_models
        paths, failures = find(recipe, photos.generators, seeds=1)
    described, unread = read_models(paths, photos.generators)
    failures += unread
    if not described:
        raise as_error("the robustness run", failures)
    return described, failures


def _score_one(name: str, steps: Sequence[Step], score: Callable[..., Any]) -> None:
    """Score on photos of one strength; others may be scored meanwhile.

    Raises:
        UserError: If there is no such strength, or a part failed.
    """
    failures: list[Failure] = []
    wanted = [step for step in steps if str(step) == name]
    if not wanted:
        raise UserError(f"there is no {name!r} to score; expected {', '.join(map(str, steps))}")
    score(wanted, failures=failures)
    if failures:
        raise as_error("the robustness run", failures)


def _score_and_write(
    folder: Path,
    chosen: Sequence[Degradation],
    score: Callable[..., list[tuple[Step, Matrix]]],
    failures: list[Failure],
    start: float,
) -> None:
    """Score at all strengths, write and print what came out.

    Raises:
        UserError: If a part failed.
    """
    with claim(folder, "scoring into"):
        matrices = score(list(_steps(chosen)), failures=failures)
        if not matrices or matrices[0][0].degradation != CLEAN:
            raise as_error("the robustness run", failures)
        found = _robustness(folder, chosen, matrices, failures, start)
        _write(folder, found)
    print(robustness_text(found))
    print(f"report: {folder / REPORT}")
    print(f"table:  {folder / SPREADSHEET}")
    if failures:
        raise as_error("the robustness run", failures)


def _check_given(options: Options, models: Sequence[str], name: str | None) -> None:
    if name:
        check_name(name, "a name for the results")
    if models and options.trains():
        raise UserError("given models are scored as they are: leave out all options of training")


def _write(folder: Path, found: Robustness) -> None:
    write_robustness(folder, found)
    robustness_png(found, folder / PICTURE)
    write_report(folder, found)


def _chosen(known: Sequence[Degradation], only: str | None) -> list[Degradation]:
    if only is None:
        return list(known)
    names = [name.strip() for name in only.split(";")]
    by_name = {degradation.name: degradation for degradation in known}
    if missing := [name for name in names if name not in by_name]:
        raise UserError(f"there is no degradation {missing[0]!r}; expected {'; '.join(by_name)}")
    return [by_name[name] for name in names]


def _steps(degradations: Sequence[Degradation]) -> Iterator[Step]:
    yield Step(CLEAN, "", UNPERTURBED)
    for degradation in degradations:
        for value in degradation.values:
            yield Step(degradation.name, str(value), degradation.changes(value))


def _score_steps(
    models: Sequence[Method],
    steps: Sequence[Step],
    photos: LocalizationDataModule,
    folder: Path,
    failures: list[Failure],
    device: torch.device,
) -> list[tuple[Step, Matrix]]:
    """Cross-evaluate at every strength; add to the failures."""
    matrices = []
    countdown = Countdown(len(steps), "strength")
    _ = photos.index  # opened once, as its copies have it as well
    for step in steps:
        print(countdown.next(f"scoring {step}"), flush=True)
        own: list[Failure] = []
        data = copy(photos)
        data.perturbation = step.changes
        place = folder / step.degradation / step.value
        matrix = attempt(own, "all of it", partial(_scored, models, data, place, own, device))
        failures += failures_of(step, own)
        matrices += [(step, matrix)] if matrix else []
    return matrices


def _scored(
    models: Sequence[Method],
    data: LocalizationDataModule,
    folder: Path,
    failures: list[Failure],
    device: torch.device,
) -> Matrix:
    """Cross-evaluate on photos of one strength; their features go once that is done."""
    start = time.monotonic()
    features = None if data.perturbation == UNPERTURBED else folder / FEATURES
    way = Way(None, None, device, features)
    matrix = evaluate_set(models, data, folder, failures, start, way, print_warnings)
    if features:
        shutil.rmtree(features, ignore_errors=True)
    return matrix


def _robustness(
    folder: Path,
    degradations: Sequence[Degradation],
    matrices: Sequence[tuple[Step, Matrix]],
    failures: Sequence[Failure],
    start: float,
) -> Robustness:
    clean = matrices[0][1]
    return Robustness(
        name=folder.name,
        data=clean.data.name,
        notice=clean.notice,
        rows=clean.rows,
        models=tuple(model.name for model in clean.models),
        degradations={found.name: tuple(map(str, found.values)) for found in degradations},
        lines=tuple(
            line
            for step, matrix in matrices
            for line in lines_of(step.degradation, step.value, matrix)
        ),
        failed=on_record(failures),
        made=made(start, clean.made.device),
    )
