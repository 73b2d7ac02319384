"""Make a data set to choose a recipe on: of its test photos none is any benchmark's.

Training photos are linked from a data set in Dolos' layout, as is half of the validation photos.
The "test" split is the other half: as the generator made them, and forged by operations that
training is then told to leave out (``LEFT_OUT``, for ``data.forgeries.without``). Those of
``whole`` are those of ``autoencoders``, sent through one more as a whole, as a latent generator
does with its photos::

    python -m benchmarks.left_out SET GENERATOR OUTPUT
    declip-pl ablate benchmarks/levers.yaml --data OUTPUT

What helps on operations that training never met is kept, and the benchmark's test photos are seen
once, by what was kept.
"""

import shutil
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from declip_pl.data.forgeries.autoencoders import UPSAMPLERS
from declip_pl.data.forgeries.folder import ForgeryFolder
from declip_pl.data.forgeries.forge import CONTENT
from declip_pl.data.forgeries.operations import OPERATIONS
from declip_pl.data.forgeries.sources import Forgeries
from declip_pl.data.layout import build_layout
from declip_pl.files import short_hash

AUTOENCODERS = ["autoencoder-transposed-*", "autoencoder-bilinear-*"]
LEFT_OUT = {
    "autoencoders": AUTOENCODERS,
    "filters": ["shift", "median", "sharpen", "noise"],
    "others": ["other"],
    "whole": AUTOENCODERS,
}
"""Test generators, and the operations (or places that pixels come from) they are made with."""


def options(group: str) -> Forgeries:
    """Return how a group's forgeries are made: by nothing else."""
    autoencoders = [f"autoencoder-{upsampler}-*" for upsampler in UPSAMPLERS]
    known = [*OPERATIONS.names(), *autoencoders, *(name for name in CONTENT if name != "own")]
    kept = LEFT_OUT[group] + (OPERATIONS.names() if group == "others" else [])
    without = [name for name in known if not any(fnmatch(name, pattern) for pattern in kept)]
    return Forgeries(photos=[], versions=2, seed=0, without=without)


def is_for_test(photo: Path) -> bool:
    """Whether a validation photo, or what was made of it, is tested on."""
    return int(short_hash(photo.stem), 16) % 2 == 0


def link(files: Iterable[Path], folder: Path) -> None:
    """Link files into a folder."""
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).symlink_to(file.resolve())


def link_splits(root: Path, output: Path) -> None:
    """Link a folder of splits: training photos, and validation photos in two halves."""
    kept: dict[bool, list[Path]] = {True: [], False: []}
    for file in sorted((root / "valid").iterdir()):
        kept[is_for_test(file)].append(file)
    link((root / "train").iterdir(), output / "train")
    link(kept[False], output / "valid")
    link(kept[True], output / "test")


def through_another(folder: ForgeryFolder, name: str) -> Image.Image:
    """Return a forgery as one of the autoencoders that training leaves out reproduces it."""
    models = [
        model
        for key, model in sorted(folder.autoencoders.items())
        if any(fnmatch(key, pattern) for pattern in AUTOENCODERS)
    ]
    model = models[int(name, 16) % len(models)]
    return Image.fromarray(model.apply_to(np.asarray(Image.open(folder.image(name)))))


def main(root: Path, generator: str, output: Path) -> None:
    """Write the data set."""
    for place in ("real", f"fake/{generator}/images", f"fake/{generator}/masks"):
        link_splits(root / place, output / place)
    for group in LEFT_OUT:
        folder = ForgeryFolder(build_layout("dolos", root), options(group))
        images, masks = (output / "fake" / group / kind / "test" for kind in ("images", "masks"))
        for made_in in (images, masks):
            made_in.mkdir(parents=True)
        made = [forged for forged in folder.manifest.forgeries if forged.split == "valid"]
        names = [f.name for f in made if f.about.mask_sha256 and is_for_test(Path(f.photo))]
        for name in names:
            image = images / f"{name}.png"
            if group == "whole":
                through_another(folder, name).save(image)
            else:
                shutil.copyfile(folder.image(name), image)
            mask = Image.open(folder.mask(name)).convert("L")
            ImageOps.invert(mask).save(masks / f"{name}.png")
        print(f"{group}: {len(names)} photos")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
