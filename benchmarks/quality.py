"""How long it takes to reach the validation IoU of the paper's recipe, on real photos.

    python -m benchmarks.quality --data DIR

For each generator ``declip-pl fit`` trains twice. The quick recipe, from an empty feature cache,
is timed as a whole, from the command to its end. The paper's schedule says which validation IoU is
to be reached and in which epoch. The published loop (the stand-in of ``benchmarks.published``) is
timed for one epoch on the same photos; that many of them is what it is compared with.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.bench import NETWORKS
from benchmarks.published import StandIn
from declip_pl.data.layout import generators
from declip_pl.encoder import build_encoder
from declip_pl.experiment import EXPERIMENTS

QUICK = EXPERIMENTS / "quickstart.yaml"
PAPER = (
    "--schedule=PaperSchedule", "--model.learning_rate=1e-3", "--data.batch_size=64",
    "--trainer.max_epochs=400",
)  # fmt: skip
"""What the paper's schedule changes in the quick recipe."""

ENCODER, NETWORK = "openai/clip-vit-base-patch16", NETWORKS[-1]
"""Those of the quick recipe."""

HEADER = """
| generator | IoU to reach | in epoch | quick recipe | published loop (s) | declip-pl (s) | ratio |
|---|---|---|---|---|---|---|"""


class Training(NamedTuple):
    """The best validation IoU of a training, the epoch it was found in, and all its seconds."""

    best: float
    epoch: int
    seconds: float


def main() -> None:
    """Measure and print the table."""
    options = _options()
    chosen = options.generators or generators(options.data)
    epoch = published_epoch(options.data, chosen[0])
    print(f"one epoch of the published loop, with its validation: {epoch:.0f} s", HEADER, sep="\n")
    for generator in chosen:
        with tempfile.TemporaryDirectory() as folder:
            quick = train(options.data, generator, Path(folder) / "quick")
            paper = train(options.data, generator, Path(folder) / "paper", *PAPER)
        print(row(generator, paper, quick, epoch), flush=True)


def row(generator: str, paper: Training, quick: Training, epoch: float) -> str:
    """Return a row of the table; there is no ratio where the quick recipe finds less."""
    published = paper.epoch * epoch
    ratio = f"{published / quick.seconds:.0f}" if quick.best >= paper.best else "not reached"
    return (
        f"| {generator} | {paper.best:.1f} | {paper.epoch} | {quick.best:.1f} | {published:.0f} "
        f"| {quick.seconds:.0f} | {ratio} |"
    )


def train(data: Path, generator: str, folder: Path, *changes: str) -> Training:
    """Train by the quick recipe with some changes; all in a folder share the features beside it."""
    command = [sys.executable, "-m", "declip_pl", "fit", f"--config={QUICK}"]
    command += [f"--data.root={data}", f"--data.generator={generator}"]
    command += [f"--run.root={folder.parent}", f"--run.name={folder.name}", *changes]
    environment = os.environ | {
        "DECLIP_FEATURES": str(folder.parent / "features"),
        "WANDB_MODE": "disabled",
    }
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        scores = [float(epoch["val/iou"]) for epoch in csv.DictReader(file)]
    return Training(max(scores), 1 + scores.index(max(scores)), seconds)


def published_epoch(data: Path, generator: str) -> float:
    """Return the seconds that the published loop takes to train and validate once."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    frozen = build_encoder(ENCODER, f"layer{NETWORK.layer}")
    loop = StandIn(
        NETWORK.config,
        frozen,
        NETWORK.layer,
        NETWORK.decoder,
        data,
        generator,
        batch_size=64,
        device=device,
    )
    start = time.perf_counter()
    loop.train_epoch()
    loop.evaluate(generator, "valid")
    return time.perf_counter() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data in Dolos' layout")
    parser.add_argument("--generators", nargs="+", help="only these")
    return parser.parse_args()


if __name__ == "__main__":
    main()
