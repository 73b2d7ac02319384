"""How many photos are unlike the training photos: as they are, and recompressed.

    python -m benchmarks.unlike --data DIR --photos DIR DIR

The training photos are a data set's untouched ones. No network is needed.
"""

import argparse
from io import BytesIO
from pathlib import Path

from PIL import Image

from declip_pl.data.file_kinds import Picture, read_picture, seen_photos
from declip_pl.data.folders import walk
from declip_pl.data.layout import REAL, build_layout, samples
from declip_pl.inference.evidence import described, differences
from declip_pl.model.description import SeenPhotos

QUALITY = 75
"""Of the second column: what many programs write."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data set in Dolos' layout")
    parser.add_argument("--photos", type=Path, nargs="+", default=[], help="folders of photos")
    options = parser.parse_args()
    layout = build_layout("dolos", options.data)
    seen = seen_photos([sample.image for sample in samples(layout, "train", REAL)])
    if seen is None:
        parser.error(f"{options.data} has no untouched training photos")
    print(f"training photos: {described(seen)}\n")
    print(f"| unlike them, percent | photos | as they are | JPEG of quality {QUALITY} |")
    print("|---|---|---|---|")
    folders = {"its own test photos": [sample.image for sample in samples(layout, "test", REAL)]}
    folders |= {str(folder): sorted(walk(folder).photos) for folder in options.photos}
    for name, files in folders.items():
        pictures = [(read_picture(file), _recompressed(file)) for file in files]
        shares = [_share(seen, column) for column in zip(*pictures, strict=True)]
        print(f"| {name} | {len(files)} | {shares[0]:.0f} | {shares[1]:.0f} |")


def _share(seen: SeenPhotos, pictures: tuple[Picture, ...]) -> float:
    return 100 * sum(bool(differences(seen, picture)) for picture in pictures) / len(pictures)


def _recompressed(file: Path) -> Picture:
    content = BytesIO()
    Image.fromarray(read_picture(file).pixels).save(content, "JPEG", quality=QUALITY)
    return read_picture(Image.open(content))


if __name__ == "__main__":
    main()
