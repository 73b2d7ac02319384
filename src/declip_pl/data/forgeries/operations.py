"""What a region, or a whole photo, may be re-processed by.

Each operation takes ``[H, W, 3]`` uint8 RGB and a source of randomness, which decides on its
strength, and returns as much. :data:`OPERATIONS` is open: a function that is registered there is
used with all others.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from declip_pl.parts import Registry

Pixels = NDArray[np.uint8]
Operation = Callable[[Pixels, np.random.Generator], Pixels]

OPERATIONS: Registry[Any] = Registry("forging operation")
"""Operations by name."""

KERNELS = (
    *(cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC),
    *(cv2.INTER_AREA, cv2.INTER_LANCZOS4),
)
"""Ways to resample."""


@OPERATIONS.register("smaller")
def smaller(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Resample to 35 to 90 % of the size and back, each by a kernel of its own."""
    return _there_and_back(pixels, float(rng.uniform(0.35, 0.9)), rng)


@OPERATIONS.register("larger")
def larger(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Resample to 110 to 200 % of the size and back, each by a kernel of its own."""
    return _there_and_back(pixels, float(rng.uniform(1.1, 2.0)), rng)


@OPERATIONS.register("shift")
def shift(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Turn by up to 4 degrees, scale by up to 5 % and move by parts of a pixel."""
    height, width = pixels.shape[:2]
    angle, scale = float(rng.uniform(-4, 4)), float(rng.uniform(0.95, 1.05))
    move = np.pad(rng.uniform(-1, 1, (2, 1)), ((0, 0), (2, 0)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale) + move
    kernel = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)[rng.integers(3)]
    moved = cv2.warpAffine(
        pixels, matrix, (width, height), flags=kernel, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(moved, np.uint8)


@OPERATIONS.register("blur")
def blur(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Blur by a Gaussian of 0.4 to 2.5 px."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.4, 2.5))), np.uint8)


@OPERATIONS.register("median")
def median(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Take the median of 3 x 3 or 5 x 5 pixels."""
    return np.asarray(cv2.medianBlur(pixels, int(rng.choice([3, 5]))), np.uint8)


@OPERATIONS.register("bilateral")
def bilateral(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Smooth all but edges."""
    levels, reach = float(rng.uniform(15, 60)), float(rng.uniform(1.5, 4))
    return np.asarray(cv2.bilateralFilter(pixels, 7, levels, reach), np.uint8)


@OPERATIONS.register("sharpen")
def sharpen(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Add 0.3 to 1.5 times what a Gaussian takes away."""
    strength, sigma = rng.uniform(0.3, 1.5), float(rng.uniform(0.6, 2))
    soft = cv2.GaussianBlur(pixels, (0, 0), sigma).astype(np.float32)
    return _levels(pixels + strength * (pixels - soft))


@OPERATIONS.register("noise")
def noise(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Add Gaussian noise of 1.5 to 10 levels, grey or coloured, white or blurred."""
    channels = int(rng.choice([1, 3]))
    grain = rng.standard_normal((*pixels.shape[:2], channels), np.float32)
    if rng.random() < 0.5:  # noqa: PLR2004
        blurred = cv2.GaussianBlur(grain, (0, 0), float(rng.uniform(0.5, 1.2)))
        grain = blurred.reshape(grain.shape) / blurred.std()
    return _levels(pixels + float(rng.uniform(1.5, 10)) * grain)


@OPERATIONS.register("jpeg")
def jpeg(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Compress as JPEG of quality 30 to 95, with and without subsampled colours."""
    return compress(pixels, int(rng.integers(30, 96)), rng)


@OPERATIONS.register("tone")
def tone(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Change gamma, contrast and the balance of colours a little."""
    scaled = (pixels / np.float32(255)) ** np.float32(rng.uniform(0.75, 1.33))
    gains = rng.uniform(0.85, 1.15) * rng.uniform(0.94, 1.06, 3)
    centre = scaled.mean((0, 1))
    return _levels(255 * ((scaled - centre) * gains.astype(np.float32) + centre))


def compress(pixels: Pixels, quality: int, rng: np.random.Generator) -> Pixels:
    """Return ``[H, W, 3]`` pixels after JPEG compression, its subsampling drawn at random."""
    file = BytesIO()
    subsampling = int(rng.choice([0, 2]))  # 4:4:4 or 4:2:0
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file).convert("RGB"))


def _there_and_back(pixels: Pixels, scale: float, rng: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    there, back = (KERNELS[index] for index in rng.integers(len(KERNELS), size=2))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=there)
    return np.asarray(cv2.resize(small, (width, height), interpolation=back), np.uint8)


def _levels(values: NDArray[Any]) -> Pixels:
    return values.round().clip(0, 255).astype(np.uint8)
