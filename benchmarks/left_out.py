"""Make a data set to choose a recipe on: of its test photos none is any benchmark's.

Training photos and validation photos are linked from a data set in Dolos' layout. The "test" split
holds the validation photos again: as the generator made them, and forged by operations that
training is then told to leave out (``LEFT_OUT``, for ``data.forgeries.without``)::

    python -m benchmarks.left_out SET GENERATOR OUTPUT
    declip-pl ablate levers --data OUTPUT

What helps on operations that training never met is kept, and the benchmark's test photos are seen
once, by what was kept.
"""

import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

from PIL import Image, ImageOps

from declip_pl.data.forgeries.autoencoders import UPSAMPLERS
from declip_pl.data.forgeries.folder import ForgeryFolder
from declip_pl.data.forgeries.forge import CONTENT
from declip_pl.data.forgeries.operations import OPERATIONS
from declip_pl.data.forgeries.sources import Forgeries
from declip_pl.data.layout import build_layout

LEFT_OUT = {
    "autoencoders": ["autoencoder-transposed-*", "autoencoder-bilinear-*"],
    "filters": ["shift", "median", "sharpen", "noise"],
    "others": ["other"],
}
"""Test generators, and the operations (or places that pixels come from) they are made with."""


def options(group: str) -> Forgeries:
    """Return how a group's forgeries are made: by nothing else."""
    autoencoders = [f"autoencoder-{upsampler}-*" for upsampler in UPSAMPLERS]
    known = [*OPERATIONS.names(), *autoencoders, *(name for name in CONTENT if name != "own")]
    kept = LEFT_OUT[group] + (OPERATIONS.names() if group == "others" else [])
    without = [name for name in known if not any(fnmatch(name, pattern) for pattern in kept)]
    return Forgeries(photos=[], versions=2, seed=0, without=without)


def link(source: Path, place: Path) -> None:
    """Link a folder."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(source.resolve(), target_is_directory=True)


def main(root: Path, generator: str, output: Path) -> None:
    """Write the data set."""
    for split, origin in {"train": "train", "valid": "valid", "test": "valid"}.items():
        link(root / "real" / origin, output / "real" / split)
        for kind in ("images", "masks"):
            made = output / "fake" / generator / kind / split
            link(root / "fake" / generator / kind / origin, made)
    for group in LEFT_OUT:
        folder = ForgeryFolder(build_layout("dolos", root), options(group))
        images, masks = (output / "fake" / group / kind / "test" for kind in ("images", "masks"))
        images.mkdir(parents=True), masks.mkdir(parents=True)
        samples = [s for version in folder.samples("valid") for s in version if s.mask]
        for sample in samples:
            shutil.copyfile(sample.image, images / sample.image.name)
            ImageOps.invert(Image.open(sample.mask).convert("L")).save(masks / sample.image.name)
        print(f"{group}: {len(samples)} photos")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
