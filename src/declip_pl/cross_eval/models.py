"""Which localizers a cross-evaluation compares, and training those that are missing."""

import json
import signal
import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from declip_pl import parts
from declip_pl.cross_eval.failures import attempt
from declip_pl.cross_eval.map_names import is_other_folder
from declip_pl.cross_eval.matrix import Failure
from declip_pl.cross_eval.methods import Method
from declip_pl.cross_eval.progress import Countdown
from declip_pl.cross_eval.scored_model import ChosenThresholds, ScoredModel
from declip_pl.data.layout import ALL, ALL_BUT, FORGERIES, NONE
from declip_pl.errors import UserError
from declip_pl.metrics import Thresholds
from declip_pl.model.checkpoint import Checkpoint, read_checkpoint
from declip_pl.model.network import Pooling
from declip_pl.names import check_name
from declip_pl.privacy import without_folders
from declip_pl.processes import Terminated, die_with_parent
from declip_pl.training.recipe import Recipe
from declip_pl.training.run_folder import RESULTS


@dataclass(frozen=True)
class Model:
    """A trained localizer in a matrix.

    Attributes:
        name: What it is called: its run, its folder, or its hub id as one word.
        row: What it was trained on, as the matrix calls it; models of several seeds share a row.
        checkpoint: The localizer.
    """

    name: str
    row: str
    checkpoint: Checkpoint

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The generators of its training photos; none where they are not on record."""
        trained_on = self.checkpoint.trained_on
        return tuple(sorted(trained_on.generators)) if trained_on else ()

    @property
    def seed(self) -> int:
        """Its random seed."""
        return self.checkpoint.seed

    @property
    def kind(self) -> tuple[str, ...]:
        """What matters but generators and seed: encoder, layer, decoder, labels, forgeries."""
        encoder, trained_on = self.checkpoint.identity, self.checkpoint.trained_on
        decoder = parts.short(self.checkpoint.decoder)
        further = (FORGERIES,) if trained_on and trained_on.forgeries else ()
        return (encoder.name, encoder.layer, decoder, self.checkpoint.supervision, *further)

    @property
    def sha256(self) -> str:
        """Hash of the file with its weights."""
        return self.checkpoint.sha256

    @property
    def thresholds(self) -> Thresholds | None:
        """Those in its checkpoint."""
        return self.checkpoint.thresholds

    @property
    def pooling(self) -> Pooling:
        """How its checkpoint says that a photo's score is pooled."""
        return self.checkpoint.pooling

    def in_row(self, row: str) -> Self:
        """Return the same under another row's name."""
        return replace(self, row=row)

    def described(self, chosen: ChosenThresholds) -> ScoredModel:
        """Return what a matrix says of it.

        Args:
            chosen: Its thresholds.
        """
        checkpoint = self.checkpoint
        return ScoredModel(
            name=self.name,
            row=self.row,
            trained_on=self.trained_on,
            seed=self.seed,
            encoder=checkpoint.identity.name,
            encoder_source=without_folders(checkpoint.identity.source),
            layer=checkpoint.identity.layer,
            decoder=parts.short(checkpoint.decoder),
            supervision=checkpoint.supervision,
            image_size=checkpoint.image_size,
            checkpoint=checkpoint.path.name,
            checkpoint_sha256=checkpoint.sha256,
            thresholds=chosen,
        )


def choices(names: Sequence[str], loo: bool, none: bool) -> list[str]:
    """Return what the models of a matrix are trained on.

    Args:
        names: The generators, one for each model.
        loo: Also all but each (leave one out).
        none: Also forgeries alone.
    """
    if loo and len(names) < 3:  # noqa: PLR2004
        raise UserError(f"{len(names)} generators are too few to leave one out; it takes three")
    return [*names, *(ALL_BUT + name for name in names if loo), *([NONE] if none else [])]


