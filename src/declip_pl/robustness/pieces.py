"""A robustness run in pieces: trainings, and the photos of each strength."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from declip_pl.cross_eval import estimate
from declip_pl.cross_eval.counts import count, photos_in
from declip_pl.cross_eval.elsewhere import (
    encoding,
    missing_models,
    report,
    run_stages,
    scoring,
    shares_of,
    tell,
    training,
)
from declip_pl.cross_eval.folder import name_of
from declip_pl.cross_eval.matrix import FILE
from declip_pl.cross_eval.methods import Method
from declip_pl.cross_eval.models import Model, read_models
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.transforms import Changes
from declip_pl.errors import UserError
from declip_pl.files import shortened
from declip_pl.jobs.pieces import Stage
from declip_pl.jobs.where import Local, Slurm
from declip_pl.model.devices import find_device
from declip_pl.robustness.robustness import ROOT
from declip_pl.training.recipe import Recipe
from declip_pl.training.run_folder import MOST


@dataclass(frozen=True)
class Step:
    """A degradation at one strength, or photos as they are.

    Attributes:
        degradation: Its name.
        value: The strength as text; empty for photos as they are.
        changes: What happens to a photo.
    """

    degradation: str
    value: str
    changes: Changes

    def __str__(self) -> str:
        """Return what it is called in messages."""
        return f"{self.degradation} {self.value}".rstrip()


@dataclass(frozen=True)
class Pieces:
    """A robustness run that is done in pieces.

    Attributes:
        command: The words of the command line that does it as a whole.
        recipe: Of the models; None where they are given.
        models: Those that are given.
        photos: The data set.
        steps: All strengths.
        name: What the user calls it.
    """

    command: tuple[str, ...]
    recipe: Recipe | None
    models: Sequence[str]
    photos: LocalizationDataModule
    steps: Sequence[Step]
    name: str | None

    def do(self, where: Local | Slurm | None, dry_run: bool, device: str | None) -> None:
        """Run what is left, each piece where it is said; or say what that is.

        Raises:
            UserError: If a piece failed; all of them are named, with their logs.
        """
        if dry_run or not where:
            self._tell(where, device)
            return
        run_stages(where, lambda: self._stages(where), self._folder(), "the robustness run")

    def _tell(self, where: Local | Slurm | None, device: str | None) -> None:
        """Print what is left and what it takes, measured on a few photos."""
        trainings, steps = self._missing()
        print(f"plan: {len(trainings)} models are to be trained, {len(steps)} strengths scored")
        stages = self._stages(where or Local(1))
        tell(stages)
        if steps:
            choices = [choice for choice, _ in trainings]
            models = len(self.models or self.photos.generators)
            times = (len(steps) * models, len(steps))
            counts = count(self.recipe, self.photos, choices, *times)
            measured = estimate.measure(self._measurable(), self.photos, find_device(device))
            others = sum(len(stage.pieces) for stage in stages) - len(trainings)
            print("\n".join(estimate.as_text(counts, measured, where, others)))

    def _measurable(self) -> estimate.Measurable:
        if self.recipe:
            return estimate.of_recipe(self.recipe)
        first = self._given()[0]
        assert isinstance(first, Model)
        return estimate.of_checkpoint(first.checkpoint)

    def _given(self) -> list[Method]:
        methods, failures = read_models(self.models, self.photos.generators)
        if failures:
            raise UserError(f"{failures[0].what}: {failures[0].why}")
        return methods

    def _folder(self) -> Path:
        return folder_of(self.photos, self.recipe, [] if self.recipe else self._given(), self.name)

    def _stages(self, where: Local | Slurm) -> list[Stage]:
        trainings, steps = self._missing()
        recipe = self.recipe
        photos = photos_in(self.photos)
        return [
            encoding(self.command, shares_of(where, photos) if recipe and trainings else 0),
            training((recipe, *model) for model in trainings if recipe),
            scoring(self.command, steps),
            report(self.command),
        ]

    def _missing(self) -> tuple[list[tuple[str, int]], list[Step]]:
        """Return the models that are not trained, and the strengths that are not scored."""
        missing = missing_models(self.recipe, self.photos.generators, 1) if self.recipe else []
        folder = self._folder()
        return missing, [
            step
            for step in self.steps
            if missing or not (folder / step.degradation / step.value / FILE).exists()
        ]


def folder_of(
    photos: LocalizationDataModule,
    recipe: Recipe | None,
    models: Sequence[Method],
    name: str | None,
) -> Path:
    """Return the folder of a robustness run.

    Args:
        photos: The data set.
        recipe: Of the models; None where they are given.
        models: Those that are given.
        name: What the user calls it.
    """
    label = recipe.kind if recipe else name_of(models)
    return ROOT / shortened(name or f"{photos.root.name}-{label}", MOST)
