"""How long an epoch, scoring and a report take, by how many photos there are.

    python -m benchmarks.growth

The rest of what grows with the photos is in `benchmarks.starts` and `benchmarks.matrix`, whose data
are taken here: tiny photos and an encoder that does next to nothing, and simulated scores. For each
number of photos and each piece of work a process of its own prepares it, and another does it. The
table has the seconds, CPU seconds and peak memory of that. Imports are not counted.

- epoch: the features and masks of the training photos come in shuffled batches, from memory where
  a training holds them there; nothing is computed of them.
- scoring: a cell of the matrix: heat maps of a linear decoder, scored by all metrics, and written.
- report: `report.html` and the tables beside it, of four models on four test sets of that many
  photos.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch

from benchmarks import matrix, starts
from declip_pl.cross_eval.cells import Cells
from declip_pl.cross_eval.heat_maps import DecodedMaps, TestSet
from declip_pl.cross_eval.matrix import write_matrix
from declip_pl.cross_eval.views.report import write_report
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.metrics import Thresholds
from declip_pl.model.decoder import LinearDecoder

CPU = torch.device("cpu")

FEW = 0.01
"""The share of photos in a split that has to be there, but isn't measured."""

HEADER = """| | photos | seconds | CPU seconds | peak memory (MiB) |
|---|---|---|---|---|"""


def main() -> None:
    """Measure and print the table."""
    options = _options()
    if options.folder:
        STEPS[options.step][options.part](options.folder, options.photos[0])
        return
    print(HEADER)
    for step in STEPS:
        for photos in options.photos:
            with tempfile.TemporaryDirectory(prefix="growth-") as folder:
                for part in range(2):
                    command = [sys.executable, "-m", "benchmarks.growth", "--photos", str(photos)]
                    command += ["--folder", folder, "--step", step, "--part", str(part)]
                    subprocess.run(command, check=True)


def write_training(folder: Path, photos: int) -> None:
    """Write training photos and encode them."""
    starts.write(folder, 3 * photos, {"train": 1, "valid": FEW, "test": FEW})
    _encoded(folder)


def read_epoch(folder: Path, photos: int) -> None:
    """Read the training photos once as an epoch does."""
    data = _encoded(folder)
    with _Measured("epoch", photos):
        seen = sum(len(batch["name"]) for batch in data.train_dataloader())
    assert seen == photos


def write_tests(folder: Path, photos: int) -> None:
    """Write test photos and encode them."""
    starts.write(folder, 3 * photos, {"train": FEW, "valid": FEW, "test": 1})
    _test_set(folder)


def score(folder: Path, photos: int) -> None:
    """Score the test photos of a generator."""
    test = _test_set(folder)
    model, maps = matrix.trained_models()[0], DecodedMaps(LinearDecoder(starts.Tiny.shape), CPU)
    with _Measured("scoring", photos):
        cell = Cells(folder / "scored").score(model, maps, test, Thresholds(0.5, {}))
    assert len(cell.photos) == photos


def write_cells(folder: Path, photos: int) -> None:
    """Write simulated cells and their matrix."""
    matrix.write(folder, photos)
    write_matrix(folder, matrix.built(folder, photos))


def report(folder: Path, photos: int) -> None:
    """Write the report of a matrix."""
    with _Measured("report", photos):
        write_report(folder)


STEPS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path, int], None]]] = {
    "epoch": (write_training, read_epoch),
    "scoring": (write_tests, score),
    "report": (write_cells, report),
}
"""What prepares a piece of work, and what does it."""


class _Measured:
    """Prints a row of the table of what is done within."""

    def __init__(self, name: str, photos: int) -> None:
        self.name, self.photos = name, photos

    def __enter__(self) -> None:
        self.began, self.before = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        seconds, used = time.perf_counter() - self.began, time.process_time() - self.before
        peak = getrusage(RUSAGE_SELF).ru_maxrss / 2**10
        row = (self.name, f"{self.photos:,}", f"{seconds:.1f}", f"{used:.1f}", f"{peak:.0f}")
        print(f"| {' | '.join(row)} |", flush=True)


def _encoded(folder: Path) -> LocalizationDataModule:
    starts.keep_in(folder)
    data = LocalizationDataModule(str(folder / "data"), "a", check=False)
    with _silence():
        data.prepare_data()
        starts.encode(data)
    return data


def _test_set(folder: Path) -> TestSet:
    starts.keep_in(folder)
    data = LocalizationDataModule(str(folder / "data"), "a", check=False)
    encoder = starts.Tiny()
    data.preprocessing = encoder.preprocessing
    test = data.evaluation_set("a", "test", "a")
    photos = [sample.image for sample in test.samples]
    with _silence():
        test.views = [FeatureCache(encoder).fetch(photos, CPU, data.index.hashes)]
    data.index.save()
    return TestSet("a", test, "")


@contextmanager
def _silence() -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--photos", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