def planned(recipe: Recipe, wanted: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """Return the generators and the seed of each model, in the order of their training.

    Raises:
        UserError: If a finished run of the same name is of other data or another recipe.
    """
    plan = [(choice, seed) for seed in range(seeds) for choice in wanted]
    for choice, seed in plan:
        if is_trained(recipe, choice, seed):
            recipe.check(recipe.run(choice, seed).folder, choice)
    return plan


def is_trained(recipe: Recipe, choice: str, seed: int) -> bool:
    """Whether a model's run is finished."""
    return (recipe.run(choice, seed).folder / RESULTS).exists()


def trained_models(
    recipe: Recipe, wanted: Sequence[str], seeds: int
) -> tuple[list[Path], list[Failure]]:
    """Return the finished runs' folders, and as failures the models that are not trained.

    Raises:
        UserError: If a finished run of the same name is of other data or another recipe.
    """
    folders, failures = [], []
    for choice, seed in planned(recipe, wanted, seeds):
        folder = recipe.run(choice, seed).folder
        if is_trained(recipe, choice, seed):
            folders.append(folder)
        else:
            failures.append(Failure(f"training {folder.name}", "it is not finished"))
    return folders, failures


def train_missing(
    recipe: Recipe, wanted: Sequence[str], seeds: int
) -> tuple[list[Path], list[Failure]]:
    """Train what is not there yet, each model in a process of its own.

    Returns:
        The finished runs' folders, and the trainings that failed.

    Raises:
        UserError: If a finished run of the same name is of other data or another recipe.
    """
    folders, failures = [], []
    plan = planned(recipe, wanted, seeds)
    missing = [entry for entry in plan if not is_trained(recipe, *entry)]
    countdown = Countdown(len(missing))
    for choice, seed in plan:
        folder = recipe.run(choice, seed).folder
        if (choice, seed) in missing:
            print(countdown.next(f"training {folder.name}"), flush=True)
            status = _run(recipe.command(choice, seed))
            if status:
                failures.append(Failure(f"training {folder.name}", f"exit status {status}"))
                continue
        folders.append(folder)
    return folders, failures


def read_models(
    paths: Sequence[str | Path],
    columns: Sequence[str],
    read_maps: Callable[[Path], Method] | None = None,
) -> tuple[list[Method], list[Failure]]:
    """Describe trained models, and other methods by folders of their heat maps.

    Args:
        paths: What :func:`declip_pl.model.checkpoint.read_checkpoint` takes, or such folders.
        columns: The generators of the data set, which decide what a row is called.
        read_maps: Takes a folder of maps; without it there are only models.

    Returns:
        The methods, and which of the paths can't be scored.

    Raises:
        UserError: If two have the same name.
    """
    failures: list[Failure] = []

    def read(path: str | Path) -> Method:
        if read_maps and is_other_folder(path):
            return read_maps(Path(path).expanduser())
        return _model(path, columns)

    found = [attempt(failures, str(path), partial(read, path)) for path in paths]
    models: list[Method] = [model for model in found if model]
    for name in (names := [model.name for model in models]):
        if names.count(name) > 1:
            raise UserError(f"two models are called {name}; rename one of the folders")
    if len({model.kind for model in models}) > 1:
        models = [m.in_row(f"{m.row} ({' '.join(m.kind)})") for m in models]
    taken = [(model.row, model.seed) for model in models]
    # Seeds share a row; models that differ in anything else do not.
    models = [
        m.in_row(f"{m.row} ({m.name})") if taken.count((m.row, m.seed)) > 1 else m for m in models
    ]
    return models, failures


def row_name(trained_on: Sequence[str], columns: Sequence[str]) -> str:
    """Name training data: ``ldm``, ``lama+ldm``, ``all-but-ldm``, ``all`` or ``none``."""
    if tuple(trained_on) == (FORGERIES,):
        return NONE
    left_out = [name for name in columns if name not in trained_on]
    if len(trained_on) == 1 or not set(trained_on) <= set(columns):
        return "+".join(trained_on)
    if not left_out:
        return ALL
    return ALL_BUT + left_out[0] if len(left_out) == 1 else "+".join(trained_on)


def rows_of_means(trained_on: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return the rows that means are made of: those of one generator, or else all on record.

    Args:
        trained_on: Each row's generators, none where they are not on record. Forgeries are no
            generator.
    """
    known = frozenset(row for row, names in trained_on.items() if names)
    single = frozenset(
        row for row in known if len(trained_on[row]) == 1 and FORGERIES not in trained_on[row]
    )
    return single or known


def by_encoder(models: Sequence[Model]) -> list[list[Model]]:
    """Return models of one encoder, layer and input size together: they share features."""
    groups: dict[tuple[str, str, str, int], list[Model]] = defaultdict(list)
    for model in models:
        identity = model.checkpoint.identity
        arithmetic = json.dumps(identity.arithmetic, sort_keys=True)
        size = model.checkpoint.image_size
        groups[identity.sha256, identity.layer, arithmetic, size].append(model)
    return list(groups.values())


def shared_pooling(models: Sequence[Method]) -> Pooling:
    """Return the pooling that all models say, as their own tests do, or the usual one."""
    said = {model.pooling for model in models if model.pooling}
    return said.pop() if len(said) == 1 else "top"


def _model(path: str | Path, columns: Sequence[str]) -> Model:
    checkpoint = read_checkpoint(path)
    name = checkpoint.name.replace("/", "--")  # a hub id becomes the name of a folder
    check_name(name, "a model's name")
    generators = checkpoint.trained_on.generators if checkpoint.trained_on else ()
    for generator in generators:
        check_name(generator, f"a generator's name (in {path})")
    row = row_name(tuple(sorted(generators)), columns) if generators else name
    return Model(name, row, checkpoint)


def _run(command: list[str]) -> int:
    """Run a command to its end, also through Ctrl-C and SIGTERM."""
    # Two would train one model, if this one were killed and started again.
    child = subprocess.Popen(command, preexec_fn=die_with_parent)  # noqa: PLW1509 - no threads yet
    try:
        return child.wait()
    except Terminated:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(timeout=10)  # a cluster may give 30 seconds, then it kills both
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    except KeyboardInterrupt:
        try:
            child.wait(timeout=10)  # a terminal's Ctrl-C reaches it, too
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
            child.wait()
        raise
