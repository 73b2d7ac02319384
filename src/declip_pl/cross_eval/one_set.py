"""Methods on one data set: scoring, and writing the matrix and all that people look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from declip_pl.cross_eval.breakdown import write_bins
from declip_pl.cross_eval.build import build_matrix
from declip_pl.cross_eval.cell import Cell
from declip_pl.cross_eval.cells import inverted_maps, polarity_warnings
from declip_pl.cross_eval.folder import check_folder
from declip_pl.cross_eval.map_folder import MapFolder
from declip_pl.cross_eval.matrix import Failure, Matrix, write_matrix
from declip_pl.cross_eval.methods import Method
from declip_pl.cross_eval.models import shared_pooling
from declip_pl.cross_eval.provenance import describe
from declip_pl.cross_eval.scoring import score_all
from declip_pl.cross_eval.views.heat_map import draw_matrix
from declip_pl.cross_eval.views.report import write_report
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.layout import REAL, left_out_line, notices
from declip_pl.model.network import Pooling
from declip_pl.parts import Spec
from declip_pl.training.run_folder import claim


@dataclass(frozen=True)
class Way:
    """How methods are scored.

    Attributes:
        encoder: Where the user says that the models' encoder is.
        pooling: From a map to an image's score; by default what all models say, or else top.
        device: Where networks run.
        features: Where features of the test photos are cached, if not where all others are.
    """

    encoder: Spec | None
    pooling: Pooling | None
    device: torch.device
    features: Path | None = None


def evaluate_set(
    methods: Sequence[Method],
    data: LocalizationDataModule,
    folder: Path,
    failures: list[Failure],
    start: float,
    way: Way,
    show: Callable[[Matrix, Sequence[str]], None],
) -> Matrix:
    """Score methods on a data set and write what came out; add to the failures.

    Args:
        methods: Trained localizers and other methods' maps.
        data: The data set.
        folder: Of the cross-evaluation.
        failures: What went wrong before.
        start: When it began, by the monotonic clock.
        way: How they are scored.
        show: Is told of the matrix and of warnings once everything is written.
    """
    with claim(folder, "cross-evaluating into"):
        before = check_folder(folder, data)
        results, failed = score_all(methods, data, folder, way.encoder, way.device, way.features)
        failures += failed
        about = describe(folder, data, results, failures, start)
        scored = (results["cells"], results["thresholds"], data.generators)
        pooled = way.pooling or shared_pooling(methods)
        matrix = build_matrix(methods, *scored, pooled, about, before, results["baselines"])
        write_matrix(folder, matrix)
        write_bins(folder, matrix)
        draw_matrix(matrix, folder / "matrix.png", folder / "matrix.pdf")
        write_report(folder)
        show(matrix, _warnings(data, methods, results["cells"]))
    return matrix


def print_warnings(_: Matrix, warnings: Sequence[str]) -> None:
    """Show nothing but the warnings."""
    for line in warnings:
        print(line)


def _warnings(
    data: LocalizationDataModule,
    methods: Sequence[Method],
    cells: dict[tuple[str, str], Cell],
) -> list[str]:
    """Return what deserves a look in the data that were scored, one line each."""
    left_out = left_out_line(data.layout, [*data.generators, REAL])
    lines = [*notices(data.layout), *([left_out] if left_out else [])]
    maps = [method.name for method in methods if isinstance(method, MapFolder)]
    inverted = (inverted_maps(cell) for (name, _), cell in cells.items() if name in maps)
    found = polarity_warnings(cells.values(), data.mask_rule)
    return found + [f"warning: {line}" for line in [*lines, *filter(None, inverted)]]
