"""How many photos are unlike those of a model's training, and in what.

    python -m benchmarks.unlike --model MODEL --data DIR --photos DIR DIR

The first rows are the test photos of a data set: untouched, the same recompressed, and of each
generator. Features are cached. No network is needed.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from declip_pl.data.cached_features import CachedFeatures
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.file_kinds import read_picture
from declip_pl.data.folders import walk
from declip_pl.data.images import read_photo
from declip_pl.data.layout import REAL, build_layout, samples
from declip_pl.inference.evidence import FEATURES, QUALITY, SIZE, described, differences, further
from declip_pl.model.checkpoint import Checkpoint, load_encoder, read_checkpoint
from declip_pl.model.features import Features

RECOMPRESSED = 75
"""JPEG quality of the second row: what many programs write."""

KINDS = (SIZE, QUALITY, FEATURES)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter", help="trained localizer")
    parser.add_argument("--data", type=Path, required=True, help="data set in Dolos' layout")
    parser.add_argument("--photos", type=Path, nargs="+", default=[], help="folders of photos")
    options = parser.parse_args()
    checkpoint = read_checkpoint(options.model)
    if not (checkpoint.likeness and checkpoint.trained_on and checkpoint.trained_on.photos):
        parser.error(f"of what kind the photos of {options.model}'s training were is not on record")
    print(f"training photos: {described(checkpoint.trained_on.photos)}")
    print(f"features: cut-off {checkpoint.likeness.cutoff:.3f}, by {checkpoint.likeness.photos}")
    cache = FeatureCache(load_encoder(checkpoint))
    print(f"\n| unlike them, percent | photos | {' | '.join(KINDS)} | any |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, files in _sets(options.data, options.photos, Path(folder)):
            features = cache.fetch(files, torch.device("cpu"))
            found = [_unlike(checkpoint, file, features) for file in files]
            counts = [sum(kind in one for one in found) for kind in KINDS]
            shares = [100 * count / len(files) for count in (*counts, sum(map(bool, found)))]
            cells = " | ".join(f"{share:.0f}" for share in shares)
            print(f"| {name} | {len(files)} | {cells} |", flush=True)


def _sets(data: Path, folders: list[Path], scratch: Path) -> Iterator[tuple[str, list[Path]]]:
    layout = build_layout("dolos", data)
    names = (REAL, *layout.generators())
    files = {name: [s.image for s in samples(layout, "test", name)] for name in names}
    yield "its own test photos", files[REAL]
    yield f"the same, JPEG of quality {RECOMPRESSED}", _recompressed(files.pop(REAL), scratch)
    for name, photos in files.items():
        yield f"painted by {name}", photos
    for folder in folders:
        yield str(folder), sorted(walk(folder).photos)


def _unlike(checkpoint: Checkpoint, file: Path, features: CachedFeatures) -> dict[str, str]:
    """Return in what a photo is unlike those of the training."""
    assert checkpoint.likeness and checkpoint.trained_on and checkpoint.trained_on.photos
    (distance,) = checkpoint.likeness.distances(Features(features[file].grid[None], None))
    found = differences(checkpoint.trained_on.photos, read_picture(file))
    return found | further(checkpoint.likeness, distance)


def _recompressed(files: list[Path], folder: Path) -> list[Path]:
    made = [folder / f"{number}.jpg" for number in range(len(files))]
    for source, target in zip(files, made, strict=True):
        Image.fromarray(read_photo(source)).save(target, "JPEG", quality=RECOMPRESSED)
    return made


if __name__ == "__main__":
    main()
