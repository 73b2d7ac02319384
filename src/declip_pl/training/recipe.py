"""Recipes: which one is taken, and what a run of it is made of."""

import os
from dataclasses import dataclass, fields, replace
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

from lightning import Trainer

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.forgeries.sources import Forgeries, as_forgeries, split_folders
from declip_pl.data.layouts.dolos import SOURCES, Source, source_root
from declip_pl.data.masks import Polarity
from declip_pl.data.mini import MINI
from declip_pl.data.place import Place, read_place
from declip_pl.data.transforms import Changes
from declip_pl.data.wanted import Wanted, evaluated, trained
from declip_pl.errors import UserError
from declip_pl.files import expanded, shortened
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.model.description import Supervision
from declip_pl.parts import Spec
from declip_pl.training import kept_epochs, schedules
from declip_pl.training.recipe_file import (
    DOLOS,
    Sections,
    command_line,
    experiments,
    read_config,
    read_recipe,
)
from declip_pl.training.run_folder import MOST, Run, run_name
from declip_pl.training.task import LocalizationTask

MODEL_OPTIONS = ("encoder", "layer", "decoder", "loss", "supervision")
DATA_OPTIONS = ("layout", "polarity", "augmentation")
"""Options of commands that take the place of the recipe's, by its sections."""
FREE = frozenset(
    [
        *("model.seed", "data.seed", "data.supervision"),  # said by other entries
        *("data.root", "data.num_workers", "data.check"),
        *("trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes"),
        *("trainer.logger", "trainer.log_every_n_steps", "trainer.enable_progress_bar"),
        *("trainer.enable_model_summary", "trainer.enable_autolog_hparams", "trainer.profiler"),
        *("trainer.benchmark", "trainer.detect_anomaly", "trainer.default_root_dir"),
        *("trainer.max_time", "trainer.num_sanity_val_steps", "trainer.model_registry"),
        *("trainer.limit_predict_batches", "trainer.fast_dev_run", "trainer.enable_checkpointing"),
    ]
)
"""Entries that decide neither on what is learned nor on how it is scored."""

Difference = tuple[str, Any, Any]
"""An entry's name, its value there and its value here."""


@dataclass(frozen=True)
class Options:
    """What to train on and how: the options that training and cross-evaluation share.

    Args:
        data: The data set's folder or file, or LAYOUT:PATH. By default $DECLIP_DATA,
            data/dolos_data, or the stand-in data/mini, whichever is there first. none trains on
            forgeries of given photos alone.
        config: Recipe (see experiments/). By default the paper's for Dolos, else the quick one.
        source: Part of Dolos: celebahq or ffhq.
        layout: How the data set is laid out, in place of the recipe's.
        polarity: Which grey value of the masks means fake, black or white, in place of the
            layout's.
        augmentation: Changes of training photos, in place of the recipe's.
        encoder: Frozen encoder, in place of the recipe's; of given models, where theirs is.
        layer: Feature layer, in place of the recipe's.
        decoder: Decoder, in place of the recipe's.
        loss: Loss, in place of the recipe's.
        supervision: full (masks) or weak (image labels), in place of the recipe's.
        forgeries: Train on forgeries of untouched photos as well: folders of photos, joined by
            commas, beside the recipe's; own for the data set's own photos alone.
        device: Where it runs, such as cpu, cuda, cuda:1 or mps; by default a GPU where there is
            one.
    """

    data: str | None = None
    config: str | None = None
    source: Source | None = None
    layout: Spec | None = None
    polarity: Polarity | None = None
    augmentation: Changes | None = None
    encoder: Spec | None = None
    layer: str | None = None
    decoder: Spec | None = None
    loss: Spec | None = None
    supervision: Supervision | None = None
    forgeries: str | None = None
    device: str | None = None

    def given(self, sections: Sections) -> dict[str, Any]:
        """Return the options that take the place of a recipe's, as ``section.name``."""
        chosen = {f"model.{name}": getattr(self, name) for name in MODEL_OPTIONS}
        chosen |= {f"data.{name}": getattr(self, name) for name in DATA_OPTIONS}
        if self.forgeries:
            said = as_forgeries((sections.get("data") or {}).get("forgeries")) or Forgeries()
            photos = list(dict.fromkeys([*said.photos, *split_folders(self.forgeries)]))
            chosen["data.forgeries"] = replace(said, photos=photos)
        return {name: value for name, value in chosen.items() if value is not None}

    def trains(self) -> bool:
        """Whether any option is about training rather than about the data set."""
        names = ("config", "augmentation", "forgeries", *MODEL_OPTIONS)
        return any(map(self._is_given, names))

    def _is_given(self, name: str) -> bool:
        return getattr(self, name) is not None


def choose_data(data: str | None, source: Source | None = None) -> tuple[Place, str]:
    """Return the data set to use and why.

    The first of: ``data``, ``$DECLIP_DATA``, ``data/dolos_data`` if it exists, ``data/mini``.

    Args:
        data: A data set's folder or file, ``LAYOUT:PATH``, ``none``, or None.
        source: Part of Dolos, or None.
    """
    named = data or os.environ.get("DECLIP_DATA")
    place, why = Place(MINI), f"no DATA, no DECLIP_DATA and no {DOLOS}; a stand-in, not Dolos"
    if named:
        place, why = read_place(named), "DATA names it" if data else "DECLIP_DATA names it"
    elif DOLOS.is_dir():
        place, why = Place(DOLOS), f"{DOLOS} exists"
    return (replace(place, root=source_root(place.root, source)) if source else place), why


