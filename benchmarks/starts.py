"""How long the data part of a training's start takes, by how many files a data set has.

    python -m benchmarks.starts

For each number of files (a third each fakes, their masks and untouched photos, 16 x 16 px; training
sees no untouched ones, so that 73 % are read) a process of its own writes the data set, and two
others start a training on it: the files are listed, decoded by the check, hashed for the
checkpoint, and looked up in the feature cache of an encoder that does next to nothing. Nothing is
trained. The table has the seconds and CPU seconds of the first and the second start, without the
imports, and the second's peak memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from declip_pl.data import datamodule
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.layout import Split
from declip_pl.model.features import Features, FeatureShape, Preprocessing
from declip_pl.model.frozen import Encoder
from declip_pl.training.encoding import EncodePhotos

SIDE = 16
SHARES: dict[Split, float] = {"train": 0.8, "valid": 0.1, "test": 0.1}

SETTLED = 3
"""Seconds after which files are old enough to be known by their time of change."""

HEADER = """| files | first start (s) | CPU (s) | second start (s) | CPU (s) | peak memory (MiB) |
|---|---|---|---|---|---|"""


class Tiny(Encoder):
    """Features are the pixels, ``[B, 3, 2, 2]``."""

    name, layer, source, sha256 = "tiny", "layer1", "nowhere", "0"
    shape, preprocessing = FeatureShape(3, 2), Preprocessing(2, (0.0,) * 3, (1.0,) * 3)

    def __init__(self) -> None:
        super().__init__()
        self.arithmetic = {}

    def forward(self, pixels: Tensor) -> Features:
        """Return the pixels."""
        return Features(pixels, None)


def main() -> None:
    """Measure and print the table."""
    options = _options()
    if options.folder:
        steps: dict[str, Callable[[Path, int], None]] = {"write": write, "start": start}
        steps[options.step](options.folder, options.files[0])
        return
    print(HEADER)
    for files in options.files:
        with tempfile.TemporaryDirectory(prefix="starts-") as folder:
            _step("write", folder, files)
            time.sleep(SETTLED)
            first, second = (_step("start", folder, files).split() for _ in range(2))
        print(f"| {files:,} | {' | '.join([*first[:2], *second])} |", flush=True)


def write(folder: Path, files: int, shares: Mapping[Split, float] = SHARES) -> None:
    """Write a data set in Dolos' layout."""
    rng = np.random.default_rng(0)
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[:4] = 0
    for split, share in shares.items():
        parts = ("fake/a/images", "fake/a/masks", "real")
        places = [folder / "data" / part / split for part in parts]
        for place in places:
            place.mkdir(parents=True)
        for index in range(round(files * share / len(parts))):
            for place in places:
                photo = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
                pixels = mask if place.parent.name == "masks" else photo
                Image.fromarray(pixels).save(place / f"{index:06}.png", compress_level=0)


def start(folder: Path, _: int) -> None:
    """Do what a training does with its data before the first step; print what it took."""
    keep_in(folder)
    datamodule.PRELOADED_SHARE = 0  # reading masks into memory is a part of training on them
    began, before = time.perf_counter(), time.process_time()
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        data = LocalizationDataModule(str(folder / "data"), "a")
        data.prepare_data()
        encode(data)
        for said in (data.state_dict(), data.trained_on):
            assert said
    seconds, used = time.perf_counter() - began, time.process_time() - before
    peak = getrusage(RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{seconds:.1f} {used:.1f} {peak:.0f}")


def keep_in(folder: Path) -> None:
    """Have everything that is cached kept in a folder."""
    os.environ |= {"DECLIP_CACHE": str(folder), "DECLIP_FEATURES": str(folder / "features")}


def encode(data: LocalizationDataModule) -> None:
    """Have the photos of a training encoded, or looked up."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(datamodule=data, fast_dev_run=False, strategy=strategy)
    EncodePhotos().setup(trainer, SimpleNamespace(network=SimpleNamespace(encoder=Tiny())), "fit")


def _step(step: str, folder: str, files: int) -> str:
    command = [sys.executable, "-m", "benchmarks.starts", "--files", str(files)]
    command += ["--folder", folder, "--step", step]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starts", description=__doc__)
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
