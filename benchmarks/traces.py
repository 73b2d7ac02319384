"""What generators leave in a photo, inside and outside the mask, and what features tell of it.

For every generator of a data set (see ``whole_photo`` and docs/why.md)::

    python -m benchmarks.traces SET OUTPUT RUN...

prints two tables and draws ``OUTPUT/heat_maps.png``, what each run finds in one photo in all its
versions.

- Energy of the photo's residual in three octaves of frequency (differences of Gaussians), inside
  and outside the mask, relative to the same pixels of the untouched photo. 1 is no trace.
- What linear probes (logistic regression, trained on training photos) tell from the mean feature
  of some patches. Of those that no mask touches: did the generator change the photo? 50 % is
  chance, and more is a trace that is everywhere. And which of the generators was it, from the
  patches inside the mask, and from those outside? One in as many as there are is chance.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from declip_pl import Localizer
from declip_pl.cross_eval.text_table import aligned
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.images import read_photo
from declip_pl.data.layout import ALL, REAL, Sample, Split
from declip_pl.data.masks import read_mask
from declip_pl.model.encoder import build_encoder
from declip_pl.panels import heat_map

OCTAVES = (0.7, 1.4, 2.8)
"""Sigmas of the Gaussians, in px; a band is the difference of two that follow each other."""
PHOTOS = 100
"""Test photos whose residuals are measured."""
INSIDE, OUTSIDE, UNTOUCHED = "inside", "outside", "untouched"
Array = NDArray[np.float32]
ENCODER = ("openai/clip-vit-base-patch16", "layer5")


def bands(photo: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return the squared residual of a photo in each octave, ``[H, W]``."""
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32)
    blurred = [cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in OCTAVES]
    levels = [grey, *blurred]
    return [(finer - coarser) ** 2 for finer, coarser in pairwise(levels)]


def energies(data: LocalizationDataModule, generator: str) -> list[float]:
    """Return the energies in each octave, inside then outside, relative to the untouched photo."""
    reals = {sample.name: sample.image for sample in data.files("test", REAL)}
    found = []
    for sample in data.files("test", generator)[:PHOTOS]:
        assert sample.mask is not None
        mask = read_mask(sample.mask, data.mask_rule)
        pairs = zip(
            bands(read_photo(sample.image)), bands(read_photo(reals[sample.name])), strict=True
        )
        ratios = [[a[part].mean() / b[part].mean() for part in (mask, ~mask)] for a, b in pairs]
        found.append(np.log(ratios))
    return list(np.exp(np.mean(found, 0)).T.ravel())


def pooled(
    data: LocalizationDataModule, cache: FeatureCache, split: Split, generator: str
) -> dict[str, Array]:
    """Return mean features ``[N, C]`` of patches inside and outside the masks.

    Under ``untouched``, those of the untouched photos over the outside patches of their fakes.
    """
    fakes = data.files(split, generator)
    reals = {sample.name: sample for sample in data.files(split, REAL)}
    photos = [*(s.image for s in fakes), *(reals[s.name].image for s in fakes)]
    features = cache.fetch(photos, torch.device("cpu"))
    found: dict[str, list[Array]] = {INSIDE: [], OUTSIDE: [], UNTOUCHED: []}
    for fake in fakes:
        grid = features[fake.image].grid.float()
        real = features[reals[fake.name].image].grid.float()
        touched = torch.from_numpy(patches(data, fake, grid.shape[-1]))
        found[INSIDE].append(grid[:, touched].mean(1).numpy())
        found[OUTSIDE].append(grid[:, ~touched].mean(1).numpy())
        found[UNTOUCHED].append(real[:, ~touched].mean(1).numpy())
    return {part: np.stack(means) for part, means in found.items()}


def patches(data: LocalizationDataModule, fake: Sample, side: int) -> NDArray[np.bool_]:
    """Return which patches a mask touches, or lies next to, ``[side, side]``."""
    assert fake.mask is not None
    mask = read_mask(fake.mask, data.mask_rule).astype(np.float32)
    touched = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) > 0
    return cv2.dilate(touched.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def probed(train: Sequence[Array], test: Sequence[Array]) -> list[float]:
    """Return how much of each class a linear probe recognises, in percent."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    labels = np.repeat(np.arange(len(train)), [len(group) for group in train])
    model.fit(np.concatenate(train), labels)
    return [100 * float((model.predict(group) == label).mean()) for label, group in enumerate(test)]


def probes(data: LocalizationDataModule) -> Iterator[list[str]]:
    """Yield the table of the probes, the head first."""
    cache, names = FeatureCache(build_encoder(*ENCODER)), data.generators
    train, test = (
        {name: pooled(data, cache, split, name) for name in names} for split in ("train", "test")
    )
    which = {
        part: probed([train[n][part] for n in names], [test[n][part] for n in names])
        for part in (INSIDE, OUTSIDE)
    }
    yield ["generator", "changed or not, outside", "which generator, inside", "outside"]
    for place, name in enumerate(names):
        pairs = ([split[name][OUTSIDE], split[name][UNTOUCHED]] for split in (train, test))
        either = float(np.mean(probed(*pairs)))
        yield [
            name,
            *(f"{found:.1f}" for found in (either, which[INSIDE][place], which[OUTSIDE][place])),
        ]


def spectra(data: LocalizationDataModule) -> Iterator[list[str]]:
    """Yield the table of the residuals' energies, the head first."""
    octaves = ["1st", "2nd", "3rd"]
    yield ["generator", *(f"{o} in" for o in octaves), *(f"{o} out" for o in octaves)]
    for generator in data.generators:
        yield [generator, *(f"{value:.2f}" for value in energies(data, generator))]


def heat_maps(data: LocalizationDataModule, runs: Sequence[str], file: Path) -> None:
    """Draw one photo in all versions (rows) with what each run finds (columns)."""
    localizers = [Localizer.from_pretrained(run) for run in runs]
    lines = []
    for generator in [*data.generators, REAL]:
        photo = read_photo(data.files("test", generator)[0].image)
        maps = [heat_map(localizer(photo).heatmap) for localizer in localizers]
        lines.append(np.concatenate([photo, *maps], axis=1))
    Image.fromarray(np.concatenate(lines)).save(file)


def main(root: str, output: Path, runs: Sequence[str]) -> None:
    """Print the tables and draw the picture."""
    data = LocalizationDataModule(root, ALL)
    for table in (spectra, probes):
        print("\n".join([*aligned(list(table(data)), left=(0,)), ""]))
    output.mkdir(parents=True, exist_ok=True)
    heat_maps(data, runs, output / "heat_maps.png")
    print(f"rows: {', '.join([*data.generators, REAL])}; columns: the photo, {', '.join(runs)}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
