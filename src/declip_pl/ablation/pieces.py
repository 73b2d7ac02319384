"""An ablation in pieces: photos, trainings, and each variant's scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from declip_pl.ablation.encoding import of_several_layers
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
from declip_pl.cross_eval.matrix import FILE
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.jobs.pieces import Stage
from declip_pl.jobs.where import Local, Slurm
from declip_pl.model.devices import find_device
from declip_pl.training.recipe import Recipe


@dataclass
class Plan:
    """How a variant is answered.

    Attributes:
        variant: Its name.
        recipe: Of its models.
        choices: What they are trained on.
        runs: The folders of those that are finished.
    """

    variant: str
    recipe: Recipe
    choices: list[str]
    runs: list[Path]


@dataclass(frozen=True)
class Pieces:
    """An ablation that is done in pieces.

    Attributes:
        command: The words of the command line that does it as a whole.
        plans: Of its variants.
        photos: The data set.
        folder: Of the ablation.
        seeds: Models of each variant and training set.
    """

    command: tuple[str, ...]
    plans: Sequence[Plan]
    photos: LocalizationDataModule
    folder: Path
    seeds: int

    def do(self, where: Local | Slurm | None, dry_run: bool, device: str | None) -> None:
        """Run what is left, each piece where it is said; or say what that is.

        Raises:
            UserError: If a piece failed; all of them are named, with their logs.
        """
        if dry_run or not where:
            self._tell(where, device)
            return
        run_stages(where, lambda: self._stages(where), self.folder, "the ablation")

    def _tell(self, where: Local | Slurm | None, device: str | None) -> None:
        """Print what is left and what each variant takes, measured on a few photos."""
        print(f"plan: {len(self._unscored())} of {len(self.plans)} variants are left")
        tell(self._stages(where or Local(1)))
        for plan in self._unscored():
            choices = [choice for choice, _ in self._missing(plan)]
            scorings = self.seeds * len(plan.choices)
            counts = count(plan.recipe, self.photos, choices, scorings)
            measurable = estimate.of_recipe(plan.recipe)
            measured = estimate.measure(measurable, self.photos, find_device(device))
            print(f"variant {plan.variant}:")
            print("\n".join(estimate.as_text(counts, measured, where, others=1)))

    def _stages(self, where: Local | Slurm) -> list[Stage]:
        left = self._unscored()
        missing = [(plan.recipe, *model) for plan in left for model in self._missing(plan)]
        return [
            encoding(self.command, self._shares(where) if missing else 0),
            training(missing),
            scoring(self.command, (plan.variant for plan in left)),
            report(self.command),
        ]

    def _shares(self, where: Local | Slurm) -> int:
        """Return in how many shares photos are encoded: in one for several layers at a time."""
        if of_several_layers({plan.variant: plan.recipe for plan in self.plans}):
            return 1
        return shares_of(where, photos_in(self.photos))

    def _unscored(self) -> list[Plan]:
        """Return the variants of which a model is not trained, or that are not scored."""
        return [
            plan
            for plan in self.plans
            if self._missing(plan) or not (self.folder / plan.variant / FILE).exists()
        ]

    def _missing(self, plan: Plan) -> list[tuple[str, int]]:
        return missing_models(plan.recipe, plan.choices, self.seeds)
