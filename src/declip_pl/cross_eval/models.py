"""Which localizers a cross-evaluation compares, and training those that are missing."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from declip_pl.data.dolos import DolosDataModule
from declip_pl.data.layout import generators
from declip_pl.errors import UserError
from declip_pl.files import sha256
from declip_pl.run import BEST, RESULTS, Run, run_name
from declip_pl.task import LocalizationTask, read_checkpoint

LEAVE_ONE_OUT = "all-but-"


class Failure(NamedTuple):
    """A part of a cross-evaluation that went wrong while the rest went on."""

    what: str
    why: str


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
        model = {name: p.default for name, p in signature(LocalizationTask).parameters.items()}
        model |= yaml.safe_load(self.config.read_text(encoding="utf-8")).get("model", {})
        names = ("encoder", "layer", "decoder", "supervision")
        encoder, layer, decoder, supervision = (getattr(self, n) or model[n] for n in names)
        return Run(name=run_name(encoder, layer, decoder, choice, supervision, seed))

    def data_module(self, choice: str) -> DolosDataModule:
        """Return the data that a generator choice stands for."""
        options = {"convention": self.convention} if self.convention else {}
        return DolosDataModule(str(self.data), choice, self.source, **options)  # type: ignore[arg-type]

    def command(self, choice: str, seed: int) -> list[str]:
        """Return the command line that trains one model, or continues its training."""
        options = {k: v for k, v in vars(self).items() if v is not None}
        options |= {"generator": choice, "seed": seed, "resume": "true"}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        return [sys.executable, "-m", "declip_pl", "train", *arguments]


def choices(root: Path, leave_one_out: bool) -> list[str]:
    """Return what the models of a matrix are trained on: each generator, all but each."""
    names = generators(root)
    left_out = [LEAVE_ONE_OUT + name for name in names] if leave_one_out else []
    return names + left_out


def train_missing(
    recipe: Recipe, wanted: Sequence[str], seeds: int
) -> tuple[list[Path], list[Failure]]:
    """Train what is not there yet, each model in a process of its own.

    Returns:
        The finished runs' folders, and the trainings that failed.

    Raises:
        UserError: If a finished run of the same name was trained on other data.
    """
    folders, failures = [], []
    plan = [(choice, seed) for seed in range(seeds) for choice in wanted]
    for choice, seed in plan:
        run = recipe.run(choice, seed)
        if (run.folder / RESULTS).exists():
            _check_data(run.folder, recipe.data_module(choice))
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


def read_models(paths: Sequence[Path], columns: Sequence[str]) -> list[Model]:
    """Describe trained models.

    Args:
        paths: Runs' folders, or checkpoints.
        columns: The generators of the data set, which decide what a row is called.

    Raises:
        UserError: If one is no checkpoint of this package, or two have the same name.
    """
    models = [_model(path, columns) for path in paths]
    for name in (names := [model.name for model in models]):
        if names.count(name) > 1:
            raise UserError(f"two models are called {name}; rename one run's folder")
    if len({model.kind for model in models}) > 1:
        models = [
            Model(**vars(model) | {"row": f"{model.row} ({' '.join(model.kind)})"})
            for model in models
        ]
    return models


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
    trained_on = tuple(saved["DolosDataModule"]["generators"])
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


def _check_data(folder: Path, data: DolosDataModule) -> None:
    saved = read_checkpoint(folder / BEST).get("DolosDataModule", {})
    if saved.get("files_sha256") != data.fingerprint:
        raise UserError(
            f"{folder} was trained on other data than {data.root}; move that run elsewhere, or "
            f"score it as it is (MODELS={folder})"
        )


def _run(command: list[str]) -> int:
    """Run a command to its end, also through Ctrl-C, which it hears by itself."""
    child = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: PLW1509 - no threads yet
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed; two would train one model."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
