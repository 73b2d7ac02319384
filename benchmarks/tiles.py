"""What the whole photo finds and what tiles find, when the manipulated part gets ever smaller.

    python -m benchmarks.tiles --data DIR --model RUN

A manipulated test photo stands somewhere in a canvas of real test photos side by side; its twin for
image-level detection is the same canvas with the untouched photo in that place.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_auroc
from tqdm import tqdm

from declip_pl import Localizer
from declip_pl.data.layout import FAKE_VALUE, REAL, Sample, read_image, read_mask, samples
from declip_pl.metrics import average_precision, iou

HEADER = """| canvas (px) | | IoU | pixel AP | image AUROC | seconds a photo |
|---|---|---|---|---|---|"""


def main() -> None:
    """Measure and print the table."""
    options = _options()
    localizer = Localizer.from_pretrained(options.model)
    fakes = samples(options.data, options.generator, "test")[: options.photos]
    reals = {sample.name: sample for sample in samples(options.data, REAL, "test")}
    print(HEADER)
    for times in options.times:
        for tiles in (False, True):
            print(row(localizer, fakes, reals, times, tiles), flush=True)


def row(
    localizer: Localizer, fakes: list[Sample], reals: dict[str, Sample], times: int, tiles: bool
) -> str:
    """Localize in canvases of ``times`` x ``times`` photos and return a row of the table."""
    overlaps, precisions, scores, seconds = [], [], [], []
    for seed, fake in enumerate(tqdm(fakes, leave=False)):
        canvas, mask = compose(fake, reals, times, seed)
        start = time.perf_counter()
        found = localizer(canvas, tiles=tiles)
        seconds.append(time.perf_counter() - start)
        heatmap, truth = torch.from_numpy(found.heatmap)[None], torch.from_numpy(mask)[None]
        overlaps.append(iou(heatmap, truth).item())
        precisions.append(average_precision(heatmap, truth).item())
        twin, _ = compose(reals[fake.name], reals, times, seed)
        scores.append([localizer(twin, tiles=tiles).score, found.score])
    labels = torch.tensor([[0, 1]] * len(fakes))
    side, way = canvas.shape[0], "tiles" if tiles else "whole"
    auroc = 100 * binary_auroc(torch.tensor(scores).flatten(), labels.flatten()).item()
    means = (np.mean(overlaps), np.mean(precisions), auroc, np.mean(seconds))
    return f"| {side} | {way} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |"


def compose(
    photo: Sample, reals: dict[str, Sample], times: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Put a photo into a canvas of others; ``[H, W, 3]`` and its mask ``[H, W]``."""
    rng = np.random.default_rng(seed)
    names = [name for name in reals if name != photo.name]
    around = [reals[str(name)] for name in rng.choice(names, times * times)]
    around[rng.integers(times * times)] = photo
    pixels = [read_image(sample.image) for sample in around]
    masks = [_mask(sample, image) for sample, image in zip(around, pixels, strict=True)]
    return _grid(pixels, times), _grid(masks, times) > 0


def _mask(sample: Sample, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if sample.mask is None:
        return np.zeros(image.shape[:2], np.uint8)
    return read_mask(sample.mask, FAKE_VALUE["dolos"])


def _grid(parts: list[NDArray[np.uint8]], times: int) -> NDArray[np.uint8]:
    lines = [np.concatenate(parts[i : i + times], axis=1) for i in range(0, len(parts), times)]
    return np.concatenate(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiles", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data in Dolos' layout")
    parser.add_argument("--model", required=True, help="a localizer")
    parser.add_argument("--generator", default="migan", help="whose test photos")
    parser.add_argument("--photos", type=int, default=16, help="how many of them")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4, 8], help="canvas sides")
    return parser.parse_args()


if __name__ == "__main__":
    main()
