"""Recipes: the one reader of YAML files, which one is taken, and what a run of it is made of."""

import os
import re
import sys
from dataclasses import dataclass, fields
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.layout import SOURCES, source_root
from declip_pl.data.masks import Polarity
from declip_pl.data.mini import MINI
from declip_pl.data.transforms import Changes
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.model.description import Supervision
from declip_pl.parts import Spec
from declip_pl.training import schedules
from declip_pl.training.run_folder import CONFIG, Run, run_name
from declip_pl.training.task import LocalizationTask

DOLOS = Path("data/dolos_data")

MODEL_OPTIONS = ("encoder", "layer", "decoder", "loss", "supervision")
DATA_OPTIONS = ("layout", "polarity", "augmentation")
"""Options of commands that take the place of the recipe's, by its sections."""

DECISIVE = (*DATA_OPTIONS, "views", "batch_size")
"""Entries of the section ``data`` that decide on what is learned."""

Sections = dict[str, Any]
"""A recipe's content."""


@dataclass(frozen=True)
class Options:
    """What to train on and how: the options that training and cross-evaluation share.

    Args:
        data: The data set's folder. By default $DECLIP_DATA, data/dolos_data, or the stand-in
            data/mini, whichever is there first.
        config: Recipe (see experiments/). By default the paper's for Dolos, else the quick one.
        source: Part of Dolos: celebahq or ffhq.
        layout: How the data set's folder is laid out, in place of the recipe's.
        polarity: Which grey value of the masks means fake, black or white, in place of the
            layout's.
        augmentation: Changes of training photos, in place of the recipe's.
        encoder: Frozen encoder, in place of the recipe's; of given models, where theirs is.
        layer: Feature layer, in place of the recipe's.
        decoder: Decoder, in place of the recipe's.
        loss: Loss, in place of the recipe's.
        supervision: full (masks) or weak (image labels), in place of the recipe's.
    """

    data: str | None = None
    config: str | None = None
    source: str | None = None
    layout: Spec | None = None
    polarity: Polarity | None = None
    augmentation: Changes | None = None
    encoder: Spec | None = None
    layer: str | None = None
    decoder: Spec | None = None
    loss: Spec | None = None
    supervision: Supervision | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that take the place of the recipe's, as ``section.name``."""
        chosen = {f"model.{name}": getattr(self, name) for name in MODEL_OPTIONS}
        chosen |= {f"data.{name}": getattr(self, name) for name in DATA_OPTIONS}
        return {name: value for name, value in chosen.items() if value is not None}

    def trains(self) -> bool:
        """Whether any option is about training rather than about the data set."""
        return bool(self.config or self.augmentation or any(map(self._is_given, MODEL_OPTIONS)))

    def _is_given(self, name: str) -> bool:
        return getattr(self, name) is not None


def read_recipe(path: Path) -> Sections:
    """Read a recipe or a run's ``config.yaml``.

    Raises:
        UserError: If there is none, it is no YAML, or it holds something else.
    """
    sections = _read(path)
    if not isinstance(sections, dict):
        raise UserError(f"{path} is no recipe: expected sections such as model and data")
    return _from_first_version(sections)


