"""``mini``: a small stand-in for Dolos, made from photos that the scikit-image wheel contains.

Every crop, mask and fill follows from the position of its image alone, so that a rebuild gives
the same bytes with any number of workers.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image
from tqdm import tqdm

from declip_pl.data.folders import walk
from declip_pl.data.inpainting.fills import (
    Autoencoder,
    Fill,
    Hole,
    Pixels,
    fit_autoencoder,
    lama,
    ldm,
    pluralistic,
    repaint,
)
from declip_pl.errors import UserError
from declip_pl.files import sha256, work_folder, write_text

MINI = Path("data/mini")
"""Where commands build it."""

RECIPE = 1  # raise it with any change to the pixels: an older mini is then not taken for this one
SIZE = 256  # px, a side of every image
COUNTS = {"train": 240, "valid": 60, "test": 100}
# Image i of a split is cut from photo i modulo the length. No source is in two splits; the
# motorcycles are a stereo pair. Repeats balance how much there is to see in a photo.
PHOTOS = {
    "train": (
        *("motorcycle_left.png", "coffee.png", "ihc.png", "retina.jpg"),
        *("motorcycle_right.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png"),
        *("motorcycle_left.png", "coffee.png", "motorcycle_right.png", "retina.jpg"),
    ),
    "valid": ("chelsea.png",),
    "test": ("astronaut.png", "rocket.jpg"),
}
MASKED = (0.03, 0.25)  # bounds on the fake share of an image
FLAT = 4.0  # grey levels, the three channels' deviations summed: less is a flat background
# What these do to pixels outside the hole is dropped; `ldm`, the fourth generator, keeps it.
PASTED: dict[str, Fill] = {"lama": lama, "pluralistic": pluralistic, "repaint-p2-9k": repaint}
GENERATORS = ("ldm", *PASTED)
README = """mini: a stand-in for the Dolos data set, not a benchmark.

{images} crops of {size} x {size} px, cut from {photos} photos inside the scikit-image {version}
wheel, each filled by four simple inpainters that need no network. Scores on it say that the code
runs; they say NOTHING about Dolos or about real generators. It has Dolos' folders and its
generators' names:

  ldm            an 8 x 8 patch linear autoencoder (PCA of training photos): the hole is filled
                 among the latents and the whole image is decoded: the photo changes everywhere
  lama           Fourier coefficients above a falling threshold; photo outside the hole
  pluralistic    blocks copied from elsewhere in the image; photo outside the hole
  repaint-p2-9k  diffusion of the border plus the surroundings' grain; photo outside the hole

masks/ are 1 bit PNGs: 0 = fake, 255 = real. real/ holds the untouched crops under the same names.
No photo is in two splits. `mini.json` records the recipe and a SHA-256 over all images.
"""


def build_mini(root: Path, counts: Mapping[str, int] = COUNTS, workers: int | None = None) -> bool:
    """Build the stand-in data set in ``root``, and return whether it was not there already.

    Args:
        root: folder to create; it is either complete afterwards or as it was.
        counts: images in each of the splits "train", "valid" and "test".
        workers: threads; None takes one per core. The result does not depend on it.

    Raises:
        UserError: ``root`` holds something else, or scikit-image came without its photos.
    """
    root, start = root.resolve(), time.perf_counter()
    if _is_there(root, counts):
        return False
    with work_folder(root, f"building {root}") as work:
        if _is_there(root, counts):  # by another process
            return False
        folder = work / root.name
        _make_images(folder, counts, workers)
        photos = len({name for split in PHOTOS.values() for name in split})
        images = sum(counts.values())
        wheel = version("scikit-image")
        readme = README.format(images=images, size=SIZE, photos=photos, version=wheel)
        write_text(folder / "README.txt", readme)
        manifest = {"recipe": RECIPE, "counts": dict(counts), "sha256": _content_hash(folder)}
        write_text(folder / "mini.json", json.dumps(manifest, indent=2) + "\n")
        folder.replace(root)
    seconds = time.perf_counter() - start
    print(
        f"mini: built {root}: {images} real crops and {images} fakes with masks from each of "
        f"{len(GENERATORS)} generators, from {photos} photos, in {seconds:.0f} s"
    )
    return True


def real_crop(split: str, index: int) -> Pixels:
    """Return crop ``index`` of a split, uint8 of shape (SIZE, SIZE, 3)."""
    rng = _rng(split, index, "crop")
    photo = _photo(_photo_name(split, index))
    boxes = []
    for _ in range(3):
        side = int(rng.integers(SIZE, min(*photo.size, 2 * SIZE) + 1))
        x, y = (int(rng.integers(0, length - side + 1)) for length in photo.size)
        boxes.append((x, y, x + side, y + side))
    small = [np.asarray(photo.resize((32, 32), Image.Resampling.BOX, box)) for box in boxes]
    # Of three boxes the most varied one: black sky and black background teach nothing.
    box = boxes[int(np.argmax([pixels.std(axis=(0, 1)).sum() for pixels in small]))]
    crop = np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box))
    return np.ascontiguousarray(crop[:, ::-1] if rng.integers(2) else crop)


def random_hole(split: str, index: int, crop: Pixels) -> Hole:
    """Return the hole of an image: one to three shapes, a share of it within ``MASKED``."""
    rng = _rng(split, index, "hole")
    while True:
        canvas = np.zeros((SIZE, SIZE), np.uint8)
        for _ in range(rng.integers(1, 4)):
            _draw_shape(canvas, rng)
        hole = canvas > 0
        # A flat hole (a black background) would be filled perfectly: no trace, yet called fake.
        if MASKED[0] <= hole.mean() <= MASKED[1] and crop[hole].std(axis=0).sum() > FLAT:
            return hole


def train_autoencoder() -> Autoencoder:
    """Fit the autoencoder of ``ldm`` to crops of the training photos."""
    return fit_autoencoder([real_crop("train", i) for i in range(8 * len(PHOTOS["train"]))])


def _make_images(folder: Path, counts: Mapping[str, int], workers: int | None) -> None:
    """Write all images below ``folder``, several at a time."""
    autoencoder = train_autoencoder()
    # All folders now: a thread that Ctrl-C left behind then can't bring back what was removed.
    for split in counts:
        (folder / "real" / split).mkdir(parents=True)
        for generator in GENERATORS:
            for kind in ("images", "masks"):
                (folder / "fake" / generator / kind / split).mkdir(parents=True)
    # Threads, as the work is done by libraries that let go of Python's lock: processes would
    # each import all of the package first, which takes longer than they save.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            tasks = [
                pool.submit(_make_image, folder, split, index, autoencoder)
                for split, count in counts.items()
                for index in range(count)
            ]
            for task in tqdm(as_completed(tasks), "mini", len(tasks), unit="image", disable=None):
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _make_image(folder: Path, split: str, index: int, autoencoder: Autoencoder) -> None:
    """Write one real crop, its fakes and their masks."""
    name = f"{Path(_photo_name(split, index)).stem}-{index:04d}.png"
    crop = real_crop(split, index)
    hole = random_hole(split, index, crop)
    _save(crop, folder / "real" / split / name)
    image = crop.astype(np.float32)
    fills: dict[str, Fill] = {"ldm": partial(ldm, autoencoder=autoencoder), **PASTED}
    for generator, fill in fills.items():
        filled = fill(image, hole, _rng(split, index, generator))
        if generator in PASTED:
            filled = np.where(hole[..., None], filled, image)
        fake = np.clip(np.rint(filled), 0, 255).astype(np.uint8)
        _save(fake, folder / "fake" / generator / "images" / split / name)
        _save(~hole, folder / "fake" / generator / "masks" / split / name)


def _save(pixels: Pixels | Hole, path: Path) -> None:
    Image.fromarray(pixels).save(path, compress_level=1)  # a third of the time for 10 % of space


def _is_there(root: Path, counts: Mapping[str, int]) -> bool:
    """Whether the data set is built already.

    Raises:
        UserError: ``root`` holds something else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    _check_existing(root, dict(counts))
    return True


