"""A cross-evaluation in pieces: what is left of it, as command lines, stage by stage."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

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
from declip_pl.cross_eval.folder import check_folder, further_folder
from declip_pl.cross_eval.models import planned, read_models
from declip_pl.cross_eval.scoring import unfinished
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_share import encode_share
from declip_pl.data.layout import REAL
from declip_pl.data.wanted import Wanted, distinct, evaluated
from declip_pl.errors import UserError
from declip_pl.jobs.pieces import Stage
from declip_pl.jobs.where import Local, Part, Slurm
from declip_pl.model.devices import find_device
from declip_pl.model.encoder import build_encoder
from declip_pl.training.recipe import Recipe


@dataclass(frozen=True)
class Pieces:
    """A cross-evaluation that is run in pieces.

    Attributes:
        command: The words of the command line that does it as a whole.
        recipe: Of the models.
        wanted: What they are trained on.
        seeds: Models of each.
        sets: The data sets.
        folder: Of the cross-evaluation.
    """

    command: tuple[str, ...]
    recipe: Recipe
    wanted: Sequence[str]
    seeds: int
    sets: Sequence[LocalizationDataModule]
    folder: Path

    def do(self, where: Local | Slurm | None, dry_run: bool, part: Part | None) -> None:
        """Run what is left, each piece where it is said; or say what that is; or encode a share.

        Raises:
            UserError: If a piece failed; all of them are named, with their logs.
        """
        if part:
            device = find_device(self.recipe.options.device)
            encode_part(self.recipe, self.wanted, self.sets, part, device)
            return
        if dry_run or not where:
            self._tell(where)
            return
        check_folder(self.folder, self.sets[0])
        run_stages(
            where,
            lambda: self._stages(where, *self._missing()),
            self.folder,
            "the cross-evaluation",
        )

    def _tell(self, where: Local | Slurm | None) -> None:
        """Print what is left and what it takes, measured on a few photos."""
        trainings, scorings = self._missing()
        data = self.sets[0]
        models, tests = len(self.wanted) * self.seeds, len(data.generators)
        print(
            f"plan: {models} models on {tests} test sets; {len(trainings)} are to be trained, "
            f"{len(scorings)} to be scored"
        )
        stages = self._stages(where or Local(1), trainings, scorings)
        tell(stages)
        if scorings:
            choices = [choice for choice, _ in trainings]
            counts = count(self.recipe, data, choices, len(scorings))
            device = find_device(self.recipe.options.device)
            measured = estimate.measure(estimate.of_recipe(self.recipe), data, device)
            others = sum(len(stage.pieces) for stage in stages) - len(trainings)
            print("\n".join(estimate.as_text(counts, measured, where, others)))

    def _stages(
        self,
        where: Local | Slurm,
        trainings: Sequence[tuple[str, int]],
        scorings: Sequence[str],
    ) -> list[Stage]:
        shares = shares_of(where, photos_in(self.sets[0])) if scorings else 0
        return [
            encoding(self.command, shares),
            training((self.recipe, *model) for model in trainings),
            scoring(self.command, scorings),
            report(self.command),
        ]

    def _missing(self) -> tuple[list[tuple[str, int]], list[str]]:
        """Return the models that are not trained, and the names of those that are not scored.

        Raises:
            UserError: If a finished run of the same name is of other data or another recipe.
        """
        plan = planned(self.recipe, self.wanted, self.seeds)
        missing = missing_models(self.recipe, self.wanted, self.seeds)
        folders = {self.recipe.run(*m).folder: m in missing for m in plan}
        there = [folder for folder, is_missing in folders.items() if not is_missing]
        left = {folder.name for folder, is_missing in folders.items() if is_missing}
        for place, data in enumerate(self.sets):
            methods, _ = read_models(there, data.generators)
            folder = further_folder(data, methods) if place else self.folder
            left |= {method.name for method in unfinished(methods, data, folder)}
        return missing, [folder.name for folder in folders if folder.name in left]


def encode_part(
    recipe: Recipe,
    wanted: Sequence[str],
    sets: Sequence[LocalizationDataModule],
    part: Part,
    device: torch.device,
) -> None:
    """Encode a share of all photos that models are trained and scored on.

    Args:
        recipe: Of the models.
        wanted: What they are trained on.
        sets: What they are scored on.
        part: Which share.
        device: Where the encoder runs.

    Raises:
        UserError: If a photo can't be decoded, or the disk is too small.
    """
    said = recipe.entries
    encoder = build_encoder(said["model.encoder"], said["model.layer"], said["model.image_size"])
    encoded = 0
    for place, entry in enumerate(all_wanted(recipe, wanted, sets)):
        number = (part.number - 1 + place) % part.of + 1  # short lists are not all the first's
        encoded += encode_share(
            entry.cache(encoder), entry.photos, number, part.of, device, entry.index.hashes
        )
        entry.index.save()
    print(f"encoded {encoded} photos, share {part.number} of {part.of}")


def all_wanted(
    recipe: Recipe, wanted: Sequence[str], places: Sequence[LocalizationDataModule]
) -> list[Wanted]:
    """Return what trainings, and the scoring of their models, look up in the feature cache.

    What can't be trained, or scored, for lack of photos is left out: that is said where it is done.

    Args:
        recipe: Of the models.
        wanted: What they are trained on.
        places: What they are scored on.
    """
    found: list[Wanted] = []
    for choice in wanted:
        with suppress(UserError):
            found += recipe.wanted(choice)
    for data in places:
        there = {sample.generator for sample in data.layout.samples("test")}
        names = [name for name in (*data.generators, REAL) if name in there]
        sets = [data.evaluation_set(name, "test", name) for name in names]
        found.append(evaluated(data, sets))
    return distinct(found)
