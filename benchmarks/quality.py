"""How long it takes to the validation IoU that the paper's schedule reaches, on real photos.

    python -m benchmarks.quality --data DIR

For each generator the quick recipe trains, from an empty feature cache, and is timed from loading
the encoder to its last epoch. Then the same network trains by the paper's schedule, which says
what validation IoU is to be reached, and in which epoch. The published loop (the stand-in of
``benchmarks.published``) is timed for one epoch on the first generator's photos; that many epochs
are what the quick recipe is compared with.
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from benchmarks.networks import NETWORKS
from benchmarks.published import StandIn
from benchmarks.settings import Work
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.layout import build_layout
from declip_pl.model.encoder import build_encoder
from declip_pl.parts import Spec
from declip_pl.training.recipe_file import experiments, read_recipe
from declip_pl.training.schedules import OneCycle, PaperSchedule, Schedule
from declip_pl.training.task import LocalizationTask

QUICK = experiments() / "quickstart.yaml"
NETWORK = NETWORKS[-1]
"""The architecture of the quick recipe."""

HEADER = """
| generator | IoU to reach | in epoch | quick recipe | published loop (s) | declip-pl (s) | ratio |
|---|---|---|---|---|---|---|"""


class Recipe(NamedTuple):
    """How a network is trained."""

    model: dict[str, Any]
    data: dict[str, Any]
    schedule: Schedule
    epochs: int


class Training(NamedTuple):
    """The best validation IoU of a training, the epoch it was found in, and all its seconds."""

    best: float
    epoch: int
    seconds: float


def main() -> None:
    """Measure and print the table."""
    warnings.filterwarnings("ignore", module="torch.utils.data|lightning")
    options = _options()
    chosen = options.generators or build_layout("dolos", options.data).generators()
    encoder = quick(options.data, chosen[0]).model["encoder"]
    epoch = published_epoch(options.data, chosen[0], encoder)
    print(f"one epoch of the published loop, with its validation: {epoch:.0f} s", HEADER, sep="\n")
    for generator in chosen:
        with tempfile.TemporaryDirectory() as features:
            os.environ["DECLIP_FEATURES"] = features
            ours = train(quick(options.data, generator))
            goal = train(paper(options.data, generator))
        print(row(generator, goal, ours, epoch), flush=True)


def quick(data: Path, generator: str) -> Recipe:
    """Return the quick recipe."""
    said = read_recipe(QUICK)
    of_data = said["data"] | {"root": str(data), "generator": generator}
    return Recipe(said["model"], of_data, OneCycle(), said["trainer"]["max_epochs"])


def paper(data: Path, generator: str) -> Recipe:
    """Return the paper's optimiser and schedule for the same network."""
    model, of_data, *_ = quick(data, generator)
    return Recipe(
        model | {"learning_rate": 1e-3}, of_data | {"batch_size": 64}, PaperSchedule(), epochs=400
    )


def train(recipe: Recipe) -> Training:
    """Train, from where the features are cached, if they are."""
    start, scores = time.perf_counter(), _Scores()
    L.seed_everything(0, verbose=False)
    task = LocalizationTask(**recipe.model)
    trainer = L.Trainer(
        max_epochs=recipe.epochs, callbacks=[recipe.schedule, scores], logger=False,
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, LocalizationDataModule(**recipe.data))
    best = max(scores.iou)
    return Training(best, 1 + scores.iou.index(best), time.perf_counter() - start)


def published_epoch(data: Path, generator: str, encoder: Spec) -> float:
    """Return the seconds that the published loop takes to train and validate once."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    frozen = build_encoder(encoder, NETWORK.layer_name)
    work = Work(data, generator, 64, device)
    loop = StandIn(NETWORK.config, frozen, NETWORK.layer, NETWORK.decoder, work)
    start = time.perf_counter()
    loop.train_epoch()
    loop.evaluate(generator, "valid")
    return time.perf_counter() - start


def row(generator: str, goal: Training, ours: Training, epoch: float) -> str:
    """Return a row of the table; there is no ratio where the quick recipe finds less."""
    published = goal.epoch * epoch
    ratio = f"{published / ours.seconds:.0f}" if ours.best >= goal.best else "not reached"
    return (
        f"| {generator} | {goal.best:.1f} | {goal.epoch} | {ours.best:.1f} | {published:.0f} "
        f"| {ours.seconds:.0f} | {ratio} |"
    )


class _Scores(Callback):
    def __init__(self) -> None:
        self.iou: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.iou.append(float(trainer.callback_metrics["val/iou"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data in Dolos' layout")
    parser.add_argument("--generators", nargs="+", help="only these")
    return parser.parse_args()


if __name__ == "__main__":
    main()
