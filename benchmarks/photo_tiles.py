"""Cut large photos into tiles, so that a few of them are photos enough to be forged.

The starter's training saw such tiles beside photos that are small as published. Tiles of 640 px are
taken from each photo as it is and made smaller, spread evenly over it; half of them are stored
without loss, the others as JPEG of different qualities::

    python -m benchmarks.photo_tiles FOLDER OUTPUT
"""

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from declip_pl.data.folders import walk
from declip_pl.data.images import read_photo

SIDE = 640
"""Of a tile, in px."""
TILES = {1: 6, 2: 4, 4: 2}
"""How many at most, by how many times smaller the photo is made before."""
FLAT = 6
"""Tiles whose grey values deviate by less show nothing and are left out."""


def tiles(photo: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """Yield tiles of a photo with what tells them apart."""
    for smaller, most in TILES.items():
        size = (photo.width // smaller, photo.height // smaller)
        scaled = photo.resize(size, Image.Resampling.LANCZOS) if smaller > 1 else photo
        corners = [
            (left, top)
            for top in range(0, size[1] - SIDE + 1, SIDE)
            for left in range(0, size[0] - SIDE + 1, SIDE)
        ]
        cut = [(c, scaled.crop((*c, c[0] + SIDE, c[1] + SIDE))) for c in corners]
        shown = [(c, tile) for c, tile in cut if np.asarray(tile.convert("L")).std() >= FLAT]
        for place in np.linspace(0, len(shown) - 1, min(most, len(shown))).round().astype(int):
            (left, top), tile = shown[place]
            yield f"{smaller}-{left}-{top}", tile


def main(folder: Path, output: Path) -> None:
    """Write the tiles of all photos in a folder."""
    output.mkdir(parents=True)
    numbers = count()
    for path in walk(folder).photos:
        for name, tile in tiles(Image.fromarray(read_photo(path))):
            number = next(numbers)
            file = output / f"{path.stem}-{name}"
            if number % 2:
                quality, subsampling = 80 + number % 17, number // 2 % 2 * 2
                tile.save(f"{file}.jpg", quality=quality, subsampling=subsampling)
            else:
                tile.save(f"{file}.png", compress_level=1)
    print(f"{next(numbers)} tiles in {output}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
