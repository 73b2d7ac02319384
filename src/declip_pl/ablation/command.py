"""``declip-pl ablate``: one question, answered by training and scoring every variant."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import yaml
from annotated_types import Interval

from declip_pl.ablation.ablation import (
    ROOT,
    SPREADSHEET,
    Ablation,
    Variant,
    lines_of,
    write_ablation,
)
from declip_pl.ablation.changes import changes
from declip_pl.ablation.encoding import encode_together
from declip_pl.ablation.gains import gains
from declip_pl.ablation.picture import PICTURE, ablation_png
from declip_pl.ablation.pieces import Pieces, Plan
from declip_pl.ablation.question import GENERATOR, Question, number_in, read_question
from declip_pl.ablation.report import write_report
from declip_pl.ablation.table import ablation_text
from declip_pl.cross_eval.evaluation import Evaluation
from declip_pl.cross_eval.failures import as_error, attempt, failures_of, on_record
from declip_pl.cross_eval.folder import fingerprint
from declip_pl.cross_eval.matrix import UNPERTURBED, Failure, Matrix
from declip_pl.cross_eval.models import read_models, train_missing, trained_models
from declip_pl.cross_eval.one_set import Way, evaluate_set, print_warnings
from declip_pl.cross_eval.pieces import encode_part
from declip_pl.cross_eval.plan import choose_data_sets, read_data_sets
from declip_pl.cross_eval.provenance import made
from declip_pl.cross_eval.views.report import REPORT
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.layouts.dolos import Source
from declip_pl.errors import UserError
from declip_pl.files import short_hash, shortened, write_text
from declip_pl.jobs.where import Jobs, Local, Part, Slurm, read_jobs
from declip_pl.model.devices import find_device
from declip_pl.names import check_name
from declip_pl.training.recipe import Options, Recipe
from declip_pl.training.recipe_file import as_argument, command_line
from declip_pl.training.run_folder import MOST, claim

RECIPES = "recipes"
"""The folder of the variants' recipes, in the ablation's."""

APART = ("seed_everything", GENERATOR)
"""Entries that say which model of a variant it is."""


def ablate(
    question: str,
    jobs: Jobs,
    data: str | None = None,
    source: Source | None = None,
    seeds: Annotated[int, Interval(ge=1, le=1000)] = 1,
    name: str | None = None,
    device: str | None = None,
) -> None:
    """Answer a question: train and score every variant, and say how much each of them changes.

    What is finished is reused: after an interruption, the same command goes on where it was.

    Args:
        question: A YAML file, or the name of a question that comes with the package (see
            experiments/questions).
        jobs: Where its pieces run; in --part=score:MODEL a variant stands in the model's place.
        data: The data set's folder or file, or LAYOUT:PATH; by default as in train.
        source: Part of Dolos: celebahq or ffhq.
        seeds: Models of each variant and training set, with the seeds 0, 1, ...
        name: Name of the folder in outputs/ablate.
        device: Where it runs, such as cpu, cuda or cuda:1; by default a GPU where there is one.

    Raises:
        UserError: If the question is not understood, or a part failed; the rest is written.
    """
    start = time.monotonic()
    if name:
        check_name(name, "an ablation's name")
    where, part = read_jobs(jobs)
    options = Options(data=data, source=source, device=device)
    given = {**vars(options), "seeds": seeds, "name": name}
    options, places = choose_data_sets(options, None)
    options = replace(options, layout=options.layout or "dolos")  # the same in all variants
    (photos,) = read_data_sets(options, None, places, UNPERTURBED)
    asked = read_question(question, photos.generators)
    print(f"question: {asked.question} ({len(asked.variants)} variants)")
    folder = ROOT / shortened(name or f"{photos.root.name}-{asked.name}", MOST)
    plan = partial(_plan, asked, folder=folder, photos=photos, options=options)
    if where or jobs.dry_run or (part and part.kind != "report"):
        plans = [plan(variant) for variant in asked.variants]
        command = tuple(command_line("ablate", given, question))
        _apart(Pieces(command, plans, photos, folder, seeds), where, jobs.dry_run, part, device)
        return
    with claim(folder, "ablating into"):
        plans = [plan(variant) for variant in asked.variants]
        _encode(plans, photos, find_device(device))
        failures = _train(plans, seeds, trained_models if part else train_missing)
        ablation = _answer(asked, plans, photos, folder, find_device(device), failures, start)
    _tell(ablation, folder, failures)


def _tell(ablation: Ablation, folder: Path, failures: Sequence[Failure]) -> None:
    """Print an ablation.

    Raises:
        UserError: If a part failed.
    """
    print(ablation_text(ablation))
    print(f"report: {folder / REPORT}")
    print(f"table:  {folder / SPREADSHEET}")
    if failures:
        raise as_error("the ablation", failures)


def _apart(
    pieces: Pieces,
    where: Local | Slurm | None,
    dry_run: bool,
    part: Part | None,
    device: str | None,
) -> None:
    """Run pieces or say what they are, or do one of them: encode photos, or score a variant.

    Raises:
        UserError: If that fails, or there is no such variant.
    """
    if not part:
        pieces.do(where, dry_run, device)
        return
    plans, photos = pieces.plans, pieces.photos
    if part.kind == "encode":
        _encode(plans, photos, find_device(device))
        for plan in plans:
            encode_part(plan.recipe, plan.choices, [photos], part, find_device(device))
        return
    wanted = [plan for plan in plans if plan.variant == part.model]
    if not wanted:
        expected = ", ".join(plan.variant for plan in plans)
        raise UserError(f"there is no variant {part.model!r} to score; expected {expected}")
    failures = _train(wanted, pieces.seeds, trained_models)
    _score(wanted, photos, pieces.folder, failures, find_device(device))
    if failures:
        raise as_error("the ablation", failures)


def _plan(
    asked: Question, variant: str, folder: Path, photos: LocalizationDataModule, options: Options
) -> Plan:
    """Write a variant's recipe and return what is to be trained."""
    path = folder / RECIPES / f"{variant}.yaml"
    write_text(path, yaml.safe_dump(asked.sections(variant), sort_keys=False))
    recipe = Recipe(photos.root, path, options)
    decisive = sorted(
        f"{name}: {as_argument(value)}"
        for name, value in recipe.entries.items()
        if name not in APART
    )
    # A run that another question has trained in the same way is found by its name.
    label = short_hash("\n".join([fingerprint(photos.root), *decisive]))
    choice = asked.changes(variant).get(GENERATOR)
    choices = [str(choice)] if choice else list(photos.generators)
    return Plan(variant, replace(recipe, label=label), choices, [])