def _check_existing(root: Path, counts: dict[str, int]) -> None:
    """Raise UserError unless ``root`` holds a complete mini of this recipe and these counts."""
    remove = f"remove the folder {root} and build again"
    try:
        manifest = json.loads((root / "mini.json").read_text(encoding="utf-8"))
        found = (manifest["recipe"], manifest["counts"])
        content = manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{root} exists and is not a mini data set (no readable mini.json): "
            "name another folder, or move this one away"
        ) from error
    if found != (RECIPE, counts):
        raise UserError(
            f"{root} holds mini by recipe {found[0]} with {found[1]} images, expected recipe "
            f"{RECIPE} with {counts}: {remove}"
        )
    if content != _content_hash(root):
        raise UserError(f"images in {root} changed since it was built: {remove}")


def _content_hash(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of all images."""
    digest = hashlib.sha256()
    for path in (path for path in walk(folder).photos if path.suffix == ".png"):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()


def _rng(*key: str | int) -> np.random.Generator:
    """Return the random numbers that belong to a key, the same in every build."""
    return np.random.default_rng(list(repr(key).encode()))


def _photo_name(split: str, index: int) -> str:
    return PHOTOS[split][index % len(PHOTOS[split])]


@cache
def _photo(name: str) -> Image.Image:
    """Return a photo of the scikit-image wheel, without the black rim around the retina."""
    path = Path(skimage.__file__).parent / "data" / name
    try:
        photo = Image.open(path).convert("RGB")
    except OSError as error:
        raise UserError(
            f"mini needs the photo {path}, which cannot be read: reinstall scikit-image as a wheel"
        ) from error
    if name == "retina.jpg":
        photo = photo.crop((210, 210, 1200, 1200))
    return photo


def _draw_shape(canvas: Pixels, rng: np.random.Generator) -> None:
    """Draw one random ellipse, box, polygon or brush stroke."""
    centre, radii = rng.integers(0, SIZE, 2), rng.integers(SIZE // 16, SIZE // 4, 2)
    kind = rng.choice(["ellipse", "box", "polygon", "stroke"])
    if kind == "stroke":
        points = centre + rng.normal(0, SIZE / 8, (rng.integers(3, 7), 2)).cumsum(axis=0)
        width = int(rng.integers(SIZE // 20, SIZE // 8))
        cv2.polylines(canvas, [points.astype(np.int32)], False, 255, width)
        return
    corners = {"ellipse": 60, "box": 4, "polygon": int(rng.integers(5, 10))}[kind]
    turns = np.linspace(0, 2 * np.pi, corners, endpoint=False) + np.pi / 4
    reach = rng.uniform(0.4, 1, (corners, 1)) if kind == "polygon" else 1
    points = reach * radii * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    turn = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    cv2.fillPoly(canvas, [(centre + points @ rotation).astype(np.int32)], 255)
