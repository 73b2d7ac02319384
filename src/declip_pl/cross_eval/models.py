"""Which localizers a cross-evaluation compares, and training those that are missing."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import yaml

from declip_pl.cross_eval.matrix import Failure
from declip_pl.data.datamodule import DolosDataModule
from declip_pl.data.layout import generators
from declip_pl.errors import UserError
from declip_pl.files import sha256
from declip_pl.training import callbacks
from declip_pl.training.run_folder import BEST, CONFIG, RESULTS, Run, run_name
from declip_pl.training.task import LocalizationTask, read_checkpoint

LEAVE_ONE_OUT = "all-but-"

ERRORS = (UserError, RuntimeError, OSError, ValueError)
"""What one part of a cross-evaluation may fail with while the rest goes on."""

DATA_OPTIONS = ("source", "convention", "augmentation", "views", "batch_size")
OVERRIDES = (
    *(("model", name) for name in ("encoder", "layer", "decoder", "supervision")),
    *(("data", name) for name in ("source", "convention")),
)
"""Options of ``declip-pl train`` that take the place of the recipe's."""

T = TypeVar("T")


def attempt(failures: list[Failure], what: str, work: Callable[[], T]) -> T | None:
    """Return what ``work`` returns, or note that it failed and return None."""
    try:
        return work()
    except ERRORS as error:
        failures.append(Failure(what, str(error).split("\n", 1)[0]))
        return None


@dataclass(frozen=True)
class Model:
    """A trained localizer.

    Attributes:
        name: Its run's folder.
        row: What it was trained on, as the matrix calls it; models of several seeds share a row.
        trained_on: The generators of its training photos.
        checkpoint: Its best checkpoint.
        sha256: Hash of that file.
        encoder: Identity of its frozen encoder.
        options: Options of its :class:`LocalizationTask`.
    """

    name: str
    row: str
    trained_on: tuple[str, ...]
    checkpoint: Path
    sha256: str
    encoder: dict[str, str]
    options: dict[str, Any]

    @property
    def seed(self) -> int:
        """Its random seed."""
        return int(self.options["seed"])

    @property
    def kind(self) -> tuple[str, ...]:
        """All that matters but training data and seed: encoder, layer, decoder, supervision."""
        names = ("decoder", "supervision")
        return (self.encoder["name"], self.encoder["layer"], *(self.options[n] for n in names))


