"""Make the data of "why do latent generators teach best?": one manipulation, several nuisances.

From a generator that pastes its fill into the photo, further "generators" are made whose whole
photos went through something else afterwards. Masks are the same; reals are left as they are. Made
beside the data set's own generators, which are linked. Of another generator, one that changes whole
photos, what it did inside the mask is pasted into the untouched photo::

    python -m benchmarks.whole_photo SET GENERATOR OTHER OUTPUT
    declip-pl cross-eval --data OUTPUT

If what makes a generator teach well is that its trace is everywhere, so that it tells nothing of
where, any nuisance of the whole photo would do; if it is the autoencoder, only that one does.
"""

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 95
"""Of the data set's own photos, which are JPEG at 4:4:4."""


def jpeg(photo: Image.Image) -> Image.Image:
    """Compress as JPEG of quality 75."""
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=75, subsampling=0)
    return Image.open(file).convert("RGB")


def resampled(photo: Image.Image) -> Image.Image:
    """Resize to three quarters and back, bicubically."""
    smaller = (photo.width * 3 // 4, photo.height * 3 // 4)
    return photo.resize(smaller, Image.Resampling.BICUBIC).resize(
        photo.size, Image.Resampling.BICUBIC
    )


def noisy(photo: Image.Image) -> Image.Image:
    """Add Gaussian noise of 4 levels, the same for photos of the same content."""
    pixels = np.asarray(photo, np.float32)
    rng = np.random.default_rng(int(pixels.sum()) % 2**32)
    noise = 4 * rng.standard_normal(pixels.shape, np.float32)
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


NUISANCES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": jpeg,
    "resampled": resampled,
    "noisy": noisy,
}


def write(source: Path, place: Path, change: Callable[[Path], Image.Image]) -> None:
    """Write a generator whose photos are those of another, changed; with the same masks."""
    place.mkdir()
    (place / "masks").symlink_to((source / "masks").resolve())
    for file in sorted((source / "images").rglob("*.*")):
        made = place / "images" / file.relative_to(source / "images")
        made.parent.mkdir(parents=True, exist_ok=True)
        change(file).save(made, "JPEG", quality=QUALITY, subsampling=0)
    print(f"{place.name}: made")


def changed(change: Callable[[Image.Image], Image.Image], file: Path) -> Image.Image:
    """Return a photo, changed as a whole."""
    return change(Image.open(file).convert("RGB"))


def pasted(root: Path, generator: str, file: Path) -> Image.Image:
    """Return the untouched photo with what a generator did inside the mask."""
    split = file.parent.name
    mask = root / "fake" / generator / "masks" / split / f"{file.stem}.png"
    real = Image.open(root / "real" / split / file.name).convert("RGB")
    inside = Image.open(mask).convert("L").point(lambda level: 255 * (level == 0))  # 0 is fake
    real.paste(Image.open(file).convert("RGB"), mask=inside)
    return real


def main(root: Path, generator: str, other: str, output: Path) -> None:
    """Write the data set."""
    (output / "fake").mkdir(parents=True)
    (output / "real").symlink_to((root / "real").resolve())
    for own in sorted((root / "fake").iterdir()):
        (output / "fake" / own.name).symlink_to(own.resolve())
    for name, change in NUISANCES.items():
        place = output / "fake" / f"{generator}-{name}"
        write(root / "fake" / generator, place, partial(changed, change))
    write(root / "fake" / other, output / "fake" / f"{other}-pasted", partial(pasted, root, other))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
