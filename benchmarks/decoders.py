"""IoU against multiply-adds: what the decoders of a cross-evaluation find, and what they cost.

    python -m benchmarks.decoders outputs/cross_eval/NAME

The cross-evaluation is one of runs that differ in their decoder alone (``declip-pl cross-eval RUN
RUN ...``) in one folder, by default ``outputs/train``. Prints a table, the cheapest decoder first,
and writes it as ``decoders.png`` beside the matrix.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch

from benchmarks.costs import multiply_adds
from declip_pl import Localizer
from declip_pl.cross_eval.estimates import Score
from declip_pl.cross_eval.matrix import (
    Matrix,
    read_matrix,
)
from declip_pl.errors import UserError
from declip_pl.training.run_folder import Run

matplotlib.use("agg")
import matplotlib.pyplot as plt

HEADER = """\
| decoder | multiply-adds a photo | parameters | IoU in-domain | IoU out-of-domain |
|---|---|---|---|---|"""


class Interval(NamedTuple):
    """An IoU in percent and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as it is written in a table."""
        return f"{self.value:.1f} ({self.low:.1f} to {self.high:.1f})"


class Decoder(NamedTuple):
    """What a decoder costs for one photo, and what it finds."""

    name: str
    multiply_adds: float
    parameters: int
    in_domain: Interval
    out_of_domain: Interval


def main() -> None:
    """Print the table and draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoders", description=__doc__)
    parser.add_argument("folder", type=Path, help="a cross-evaluation")
    parser.add_argument("--runs", type=Path, default=Run.root, help="the folder of its runs")
    arguments = parser.parse_args()
    folder = arguments.folder
    found = decoders(read_matrix(folder), arguments.runs)
    found.sort(key=lambda decoder: decoder.multiply_adds)
    print(HEADER, *map(row, found), sep="\n")
    plot(found, folder / "decoders.png")
    print(f"\n{folder / 'decoders.png'}")


def decoders(matrix: Matrix, runs: Path) -> list[Decoder]:
    """Return the decoders that a matrix is about, each trained on one generator.

    Args:
        matrix: A cross-evaluation.
        runs: Where its models' runs lie, by name.

    Raises:
        UserError: If a model was trained on several, or a score or its interval is missing.
    """
    found = []
    for model in matrix.models:
        if len(model.trained_on) != 1:
            trained_on = ", ".join(model.trained_on) or "nothing on record"
            raise UserError(f"{model.name}: expected one training generator, found {trained_on}")
        inside = _interval(matrix.score("iou", model.row, model.trained_on[0]), model.row)
        outside = _interval(matrix.summary["iou"].by_train.get(model.row), model.row)
        found.append(Decoder(model.decoder, *_cost(runs / model.name), inside, outside))
    return found


def row(decoder: Decoder) -> str:
    """Return a row of the table."""
    cost = f"{decoder.multiply_adds / 1e9:.2g} G | {decoder.parameters / 1e6:.2g} M"
    return f"| `{decoder.name}` | {cost} | {decoder.in_domain} | {decoder.out_of_domain} |"


def plot(found: Sequence[Decoder], path: Path) -> None:
    """Draw IoU against multiply-adds."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    costs = [decoder.multiply_adds / 1e9 for decoder in found]
    for label, marker, ious in (
        ("the generator it was trained on", "o", [decoder.in_domain for decoder in found]),
        ("generators it never saw", "s", [decoder.out_of_domain for decoder in found]),
    ):
        values = [iou.value for iou in ious]
        errors = [[i.value - i.low for i in ious], [i.high - i.value for i in ious]]
        axes.errorbar(costs, values, errors, fmt=marker, capsize=3, label=label)
    for decoder, cost in zip(found, costs, strict=True):
        axes.annotate(
            decoder.name, (cost, decoder.in_domain.high), (0, 4), textcoords="offset points",
            rotation=45, fontsize=9,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("multiply-adds of the decoder for one photo (G)")
    axes.set_ylabel("IoU (%)")
    axes.margins(x=0.1, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def _cost(model: Path) -> tuple[float, int]:
    """Return the multiply-adds of a localizer's decoder for one photo, and its parameters."""
    network = Localizer.from_pretrained(model, "cpu").network
    side = network.encoder.preprocessing.image_size
    features = network.encoder(torch.zeros(1, 3, side, side))
    parameters = sum(weight.numel() for weight in network.decoder.parameters())
    return multiply_adds(lambda: network.decoder(features)), parameters


def _interval(score: Score | None, row: str) -> Interval:
    if score is None or score.value is None or score.low is None or score.high is None:
        raise UserError(f"{row}: the matrix holds no IoU with an interval; repeat what failed")
    return Interval(score.value, score.low, score.high)


if __name__ == "__main__":
    main()
