"""Where generators lie in the encoder's feature space.

For each test photo: the mean feature of the patches inside the true region, less that of the
patches outside; and the same of the untouched photo, in the same region. What a generator adds is
the difference of the two::

    python -m benchmarks.feature_space DATA OUTPUT.png CROSS_EVALUATION

prints how long that is on average (channels in standard deviations of untouched photos), the
cosines between generators, and how far what one generator adds reaches along another's, as a share
of the latter's own length; with the rank correlation between these shares and the IoU of the
other's model on the one, out of domain. It draws the photos on the plane of the two generators that
differ most.
"""

import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.traces import ENCODER
from declip_pl.cross_eval.matrix import read_matrix
from declip_pl.cross_eval.text_table import aligned
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.layout import ALL, REAL, Sample
from declip_pl.data.masks import read_mask
from declip_pl.model.encoder import build_encoder

Array = NDArray[np.float64]


def contrasts(
    data: LocalizationDataModule, cache: FeatureCache, generator: str
) -> tuple[Array, Array]:
    """Return what lies inside regions less what lies outside, ``[N, C]``: of fakes, of untouched.

    Photos whose region covers no whole patch are left out.
    """
    reals = {sample.name: sample for sample in data.files("test", REAL)}
    fakes = data.files("test", generator)
    photos = [*(s.image for s in fakes), *(reals[s.name].image for s in fakes)]
    features = cache.fetch(photos, torch.device("cpu"))
    pairs = []
    for fake in fakes:
        grids = [
            features[photo].grid.double().numpy() for photo in (fake.image, reals[fake.name].image)
        ]
        inside, outside = parts(data, fake, grids[0].shape[-1])
        if inside.any():
            pairs.append([grid[:, inside].mean(1) - grid[:, outside].mean(1) for grid in grids])
    fake, real = np.stack(pairs, axis=1)
    return fake, real


def parts(
    data: LocalizationDataModule, fake: Sample, side: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which patches are wholly fake, and which have no fake pixel, ``[side, side]`` each."""
    assert fake.mask is not None
    mask = read_mask(fake.mask, data.mask_rule).astype(np.float32)
    share = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
    return np.isclose(share, 1), share == 0


def tables(added: dict[str, Array]) -> Iterator[list[list[str]]]:
    """Yield the table of lengths and cosines, and that of shares; heads first."""
    head = [["", "length", *added]]
    yield head + [
        [name, f"{np.linalg.norm(mean):.1f}"]
        + [f"{cosine(mean, other):.2f}" for other in added.values()]
        for name, mean in added.items()
    ]
    yield [["along", *added]] + [
        [name, *(f"{share(added, name, other):.2f}" for other in added)] for name in added
    ]


def cosine(one: Array, other: Array) -> float:
    """Return the cosine between two directions, ``[C]`` each."""
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def share(added: dict[str, Array], train: str, test: str) -> float:
    """Return how far what ``test`` adds reaches along what ``train`` adds, 1 as far as its own."""
    return float(added[test] @ added[train] / (added[train] @ added[train]))


def agreement(added: dict[str, Array], folder: Path) -> float:
    """Return Spearman's correlation of shares and IoU over the cells out of domain."""
    iou = read_matrix(folder).matrix["iou"]
    cells = [(train, test) for train in added for test in added if train != test]
    pairs = [(share(added, *cell), iou[cell[0]][cell[1]].value) for cell in cells]
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def draw(groups: dict[str, Array], added: dict[str, Array], file: Path) -> None:
    """Draw groups of ``[N, C]`` on the plane of the two generators that differ most."""
    names = list(added)
    first, second = min(
        combinations(names, 2), key=lambda pair: cosine(added[pair[0]], added[pair[1]])
    )
    x = added[first] / np.linalg.norm(added[first])
    y = added[second] - added[second] @ x * x
    y /= np.linalg.norm(y)
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for name, points in groups.items():
        axes.scatter(points @ x, points @ y, s=6, alpha=0.6, label=name)
    axes.set(xlabel=f"along what {first} adds", ylabel=f"the rest of what {second} adds")
    axes.legend(markerscale=2)
    figure.savefig(file, dpi=110)


def main(root: str, file: Path, folder: Path) -> None:
    """Print the tables and draw the picture."""
    data = LocalizationDataModule(root, ALL)
    cache = FeatureCache(build_encoder(*ENCODER))
    found = {name: contrasts(data, cache, name) for name in data.generators}
    untouched = next(iter(found.values()))[1]
    spread = untouched.std(0)
    added = {name: (fake - real).mean(0) / spread for name, (fake, real) in found.items()}
    for table in tables(added):
        print("\n".join([*aligned(table, left=(0,)), ""]))
    print(f"rank correlation with IoU out of domain: {agreement(added, folder):.2f}")
    groups = {"untouched": untouched} | {name: fake for name, (fake, _) in found.items()}
    draw({name: group / spread for name, group in groups.items()}, added, file)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
