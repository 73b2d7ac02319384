"""What the whole photo finds and what tiles find, when the manipulated part gets ever smaller.

    python -m benchmarks.tiles --data DIR --model RUN

A manipulated test photo stands somewhere in a canvas of real test photos side by side; for
image-level detection it is compared with the same canvas and the untouched photo in that place.
A second table says how much is marked in untouched photos of other cameras, those of scikit-image.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import skimage
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_auroc
from tqdm import tqdm

from declip_pl import Localizer
from declip_pl.data.images import read_photo
from declip_pl.data.layout import REAL, Sample, build_layout, samples
from declip_pl.data.masks import read_mask
from declip_pl.metrics import THRESHOLD, average_precision, iou

UNTOUCHED = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "retina.jpg")

HEADER = """| canvas (px) | | IoU | pixel AP | image AUROC | seconds a photo |
|---|---|---|---|---|---|"""

UNTOUCHED_HEADER = """
| untouched photo | whole: % marked | score | tiles: % marked | score |
|---|---|---|---|---|"""


def main() -> None:
    """Measure and print the table."""
    options = _options()
    localizer = Localizer.from_pretrained(options.model)
    layout = build_layout("dolos", options.data)
    fakes = samples(layout, "test", options.generator)[: options.photos]
    reals = {sample.name: sample for sample in samples(layout, "test", REAL)}
    print(HEADER)
    for times in options.times:
        for tiles in (False, True):
            print(row(localizer, fakes, reals, times, tiles), flush=True)
    print(UNTOUCHED_HEADER)
    for name in UNTOUCHED:
        print(untouched(localizer, Path(skimage.__file__).parent / "data" / name))


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
        real, _ = compose(reals[fake.name], reals, times, seed)
        scores.append([localizer(real, tiles=tiles).score, found.score])
    labels = torch.tensor([[0, 1]] * len(fakes))
    side, way = canvas.shape[0], "tiles" if tiles else "whole"
    auroc = 100 * binary_auroc(torch.tensor(scores).flatten(), labels.flatten()).item()
    means = (np.mean(overlaps), np.mean(precisions), auroc, np.mean(seconds))
    return f"| {side} | {way} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |"


def untouched(localizer: Localizer, photo: Path) -> str:
    """Localize in a photo that nobody touched and return a row of the second table."""
    found = [localizer(photo, tiles=tiles, threshold=THRESHOLD) for tiles in (False, True)]
    height, width = found[0].mask.shape
    cells = [cell for one in found for cell in (f"{100 * one.mask.mean():.1f}", f"{one.score:.2f}")]
    return f"| {photo.stem}, {width} x {height} px | {' | '.join(cells)} |"


def compose(
    photo: Sample, reals: dict[str, Sample], times: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Put a photo into a canvas of others; ``[H, W, 3]`` and its mask ``[H, W]``."""
    rng = np.random.default_rng(seed)
    names = [name for name in reals if name != photo.name]
    around = [read_photo(reals[str(name)].image) for name in rng.choice(names, times * times)]
    # No photo begins where a tile does, but by chance.
    canvas = _grid(around, times)
    canvas = np.roll(canvas, rng.integers(canvas.shape[:2]), axis=(0, 1))
    pixels = read_photo(photo.image)
    top, left = rng.integers(np.subtract(canvas.shape[:2], pixels.shape[:2]) + 1)
    place = slice(top, top + pixels.shape[0]), slice(left, left + pixels.shape[1])
    mask = np.zeros(canvas.shape[:2], np.bool_)
    canvas[place] = pixels
    if photo.mask is not None:
        mask[place] = read_mask(photo.mask, "black")
    return canvas, mask


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
