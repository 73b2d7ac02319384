"""How long a matrix takes from its cells, by how many photos a test set has.

    python -m benchmarks.matrix

Four models on four test sets and real photos, with simulated scores. For each number of photos a
process of its own writes the cells, another reads them and builds the matrix: all metrics, means
and kinds of fakes with their intervals. The table says how long that took, in seconds
and CPU seconds, how much memory was taken at most, and how large the cells are.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
from numpy.typing import NDArray

from declip_pl.cross_eval.build import build_matrix
from declip_pl.cross_eval.cell import (
    FACTS,
    FORMAT,
    Cell,
    CellKey,
    cell_path,
    read_cell,
    write_cell,
)
from declip_pl.cross_eval.matrix import UNPERTURBED, About, Data, Made, Matrix, ScoredSet
from declip_pl.cross_eval.measured import Curve
from declip_pl.cross_eval.models import Model
from declip_pl.data.layout import REAL
from declip_pl.metrics import CALIBRATION_BINS, Thresholds, map_metrics, untouched_metrics
from declip_pl.model.checkpoint import Checkpoint
from declip_pl.model.description import TrainedOn
from declip_pl.model.features import Identity
from declip_pl.model.network import POOLINGS

GENERATORS = ("a", "b", "c", "d")
PIXELS = 256**2
MADE = Made("", 0.0, "", "cpu", None, "", {})

HEADER = """| photos in a test set | seconds | CPU seconds | peak memory (MiB) | cells (MiB) |
|---|---|---|---|---|"""


def main() -> None:
    """Measure and print the table."""
    options = _options()
    if options.folder:
        {"write": write, "build": build}[options.step](options.folder, options.photos[0])
        return
    print(HEADER)
    for photos in options.photos:
        with tempfile.TemporaryDirectory() as folder:
            for step in ("write", "build"):
                command = [sys.executable, "-m", "benchmarks.matrix", "--photos", str(photos)]
                subprocess.run([*command, "--folder", folder, "--step", step], check=True)


def write(folder: Path, photos: int) -> None:
    """Write simulated cells."""
    rng = np.random.default_rng(0)
    names = [f"photo-{index:06}" for index in range(photos)]
    for model, test in _cells():
        write_cell(cell_path(folder, model.name, test), simulated(rng, model, test, names))


def build(folder: Path, photos: int) -> None:
    """Build the matrix from cells and print a row of the table."""
    start, before = time.perf_counter(), time.process_time()
    built(folder, photos)
    seconds, used = time.perf_counter() - start, time.process_time() - before
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 2**20
    peak = getrusage(RUSAGE_SELF).ru_maxrss / 2**10
    print(f"| {photos:,} | {seconds:.1f} | {used:.1f} | {peak:.0f} | {size:.0f} |", flush=True)


def built(folder: Path, photos: int) -> Matrix:
    """Return the matrix of written cells."""
    found = {(m.name, test): read_cell(cell_path(folder, m.name, test)) for m, test in _cells()}
    cells = {pair: cell for pair, cell in found.items() if cell}
    assert len(cells) == len(found)
    tests = {test: ScoredSet(photos, "") for test in (*GENERATORS, REAL)}
    about = About("simulated", None, UNPERTURBED, Data("", "", tests), (), MADE)
    thresholds = {model.name: _thresholds() for model in trained_models()}
    matrix = build_matrix(trained_models(), cells, thresholds, GENERATORS, "top", about)
    assert all(len(table) == len(GENERATORS) for table in matrix.matrix.values())
    return matrix


def simulated(rng: np.random.Generator, model: Model, test: str, names: list[str]) -> Cell:
    """Return a cell of random scores, all of them defined."""
    photos, is_fake = len(names), test != REAL
    entries = map_metrics(True, True) if is_fake else untouched_metrics(True)
    metrics = [entry.name for entry in entries]
    key = CellKey(FORMAT, model.sha256, "", UNPERTURBED, 0.5, tuple(metrics), 0.1)
    return Cell(
        key=key,
        model=model.name,
        seed=0,
        test=test,
        photos=names,
        thresholds=_thresholds(),
        curve=Curve([0.5], [50.0], [50.0]),
        panels={},
        seconds=0.0,
        scores={name: rng.uniform(0, 100, photos).round(4) for name in metrics},
        image_scores={name: rng.beta(2 + is_fake, 4, photos).round(6) for name in POOLINGS},
        histogram=_histogram(rng, photos, 0.1 * is_fake),
        facts=_facts(rng, photos) if is_fake else {},
    )


def _facts(rng: np.random.Generator, photos: int) -> dict[str, NDArray[np.float64]]:
    sides, regions = rng.integers(200, 3000, (2, photos)), rng.integers(1, 9, photos)
    columns = (*sides, regions)
    return {name: column.astype(np.float64) for name, column in zip(FACTS, columns, strict=True)}


def _histogram(rng: np.random.Generator, photos: int, fake: float) -> NDArray[np.float64]:
    count = rng.multinomial(PIXELS, np.full(CALIBRATION_BINS, 1 / CALIBRATION_BINS), photos)
    middles = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    return np.stack([count, (count * middles).round(3), rng.binomial(count, fake)], 1)


def _cells() -> Iterator[tuple[Model, str]]:
    return ((model, test) for model in trained_models() for test in (*GENERATORS, REAL))


def trained_models() -> list[Model]:
    """Return a model for each generator."""
    return [Model(f"model-{name}", name, _checkpoint(name)) for name in GENERATORS]


def _checkpoint(generator: str) -> Checkpoint:
    identity = Identity("simulated", "layer1", "nowhere", "")
    return Checkpoint(
        encoder="simulated",
        layer="layer1",
        decoder="linear",
        image_size=224,
        identity=identity,
        path=Path(__file__),  # its hash is asked for
        trained_on=TrainedOn((generator,), "full", ""),
    )


def _thresholds() -> Thresholds:
    return Thresholds(0.5, dict.fromkeys(POOLINGS, 0.4), 0.1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description=__doc__)
    parser.add_argument("--photos", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