def choose_config(config: str | None, root: Path) -> tuple[Path, str]:
    """Return the recipe to use and why.

    Dolos proper (a folder of sources such as ``celebahq``) gets the paper's recipe; anything
    smaller in its layout the quick one, which also runs without a GPU.

    Args:
        config: A recipe's file, or None.
        root: The chosen data.
    """
    if config:
        return Path(expanded(config)), "CONFIG names it"
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
        label: What its runs' names end with, where the recipe is one of several that they would
            not tell apart.
    """

    root: Path
    config: Path
    options: Options
    label: str = ""

    def run(self, choice: str, seed: int) -> Run:
        """Return the run that ``declip-pl train`` would make of a generator and a seed."""
        name = self._name(choice, seed)
        return Run(name=shortened(f"{name}-{self.label}", MOST) if self.label else name)

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
            said["data.forgeries"],
        )

    def data_module(self, choice: str) -> LocalizationDataModule:
        """Return the data that a generator choice stands for."""
        names = ("layout", "polarity", "forgeries", "train_photos")
        changes = ("augmentation", "views", "perturbation", "cache")
        options = {name: self.entries[f"data.{name}"] for name in (*names, *changes)}
        options |= {"supervision": self.entries["model.supervision"]}
        return LocalizationDataModule(str(self.root), choice, **options)

    def wanted(self, choice: str) -> list[Wanted]:
        """Return what a training, and the test that follows, look up in the feature cache."""
        data = self.data_module(choice)
        tested = evaluated(data, [*data.valid_sets(), *data.test_sets()])
        return [tested, *trained(data)] if data.cache else []

    @cached_property
    def sections(self) -> Sections:
        """What the recipe's file says."""
        return read_recipe(self.config)

    @cached_property
    def entries(self) -> dict[str, Any]:
        """All that decides on what is trained, as ``section.name``, with defaults."""
        return decisive(self.sections) | self.options.given(self.sections)

    def check(self, folder: Path, choice: str) -> None:
        """Refuse a finished run that this recipe would not have made.

        Raises:
            UserError: If it was trained on other data or with other options.
        """
        advice = f"move that run elsewhere, or score it as it is (declip-pl evaluate {folder})"
        trained_on, data = read_checkpoint(folder).trained_on, self.data_module(choice)
        if not trained_on or trained_on.files_sha256 != data.fingerprint:
            raise UserError(f"{folder} was trained on other data than {self.root}; {advice}")
        try:
            theirs = read_config(folder)
        except UserError as error:
            raise UserError(f"{error}, so nothing says what was trained; {advice}") from error
        # Generator and seed are in the run's name; how scores are pooled is not learned; classes of
        # Lightning's stand in the run with all their options.
        apart = {"data.generator", "seed_everything", "model.pooling"}
        apart |= {"trainer.callbacks", "trainer.plugins"}
        found = compared(decisive(theirs), self.entries)
        for name, there, here in (entry for entry in found if entry[0] not in apart):
            raise UserError(
                f"{folder} was trained by another recipe ({name} is {there}, here {here}); {advice}"
            )
        if trained_on.forgeries != data.trained_on.forgeries:  # last, as they may have to be made
            raise UserError(f"{folder} was trained on other forgeries; {advice}")

    def command(self, choice: str, seed: int) -> list[str]:
        """Return the command line that trains one model, or continues its training."""
        named = {f.name: getattr(self.options, f.name) for f in fields(Options)}
        named |= {"data": str(self.root), "config": str(self.config), "source": None}
        named |= {"generator": choice, "seed": seed}
        named |= {"name": self.run(choice, seed).name} if self.label else {}
        return [*command_line("train", named), "--resume", "--run.brief=true"]


def decisive(sections: Sections) -> dict[str, Any]:
    """Return all that decides on what is learned and how it is scored, with defaults.

    Args:
        sections: A recipe or a run's config.

    Returns:
        Values by ``section.name``; a schedule's options only where it is of this package or they
        are said.
    """
    schedule, options = _schedule(sections.get("schedule", "PaperSchedule"))
    found = {"seed_everything": sections.get("seed_everything", 0), "schedule": schedule}
    found |= {f"schedule.{name}": value for name, value in options.items()}
    defaults = {
        "model": _defaults(LocalizationTask),
        "data": _defaults(LocalizationDataModule),
        "trainer": _defaults(Trainer) | {"use_distributed_sampler": False},
        "best": {name: kept_epochs.BEST[name] for name in ("monitor", "mode")},
    }
    for section, ours in defaults.items():
        said = ours | (sections.get(section) or {})
        said = {name: said[name] for name in ours} if section == "best" else said
        found |= {f"{section}.{name}": value for name, value in said.items()}
    found["data.forgeries"] = as_forgeries(found["data.forgeries"])
    return {name: value for name, value in found.items() if name not in FREE}


def compared(theirs: dict[str, Any], ours: dict[str, Any]) -> list[Difference]:
    """Return the entries that differ, of those that both have.

    An input size that is not said is the encoder's own.
    """
    pairs = [(name, there, ours[name]) for name, there in theirs.items() if name in ours]
    return [
        (name, there, here)
        for name, there, here in pairs
        if there != here
        and str(there) != str(here)  # precision: 32 and "32" are the same
        and not (name == "model.image_size" and None in (there, here))
    ]


def _schedule(said: Any) -> tuple[str, dict[str, Any]]:
    """Return the class of a schedule and all its options, however little a file says of it."""
    said = {"class_path": said} if isinstance(said, str) else said
    module, _, name = said.get("class_path", "PaperSchedule").rpartition(".")
    ours = module in ("", schedules.__name__)  # a user's own class is not imported for its defaults
    defaults = _defaults(getattr(schedules, name)) if ours else {}
    return name if ours else f"{module}.{name}", defaults | (said.get("init_args") or {})


def _defaults(made: type) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in signature(made).parameters.items()}