@dataclass(frozen=True)
class Recipe:
    """How the models of a cross-evaluation are trained: options of ``declip-pl train``."""

    data: Path
    config: Path
    source: str | None = None
    convention: str | None = None
    encoder: str | None = None
    decoder: str | None = None
    layer: str | None = None
    supervision: str | None = None

    def run(self, choice: str, seed: int) -> Run:
        """Return the run that ``declip-pl train`` would make of a generator and a seed."""
        return Run(name=self._name(choice, seed))

    @property
    def kind(self) -> str:
        """A run's name without generator and seed."""
        return self._name("", 0)

    def _name(self, choice: str, seed: int) -> str:
        options = self.options
        names = ("encoder", "layer", "decoder", "supervision")
        encoder, layer, decoder, supervision = (options["model", name] for name in names)
        augmentation = options["data", "augmentation"]
        return run_name(encoder, layer, decoder, choice, supervision, augmentation, seed)

    def data_module(self, choice: str) -> DolosDataModule:
        """Return the data that a generator choice stands for."""
        options = self.options
        source, convention = options["data", "source"], options["data", "convention"]
        return DolosDataModule(str(self.data), choice, source, convention)

    @property
    def schedule(self) -> Any:
        """What the recipe says of the schedule."""
        sections = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        return sections.get("schedule", "PaperSchedule")

    @cached_property
    def options(self) -> dict[tuple[str, str], Any]:
        """All that decides what is trained: section and name of an option, and its value."""
        sections = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        found = {("model", name): value for name, value in _defaults(LocalizationTask).items()}
        found |= {("data", name): _defaults(DolosDataModule)[name] for name in DATA_OPTIONS}
        for section, names in sections.items():
            if isinstance(names, dict):
                found |= {(section, name): value for name, value in names.items()}
        found |= {
            (section, name): getattr(self, name)
            for section, name in OVERRIDES
            if getattr(self, name) is not None
        }
        decisive = {("data", name) for name in DATA_OPTIONS} | {("trainer", "max_epochs")}
        return {key: value for key, value in found.items() if key in decisive or key[0] == "model"}

    def check(self, folder: Path, choice: str) -> None:
        """Refuse a finished run that this recipe would not have made.

        Raises:
            UserError: If it was trained on other data or with other options.
        """
        advice = f"move that run elsewhere, or score it as it is (MODELS={folder})"
        saved = read_checkpoint(folder / BEST).get("DolosDataModule", {})
        data = self.data_module(choice)
        if saved.get("files_sha256") != data.fingerprint:
            raise UserError(f"{folder} was trained on other data than {data.root}; {advice}")
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        theirs_schedule = _schedule(config["schedule"])
        if theirs_schedule != (ours_schedule := _schedule(self.schedule)):
            raise UserError(
                f"{folder} was trained by another recipe (its schedule is {theirs_schedule}, here "
                f"{ours_schedule}); {advice}"
            )
        for (section, name), ours in self.options.items():
            theirs = config.get(section, {}).get(name, ours)
            # Neither changes what is learned; the seed is in the run's name.
            if theirs != ours and name not in ("pooling", "seed"):
                raise UserError(
                    f"{folder} was trained by another recipe ({section}.{name} is {theirs}, here "
                    f"{ours}); {advice}"
                )

    def command(self, choice: str, seed: int) -> list[str]:
        """Return the command line that trains one model, or continues its training."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        options = {name: value for name, value in named.items() if value is not None}
        options |= {"generator": choice, "seed": seed, "resume": "true"}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        return [sys.executable, "-m", "declip_pl", "train", *arguments]


def _schedule(said: Any) -> tuple[str, dict[str, Any]]:
    """Return the class of a schedule and all its options, however little a file says of it."""
    said = {"class_path": said} if isinstance(said, str) else said
    module, _, name = said.get("class_path", "PaperSchedule").rpartition(".")
    ours = module in ("", callbacks.__name__)  # a user's own class is not imported for its defaults
    defaults = _defaults(getattr(callbacks, name)) if ours else {}
    return name if ours else f"{module}.{name}", defaults | said.get("init_args", {})


def choices(root: Path, leave_one_out: bool) -> list[str]:
    """Return what the models of a matrix are trained on: each generator, all but each."""
    names = generators(root)
    if leave_one_out and len(names) < 3:  # noqa: PLR2004
        raise UserError(f"{root} has {len(names)} generators; leaving one out takes three or more")
    left_out = [LEAVE_ONE_OUT + name for name in names] if leave_one_out else []
    return names + left_out


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
    plan = [(choice, seed) for seed in range(seeds) for choice in wanted]
    for choice, seed in plan:
        run = recipe.run(choice, seed)
        if (run.folder / RESULTS).exists():
            recipe.check(run.folder, choice)
    for choice, seed in plan:
        folder = recipe.run(choice, seed).folder
        if not (folder / RESULTS).exists():
            print(f"training {folder.name}", flush=True)
            status = _run(recipe.command(choice, seed))
            if status:
                failures.append(Failure(f"training {folder.name}", f"exit status {status}"))
                continue
        folders.append(folder)
    return folders, failures


def read_models(paths: Sequence[Path], columns: Sequence[str]) -> tuple[list[Model], list[Failure]]:
    """Describe trained models.

    Args:
        paths: Runs' folders, or checkpoints.
        columns: The generators of the data set, which decide what a row is called.

    Returns:
        The models, and which files are no checkpoints of this package.

    Raises:
        UserError: If two have the same name.
    """
    failures: list[Failure] = []
    read = [attempt(failures, str(path), partial(_model, path, columns)) for path in paths]
    models = [model for model in read if model]
    for name in (names := [model.name for model in models]):
        if names.count(name) > 1:
            raise UserError(f"two models are called {name}; rename one run's folder")
    if len({model.kind for model in models}) > 1:
        models = [replace(m, row=f"{m.row} ({' '.join(m.kind)})") for m in models]
    taken = [(model.row, model.seed) for model in models]
    # Seeds share a row; models that differ in anything else do not.
    models = [
        replace(m, row=f"{m.row} ({m.name})") if taken.count((m.row, m.seed)) > 1 else m
        for m in models
    ]
    return models, failures


def row_name(trained_on: Sequence[str], columns: Sequence[str]) -> str:
    """Name training data: ``ldm``, ``lama+ldm``, ``all-but-ldm`` or ``all``."""
    left_out = [name for name in columns if name not in trained_on]
    if len(trained_on) == 1 or not set(trained_on) <= set(columns):
        return "+".join(trained_on)
    if not left_out:
        return "all"
    return LEAVE_ONE_OUT + left_out[0] if len(left_out) == 1 else "+".join(trained_on)


def _model(path: Path, columns: Sequence[str]) -> Model:
    checkpoint = path / BEST if path.is_dir() else path
    saved = read_checkpoint(checkpoint)
    if "DolosDataModule" not in saved:
        raise UserError(f"{checkpoint} does not tell what it was trained on")
    trained_on = tuple(sorted(saved["DolosDataModule"]["generators"]))
    in_run = checkpoint.parent.name == "checkpoints"
    return Model(
        name=checkpoint.absolute().parent.parent.name if in_run else checkpoint.stem,
        row=row_name(trained_on, columns),
        trained_on=trained_on,
        checkpoint=checkpoint.absolute(),
        sha256=sha256(checkpoint),
        encoder=saved["encoder"],
        options=dict(saved["hyper_parameters"]),
    )


def _defaults(made: type) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in signature(made).parameters.items()}


def _run(command: list[str]) -> int:
    """Run a command to its end, also through Ctrl-C."""
    child = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: PLW1509 - no threads yet
    try:
        return child.wait()
    except KeyboardInterrupt:
        try:
            child.wait(timeout=10)  # a terminal's Ctrl-C reaches it, too
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
            child.wait()
        raise


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed; two would train one model."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
