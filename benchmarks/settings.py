"""What both sides of the benchmark run on: the photos, the device, the clock."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from declip_pl.data.layout import SPLITS

GENERATORS = ("a", "b", "c", "d")
MODELS = len(GENERATORS)
"""Models of a cross-evaluation, one for each generator."""

MAPS = 64
"""Maps of one evaluation batch, 256 x 256 px."""


@dataclass(frozen=True)
class Work:
    """What a side trains on.

    Attributes:
        root: Data in Dolos' layout.
        generator: Whose photos.
        batch_size: Photos in a batch.
        device: Where it runs.
    """

    root: Path
    generator: str
    batch_size: int
    device: torch.device


@dataclass(frozen=True)
class Settings:
    """What the benchmark was asked for.

    Attributes:
        photos: Photos in each split.
        root: The photos.
        temporary: Where encoders, checkpoints and features go.
        device: Where both sides run.
        reference: A checkout of the public implementation, or None.
    """

    photos: int
    root: Path
    temporary: Path
    device: torch.device
    reference: Path | None

    @property
    def work(self) -> Work:
        """What both sides train on."""
        return Work(self.root, GENERATORS[0], max(1, min(64, self.photos // 2)), self.device)

    @property
    def test_photos(self) -> list[Path]:
        """The test photos of one generator."""
        return sorted((self.root / "fake" / GENERATORS[0] / "images" / "test").iterdir())

    def maps(self) -> tuple[Tensor, Tensor]:
        """Return random probabilities ``[MAPS, 256, 256]`` and masks with a box."""
        heat = torch.rand(MAPS, 256, 256, device=self.device)
        masks = torch.zeros(MAPS, 256, 256, dtype=torch.bool, device=self.device)
        masks[:, 60:160, 60:120] = True
        return heat, masks

    def times(self, work: Callable[[], object], repeats: int = 1) -> list[float]:
        """Return the seconds of each run."""
        return times(work, self.device, repeats)


def times(work: Callable[[], object], device: torch.device, repeats: int = 1) -> list[float]:
    """Return the seconds of each run, with all that it has given a GPU to do."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds


def write_photos(root: Path, count: int) -> Path:
    """Write noise with a box as its mask; one photo suffices for validation, which is not timed."""
    rng = np.random.default_rng(0)
    mask = np.full((256, 256), 255, np.uint8)
    mask[60:160, 60:120] = 0
    for generator, split in itertools.product(GENERATORS, SPLITS):
        folders = [root / "fake" / generator / kind / split for kind in ("images", "masks")]
        for folder in folders:
            folder.mkdir(parents=True)
        for index in range(1 if split == "valid" else count):
            pixels = rng.integers(0, 255, (256, 256, 3), np.uint8)
            for folder, array in zip(folders, (pixels, mask), strict=True):
                Image.fromarray(array).save(folder / f"{index:05}.png")
    return root
