"""``declip-pl cross-eval`` and ``evaluate``: methods against test photos, and what is written."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Interval

from declip_pl.cross_eval.all_sets import show_all
from declip_pl.cross_eval.failures import as_error, attempt, failures_of
from declip_pl.cross_eval.folder import choose_folder, further_folder, name_of
from declip_pl.cross_eval.map_folder import MapOptions, read_map_folder
from declip_pl.cross_eval.map_names import is_map_folder
from declip_pl.cross_eval.matrix import TABLE, UNPERTURBED, Failure, Matrix
from declip_pl.cross_eval.methods import Method
from declip_pl.cross_eval.models import Model, read_models, train_missing, trained_models
from declip_pl.cross_eval.one_set import Way, evaluate_set
from declip_pl.cross_eval.pieces import Pieces
from declip_pl.cross_eval.plan import (
    choose_data_sets,
    choose_recipe,
    read_changes,
    read_data_sets,
    wanted_models,
)
from declip_pl.cross_eval.scoring import score_all
from declip_pl.cross_eval.summary import scores_of_all, summary
from declip_pl.cross_eval.views.report import REPORT
from declip_pl.cross_eval.views.wandb_run import track
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.layout import ALL
from declip_pl.data.layouts.dolos import Source
from declip_pl.data.masks import Polarity
from declip_pl.data.transforms import Changes
from declip_pl.errors import UserError
from declip_pl.jobs.where import Jobs, Part, read_jobs
from declip_pl.model.devices import find_device
from declip_pl.model.network import Pooling
from declip_pl.names import check_name
from declip_pl.parts import Spec
from declip_pl.training.recipe import Options
from declip_pl.training.recipe_file import command_line


def cross_eval(
    options: Options,
    jobs: Jobs,
    also: str | None = None,
    seeds: Annotated[int, Interval(ge=1, le=1000)] = 1,
    loo: bool = False,
    pooling: Pooling | None = None,
    perturbation: Changes = "none",
    name: str | None = None,
    none: bool = False,
) -> None:
    """Train a localizer on each generator, where missing, and score all on every generator.

    What is finished is reused: after an interruption, the same command goes on where it was.
    Localizers that are trained already are scored by evaluate.

    Args:
        options: What to test on, and how missing models are trained.
        jobs: Where its pieces run.
        also: Further data sets to score the same models on, joined by commas; each is a
            cross-evaluation of its own, and the first shows all of them together.
        seeds: Models for each generator, with the seeds 0, 1, ...
        loo: Also train on all generators but one, for each (leave one out).
        pooling: From a map to an image's score; by default what all models say, or else top.
        perturbation: Changes of the test photos: none, blur, jitter, jpeg, all, or a YAML file.
        name: Name of the folder in outputs/cross_eval; that of a further data set is not changed.
        none: Also train on forgeries alone, on no generator's photos.

    Raises:
        UserError: If a model or cell failed; the rest is written.
    """
    start = time.monotonic()
    _check_name(name)
    where, part = read_jobs(jobs)
    given = vars(options) | {"also": also, "seeds": seeds, "loo": loo, "none": none}
    given |= {"pooling": pooling, "perturbation": perturbation, "name": name}
    options, places = choose_data_sets(options, also)
    recipe = choose_recipe(options, places[0].root)
    sets = read_data_sets(options, recipe, places, read_changes(perturbation))
    wanted, label = wanted_models(recipe, sets[0], seeds, loo, none)
    if where or jobs.dry_run or (part and part.kind == "encode"):
        folder = choose_folder(sets[0], label, name)
        command = tuple(command_line("cross-eval", given))
        Pieces(command, recipe, wanted, seeds, sets, folder).do(where, jobs.dry_run, part)
        return
    work = _Work(options.encoder, pooling, find_device(options.device), summary)
    paths, failures = (trained_models if part else train_missing)(recipe, wanted, seeds)
    work.do(part, paths, sets, failures, start, name, label)


def evaluate(
    methods: Sequence[str],
    maps: MapOptions,
    data: str | None = None,
    generator: str = ALL,
    also: str | None = None,
    source: Source | None = None,
    layout: Spec | None = None,
    polarity: Polarity | None = None,
    pooling: Pooling | None = None,
    perturbation: Changes = "none",
    name: str | None = None,
    encoder: Spec | None = None,
    device: str | None = None,
) -> None:
    """Score finished localizers, or any other method's heat maps, on a data set's test photos.

    What is finished is reused: after an interruption, the same command goes on where it was.

    Args:
        methods: Runs' folders, checkpoints, saved folders, hub ids, starter, or folders of heat
            maps or masks (PNG, TIFF, NPY, NPZ) that are called like the photos.
        maps: How heat maps are read.
        data: The data set's folder or file, or LAYOUT:PATH; several, separated by blanks. By
            default $DECLIP_DATA, data/dolos_data, or data/mini, whichever is there first.
        generator: Whose photos: one of the data set's generators, several joined by +, all, or
            all-but-NAME.
        also: Further data sets, joined by commas.
        source: Part of Dolos: celebahq or ffhq.
        layout: How the data set is laid out, where its name does not say so; dolos by default.
        polarity: Which grey value of the true masks means fake, black or white, in place of the
            layout's.
        pooling: From a map to an image's score; by default what all models say, or else top.
        perturbation: Changes of the test photos: none, blur, jitter, jpeg, all, or a YAML file.
        name: Name of the folder in outputs/cross_eval; that of a further data set is not changed.
        encoder: Folder or hub id of the models' frozen encoder, in place of the one on record.
        device: Where it runs, such as cpu, cuda or cuda:1; by default a GPU where there is one.

    Raises:
        UserError: If there is nothing to score, or a method or cell failed; the rest is written.
    """
    start = time.monotonic()
    _check_name(name)
    _check_methods(methods, maps, perturbation)
    options = Options(data, None, source, layout, polarity, encoder=encoder, device=device)
    options, places = choose_data_sets(options, also)
    sets = read_data_sets(options, None, places, read_changes(perturbation), generator)
    work = _Work(encoder, pooling, find_device(device), scores_of_all, maps, generator)
    work.score(methods, sets, [], start, name)


def _check_name(name: str | None) -> None:
    if name:
        check_name(name, "a cross-evaluation's name")


def _check_methods(methods: Sequence[str], maps: MapOptions, perturbation: Changes) -> None:
    if not methods:
        raise UserError(
            "name what to evaluate: a run's folder, a checkpoint, a saved folder, a hub id, "
            "starter, or a folder of heat maps"
        )
    folders = [method for method in methods if is_map_folder(method)]
    if maps != MapOptions() and not folders:
        raise UserError(
            "--scores, --map_polarity, --resize and --partial are about heat maps, of which there "
            f"is no folder among {', '.join(methods)}"
        )
    if maps.scores and len(folders) > 1:
        raise UserError("--scores is of one folder of heat maps; evaluate one at a time")
    if folders and perturbation != UNPERTURBED:
        raise UserError(
            f"{folders[0]} holds heat maps of photos as they are: leave out --perturbation"
        )


@dataclass(frozen=True)
class _Work:
    """How methods are scored, and what is printed of it.

    Attributes:
        encoder: Where the user says that the models' encoder is.
        pooling: From a map to an image's score, if the user says.
        device: Where networks run.
        text: What is printed of a matrix.
        maps: How heat maps are read; None where there are none.
        generator: Which photos of the data sets.
    """

    encoder: Spec | None
    pooling: Pooling | None
    device: torch.device
    text: Callable[[Matrix], str]
    maps: MapOptions | None = None
    generator: str = ALL

    def score(
        self,
        paths: Sequence[str | Path],
        sets: Sequence[LocalizationDataModule],
        failures: list[Failure],
        start: float,
        name: str | None,
        label: str | None = None,
    ) -> None:
        """Score methods on the first data set, then on the others.

        Raises:
            UserError: If a part failed; all of them are named.
        """
        data, *others = sets
        methods, unread = self._read(paths, data)
        failures += unread
        if not methods:
            raise as_error("the cross-evaluation", failures)
        folder = choose_folder(data, label or self._label(methods), name)
        matrix = self._evaluated(methods, data, folder, failures, start)
        if others:
            show_all(folder, [matrix, *self._on_further(paths, others, failures)])
        if failures:
            raise as_error("the cross-evaluation", failures)

    def do(
        self,
        part: Part | None,
        paths: Sequence[str | Path],
        sets: Sequence[LocalizationDataModule],
        failures: list[Failure],
        start: float,
        name: str | None,
        label: str,
    ) -> None:
        """Score all models, or the one that is wanted.

        Raises:
            UserError: If a part failed; all of them are named.
        """
        if part and part.kind == "score":
            self.score_one(part.model, paths, sets, name, label)
        else:
            self.score(paths, sets, failures, start, name, label)

    def score_one(
        self,
        model: str,
        paths: Sequence[str | Path],
        sets: Sequence[LocalizationDataModule],
        name: str | None,
        label: str,
    ) -> None:
        """Score one of several models on all data sets; others may be scored meanwhile.

        Raises:
            UserError: If a part failed, or there is no such model.
        """
        failures: list[Failure] = []
        for place, data in enumerate(sets):
            methods, _ = self._read(paths, data)
            chosen = [method for method in methods if method.name == model]
            if not chosen:
                raise UserError(f"{model} can't be scored: it is not trained")
            folder = further_folder(data, methods) if place else choose_folder(data, label, name)
            way = (self.encoder, self.device)
            failures += score_all(chosen, data, folder, *way, answers=False)[1]
        if failures:
            raise as_error("the cross-evaluation", failures)

    def _read(
        self, paths: Sequence[str | Path], data: LocalizationDataModule
    ) -> tuple[list[Method], list[Failure]]:
        maps = self.maps
        read = None if maps is None else lambda folder: read_map_folder(folder, maps, data)
        return read_models(paths, data.generators, read)

    def _label(self, methods: Sequence[Method]) -> str:
        return name_of(methods) + ("" if self.generator == ALL else f"-{self.generator}")

    def _evaluated(
        self,
        methods: Sequence[Method],
        data: LocalizationDataModule,
        folder: Path,
        failures: list[Failure],
        start: float,
    ) -> Matrix:
        """Score on a data set, write and show what came out; add to the failures."""
        way = Way(self.encoder, self.pooling, self.device)
        show = partial(self._show, folder, methods)
        return evaluate_set(methods, data, folder, failures, start, way, show)

    def _show(
        self, folder: Path, methods: Sequence[Method], matrix: Matrix, warnings: Sequence[str]
    ) -> None:
        """Log the matrix, and print the summary and where everything is."""
        models = [method for method in methods if isinstance(method, Model)]
        hints = track(folder, {model.name: model.checkpoint.path for model in models})
        print(self.text(matrix))
        print(f"report: {folder / REPORT}")
        print(f"table:  {folder / TABLE}")
        for line in [*hints, *warnings]:
            print(line)

    def _on_further(
        self,
        paths: Sequence[str | Path],
        others: Sequence[LocalizationDataModule],
        failures: list[Failure],
    ) -> list[Matrix]:
        """Score on further data sets, each a cross-evaluation of its own; add to the failures."""
        known = {failure.what for failure in failures}
        readable = [path for path in paths if str(path) not in known]

        def score(data: LocalizationDataModule, own: list[Failure]) -> Matrix:
            start = time.monotonic()
            methods, unread = self._read(readable, data)
            own += unread
            if not methods:
                raise UserError("nothing was scored")
            folder = choose_folder(data, self._label(methods))
            return self._evaluated(methods, data, folder, own, start)

        matrices = []
        for data in others:
            own: list[Failure] = []
            matrix = attempt(own, "all of it", partial(score, data, own))
            failures += failures_of(f"data set {data.root.name}", own)
            matrices += [matrix] if matrix else []
        return matrices