def read_list(path: Path) -> list[Any]:
    """Read a list of changes of photos from a YAML file.

    Raises:
        UserError: If there is none, it is no YAML, or it holds something else.
    """
    content = _read(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list of albumentations (class_path, init_args)")
    return content


def experiments() -> Path:
    """Return the folder of the recipes that come with the package."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "experiments"  # where a wheel puts it
    return inside if inside.is_dir() else package.parents[1] / "experiments"


def choose_data(data: str | None, source: str | None = None) -> tuple[Path, str]:
    """Return the data set to use and why.

    The first of: ``data``, ``$DECLIP_DATA``, ``data/dolos_data`` if it exists, ``data/mini``.

    Args:
        data: A data set's folder, or None.
        source: Part of Dolos, or None.
    """
    named = data or os.environ.get("DECLIP_DATA")
    root, why = MINI, f"no DATA, no DECLIP_DATA and no {DOLOS}; a stand-in, not Dolos"
    if named:
        root, why = Path(named).expanduser(), "DATA names it" if data else "DECLIP_DATA names it"
    elif DOLOS.is_dir():
        root, why = DOLOS, f"{DOLOS} exists"
    return (source_root(root, source) if source else root), why


def choose_config(config: str | None, root: Path) -> tuple[Path, str]:
    """Return the recipe to use and why.

    Dolos proper (a folder of sources such as ``celebahq``) gets the paper's recipe; anything
    smaller in its layout the quick one, which also runs without a GPU.

    Args:
        config: A recipe's file, or None.
        root: The chosen data.
    """
    if config:
        return Path(config).expanduser(), "CONFIG names it"
    if root.name in SOURCES or any((root / name / "fake").is_dir() for name in SOURCES):
        return experiments() / "paper.yaml", "the paper's recipe for Dolos"
    return experiments() / "quickstart.yaml", "the quick recipe, as this is not Dolos"


@dataclass(frozen=True)
class Recipe:
    """How the models of a cross-evaluation are trained.

    Attributes:
        root: The data set.
        config: The recipe's file.
        options: What takes the place of its entries.
    """

    root: Path
    config: Path
    options: Options

    def run(self, choice: str, seed: int) -> Run:
        """Return the run that ``declip-pl train`` would make of a generator and a seed."""
        return Run(name=self._name(choice, seed))

    @property
    def kind(self) -> str:
        """A run's name without generator and seed."""
        return self._name("", 0)

    def _name(self, choice: str, seed: int) -> str:
        said = self.entries
        return run_name(
            said["model.encoder"],
            said["model.layer"],
            said["model.decoder"],
            choice,
            said["model.supervision"],
            said["data.augmentation"],
            said["model.loss"],
            seed,
        )

    def data_module(self, choice: str) -> LocalizationDataModule:
        """Return the data that a generator choice stands for."""
        layout, polarity = self.entries["data.layout"], self.entries["data.polarity"]
        return LocalizationDataModule(str(self.root), choice, layout, polarity)

    @cached_property
    def sections(self) -> Sections:
        """What the recipe's file says."""
        return read_recipe(self.config)

    @cached_property
    def entries(self) -> dict[str, Any]:
        """All that decides what is trained, as ``section.name``, with defaults."""
        found = {f"model.{name}": value for name, value in _defaults(LocalizationTask).items()}
        data = _defaults(LocalizationDataModule)
        found |= {f"data.{name}": data[name] for name in DECISIVE}
        found |= _flat(self.sections) | self.options.given()
        decisive = {*(f"data.{name}" for name in DECISIVE), "trainer.max_epochs"}
        return {k: v for k, v in found.items() if k in decisive or k.startswith("model.")}

    def check(self, folder: Path, choice: str) -> None:
        """Refuse a finished run that this recipe would not have made.

        Raises:
            UserError: If it was trained on other data or with other options.
        """
        advice = f"move that run elsewhere, or score it as it is (MODELS={folder})"
        trained_on = read_checkpoint(folder).trained_on
        if not trained_on or trained_on.files_sha256 != self.data_module(choice).fingerprint:
            raise UserError(f"{folder} was trained on other data than {self.root}; {advice}")
        theirs = read_recipe(folder / CONFIG)
        for name, there, here in self._differences(theirs):
            raise UserError(
                f"{folder} was trained by another recipe ({name} is {there}, here {here}); {advice}"
            )

    def _differences(self, theirs: Sections) -> list[tuple[str, Any, Any]]:
        said = _flat(theirs)
        pairs = [(name, said.get(name, ours), ours) for name, ours in self.entries.items()]
        ours_schedule = _schedule(self.sections.get("schedule", "PaperSchedule"))
        pairs.append(("its schedule", _schedule(theirs["schedule"]), ours_schedule))
        # Neither changes what is learned: the seed is in the run's name, and a size that is not
        # said is the encoder's own.
        same = ("model.pooling", "model.seed")
        return [
            (name, there, here)
            for name, there, here in pairs
            if there != here
            and name not in same
            and not (name == "model.image_size" and None in (there, here))
        ]

    def command(self, choice: str, seed: int) -> list[str]:
        """Return the command line that trains one model, or continues its training."""
        named = {f.name: getattr(self.options, f.name) for f in fields(Options)}
        named |= {"data": str(self.root), "config": str(self.config), "source": None}
        named |= {"generator": choice, "seed": seed}
        words = [f"--{k}={as_argument(v)}" for k, v in named.items() if v is not None]
        return [sys.executable, "-m", "declip_pl", "train", *words, "--resume"]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: plain YAML 1.1 reads ``1e-3`` as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """Return what YAML says, in a file or as an option's value: the inverse of ``as_argument``."""
    return yaml.load(text, _Loader)


def as_argument(value: Any) -> str:
    """Return an option's value as it is typed: words as they are, specs and lists as YAML."""
    if isinstance(value, (dict, list)):
        return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return str(value)


def _read(path: Path) -> Any:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; recipes are in {experiments()}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} can't be read as YAML: {reason}") from error


def _flat(sections: Sections) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for section, names in sections.items()
        if isinstance(names, dict) and section in ("model", "data", "trainer")
        for name, value in names.items()
    }


def _schedule(said: Any) -> tuple[str, dict[str, Any]]:
    """Return the class of a schedule and all its options, however little a file says of it."""
    said = {"class_path": said} if isinstance(said, str) else said
    module, _, name = said.get("class_path", "PaperSchedule").rpartition(".")
    ours = module in ("", schedules.__name__)  # a user's own class is not imported for its defaults
    defaults = _defaults(getattr(schedules, name)) if ours else {}
    return name if ours else f"{module}.{name}", defaults | (said.get("init_args") or {})


def _defaults(made: type) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in signature(made).parameters.items()}


def _from_first_version(sections: Sections) -> Sections:
    """Bring a recipe or a run's config of version 0.1 into today's words."""
    data = dict(sections["data"]) if isinstance(sections.get("data"), dict) else None
    if data is not None:
        data.pop("image_size", None)  # the encoder's
        if convention := data.pop("convention", None):
            data["polarity"] = "black" if convention == "dolos" else "white"
        if source := data.pop("source", None):
            data["root"] = str(Path(str(data.get("root", DOLOS))) / source)
        sections = {**sections, "data": data}
    schedule = sections.get("schedule")
    if isinstance(schedule, dict) and isinstance(schedule.get("class_path"), str):
        moved = schedule["class_path"].replace("declip_pl.callbacks.", f"{schedules.__name__}.")
        sections = {**sections, "schedule": {**schedule, "class_path": moved}}
    return sections
