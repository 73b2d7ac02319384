"""Draw what decoders find against what they cost, from one cross-evaluation of several.

    python -m benchmarks.decoders outputs/cross_eval/NAME docs/decoders.png

prints the table and draws the curve. Every model of the cross-evaluation is a point; they should
differ in nothing but the decoder.
"""

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
import yaml

from benchmarks.bench import multiply_adds
from declip_pl.decoder import build_decoder
from declip_pl.encoder import build_encoder
from declip_pl.run import CONFIG

matplotlib.use("agg")
import matplotlib.pyplot as plt


@dataclass
class Point:
    """One decoder: its multiply-adds and parameters, and IoU with its 95 % interval."""

    decoder: str
    adds: float
    parameters: int
    in_domain: dict[str, float]
    out_of_domain: dict[str, float]


def main() -> None:
    """Print the table and draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cross_evaluation", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    points = _points(json.loads((options.cross_evaluation / "matrix.json").read_text()))
    print("| decoder | multiply-adds | parameters | IoU in-domain | out-of-domain |")
    print("|---|---|---|---|---|")
    for point in points:
        scores = f"{_interval(point.in_domain)} | {_interval(point.out_of_domain)}"
        costs = f"{point.adds / 1e9:.3g} G | {point.parameters / 1e6:.3g} M"
        print(f"| `{point.decoder}` | {costs} | {scores} |")
    _draw(points, options.picture)


def _points(results: dict[str, Any]) -> list[Point]:
    points = []
    for model in results["models"]:
        options = yaml.safe_load((Path(model["checkpoint"]).parents[1] / CONFIG).read_text())
        names = options["model"]
        encoder = build_encoder(names["encoder"], names["layer"], names["image_size"])
        decoder = build_decoder(names["decoder"], encoder).eval()
        side = names["image_size"]
        row, (home,) = model["row"], model["trained_on"]
        points.append(
            Point(
                names["decoder"],
                multiply_adds(partial(decoder, encoder(torch.zeros(1, 3, side, side)))),
                sum(parameter.numel() for parameter in decoder.parameters()),
                results["matrix"]["iou"][row][home],
                results["summary"]["iou"]["by_train"][row],
            )
        )
    return sorted(points, key=lambda point: point.adds)


def _interval(score: dict[str, float]) -> str:
    return f"{score['value']:.1f} ({score['low']:.1f} to {score['high']:.1f})"


def _draw(points: list[Point], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    costs = [point.adds / 1e9 for point in points]
    for label, scores, marker in (
        ("in-domain", [point.in_domain for point in points], "o"),
        ("out-of-domain", [point.out_of_domain for point in points], "s"),
    ):
        values = [score["value"] for score in scores]
        spans = [[s["value"] - s["low"] for s in scores], [s["high"] - s["value"] for s in scores]]
        axes.errorbar(costs, values, spans, marker=marker, capsize=3, linestyle=":", label=label)
    for point, cost in zip(points, costs, strict=True):
        axes.annotate(
            point.decoder, (cost, point.in_domain["high"]), (0, 4), textcoords="offset points",
            ha="center",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0)
    axes.set_xlabel("multiply-adds of the decoder for one photo, in thousand millions")
    axes.set_ylabel("IoU in percent, 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