def _encode(plans: Sequence[Plan], photos: LocalizationDataModule, device: torch.device) -> None:
    """Encode the photos of variants that differ in the layer."""
    encode_together(
        {plan.variant: plan.recipe for plan in plans},
        {plan.variant: plan.choices for plan in plans},
        photos,
        device,
    )


def _train(
    plans: Sequence[Plan],
    seeds: int,
    find: Callable[[Recipe, Sequence[str], int], tuple[list[Path], list[Failure]]],
) -> list[Failure]:
    """Add the finished runs to the plans, as one finds or makes them; return what failed."""
    failures: list[Failure] = []
    for plan in plans:
        print(f"variant: {plan.variant}", flush=True)
        plan.runs, failed = find(plan.recipe, plan.choices, seeds)
        failures += failures_of(plan.variant, failed)
    return failures


def _score(
    plans: Sequence[Plan],
    photos: LocalizationDataModule,
    folder: Path,
    failures: list[Failure],
    device: torch.device,
) -> dict[str, Matrix]:
    """Cross-evaluate each variant in a folder of its own; add to the failures."""
    matrices = {}
    for plan in plans:
        own: list[Failure] = []
        work = partial(_matrix, plan, photos, folder / plan.variant, own, device)
        matrix = attempt(own, "all of it", work)
        failures += failures_of(plan.variant, own)
        if matrix:
            matrices[plan.variant] = matrix
    return matrices


def _matrix(
    plan: Plan,
    photos: LocalizationDataModule,
    folder: Path,
    failures: list[Failure],
    device: torch.device,
) -> Matrix:
    start = time.monotonic()
    models, unread = read_models(plan.runs, photos.generators)
    if not models:
        raise UserError("none of its models was trained")
    failures += unread
    way = Way(None, None, device)
    return evaluate_set(models, photos, folder, failures, start, way, print_warnings)


def _answer(
    asked: Question,
    plans: Sequence[Plan],
    photos: LocalizationDataModule,
    folder: Path,
    device: torch.device,
    failures: list[Failure],
    start: float,
) -> Ablation:
    """Score all variants and write what they say; add to the failures.

    Raises:
        UserError: If the variant that all are compared with has no scores.
    """
    matrices = _score(plans, photos, folder, failures, device)
    if asked.against not in matrices:
        raise as_error("the ablation", failures)
    ablation = _ablation(asked, plans, matrices, folder, failures, start)
    write_ablation(folder, ablation)
    ablation_png(ablation, folder / PICTURE)
    write_report(folder, ablation)
    return ablation


def _ablation(
    asked: Question,
    plans: Sequence[Plan],
    matrices: Mapping[str, Matrix],
    folder: Path,
    failures: Sequence[Failure],
    start: float,
) -> Ablation:
    """Return what the variants' matrices say."""
    lines = [line for variant, matrix in matrices.items() for line in lines_of(variant, matrix)]
    known = {variant: Evaluation(folder / variant, matrix) for variant, matrix in matrices.items()}
    compared = changes(known, asked.against, asked.metric)
    first = matrices[asked.against]
    return Ablation(
        name=folder.name,
        question=asked.question,
        recipe=asked.recipe.name,
        axis=asked.axis,
        fixed={name: as_argument(value) for name, value in asked.fixed.items()},
        data=first.data.name,
        notice=first.notice,
        seeds=len(first.seeds),
        against=asked.against,
        metric=asked.metric,
        variants={
            plan.variant: Variant(
                {k: as_argument(v) for k, v in asked.variants[plan.variant].items()},
                tuple(run.name for run in plan.runs),
                number_in(plan.variant) if asked.axis else None,
            )
            for plan in plans
            if plan.variant in matrices
        },
        lines=tuple(
            replace(line, change=compared.get((line.variant, line.metric, line.part)))
            for line in lines
        ),
        gains=gains(known, asked.metric),
        failed=on_record(failures),
        made=made(start, first.made.device),
    )
