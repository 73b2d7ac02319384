"""How `mini` and some inpainters of forge fill a hole, without any network.

Images are float32 of shape (height, width, 3) in [0, 255] and holes are boolean of shape
(height, width), True where an inpainter paints. ``ldm`` takes sides that are multiples of 4 px.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import scipy.fft

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Hole = npt.NDArray[np.bool_]
Fill = Callable[[Floats, Hole, np.random.Generator], Floats]

PATCH = 8  # px, a side of the autoencoder's patches
COMPONENTS = 32  # of 192: the photo still looks right, its finest detail is gone
COARSEST = 8  # px, a side below which a hole is filled by the mean
BLOCK = 4  # px, a side of the blocks that the exemplar fill copies
CONTEXT, COPY = 4, 1  # blocks to each side that are compared, and that are copied at once
SOURCES = 4096  # places that are compared at most, evenly spread: a photo of 256 px has fewer


class Autoencoder(NamedTuple):
    """PCA of 8 x 8 colour patches."""

    mean: Floats  # (192,)
    components: Floats  # (COMPONENTS, 192), orthonormal rows


def fit_autoencoder(crops: Sequence[Pixels]) -> Autoencoder:
    """Fit the autoencoder of ``ldm`` to crops of photos."""
    patches = np.concatenate([_patches(crop, PATCH).reshape(-1, PATCH**2 * 3) for crop in crops])
    # Sums of integers are exact in float64: the order of summation cannot change the result.
    mean, second = patches.mean(0, dtype=np.float64), np.zeros((PATCH**2 * 3, PATCH**2 * 3))
    for chunk in np.array_split(patches, len(crops)):
        second += chunk.T.astype(np.float64) @ chunk.astype(np.float64)
    _, vectors = np.linalg.eigh(second / len(patches) - np.outer(mean, mean))
    components = vectors[:, : -COMPONENTS - 1 : -1].T
    largest = np.abs(components).argmax(1, keepdims=True)  # an eigenvector's sign is arbitrary
    components = components * np.sign(np.take_along_axis(components, largest, 1))
    return Autoencoder(mean.astype(np.float32), components.astype(np.float32))


def ldm(image: Floats, hole: Hole, rng: np.random.Generator, autoencoder: Autoencoder) -> Floats:
    """Fill the hole among the autoencoder's latents and decode the WHOLE image from them."""
    half = PATCH // 2  # patches overlap by half, so that blocks do not show
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="reflect")
    patches = _patches(padded, half, PATCH)
    centred = patches.reshape(*patches.shape[:2], -1) - autoencoder.mean
    # einsum, here and below: `@` starts threads in each of our threads and doubles the time.
    latents = np.einsum("yxd,cd->yxc", centred, autoencoder.components)
    touched = _touched(np.pad(hole, half, mode="reflect"), half, PATCH)
    smooth = _smooth_fill(latents, touched)
    filled = np.where(touched[..., None], smooth + _grain(smooth, touched, rng), latents)
    decoded = np.einsum("yxc,cd->yxd", filled, autoencoder.components) + autoencoder.mean
    decoded = decoded.reshape(patches.shape)
    ramp = np.sin((np.arange(PATCH, dtype=np.float32) + 0.5) * np.pi / PATCH) ** 2
    decoded *= ramp[:, None] * ramp  # the windows of overlapping patches add up to 1
    rows, columns = touched.shape
    canvas = np.zeros((rows + 1, half, columns + 1, half, 3), np.float32)
    for y in (0, 1):
        for x in (0, 1):
            quarter = decoded[..., y * half : (y + 1) * half, x * half : (x + 1) * half]
            canvas[y : y + rows, :, x : x + columns] += quarter.transpose(0, 3, 1, 4, 2)
    return canvas.reshape(padded.shape)[half:-half, half:-half]


def lama(image: Floats, hole: Hole, rng: np.random.Generator) -> Floats:
    """Fill the hole with the strongest frequencies, under a threshold that falls step by step."""
    del rng
    filled = _smooth_fill(image, hole)
    spectrum = scipy.fft.rfft2(filled - filled.mean((0, 1)), axes=(0, 1))
    strongest = np.linalg.norm(spectrum, axis=2).max()
    for threshold in np.geomspace(strongest / 4, strongest / 1000, 24):
        spectrum = scipy.fft.rfft2(filled, axes=(0, 1))
        # All channels shrink alike, or the fill turns rainbow; a hard cut turns it to noise.
        strength = np.linalg.norm(spectrum, axis=2, keepdims=True)
        spectrum *= np.maximum(1 - threshold / np.maximum(strength, threshold), 0)
        inverse = scipy.fft.irfft2(spectrum, s=hole.shape, axes=(0, 1))
        filled = np.where(hole[..., None], inverse, image)
    return filled


def repaint(image: Floats, hole: Hole, rng: np.random.Generator) -> Floats:
    """Let the colours of the border diffuse into the hole and add the surroundings' grain."""
    smooth = _smooth_fill(image, hole)
    return smooth + _grain(smooth, hole, rng)


def pluralistic(image: Floats, hole: Hole, rng: np.random.Generator) -> Floats:
    """Copy blocks into the hole from its border inwards, each from where it fits best.

    A photo without any place that is free of the hole is returned as it is.
    """
    del rng
    height, width = hole.shape
    edge = ((0, -height % BLOCK), (0, -width % BLOCK))  # to whole blocks
    image, hole = np.pad(image, (*edge, (0, 0)), mode="edge"), np.pad(hole, edge, mode="edge")
    cells, side = (hole.shape[0] // BLOCK, hole.shape[1] // BLOCK), 2 * CONTEXT + 1
    border = ((CONTEXT, CONTEXT), (CONTEXT, CONTEXT))
    missing = np.pad(_touched(hole, BLOCK, BLOCK), border)
    known = np.pad(np.ones(cells, np.float32), border) * ~missing
    small = cv2.resize(image, cells[::-1], interpolation=cv2.INTER_AREA)
    small = np.pad(np.asarray(small, np.float32), (*border, (0, 0)))
    shifts = np.zeros((2, *missing.shape), np.int64)
    sources = np.argwhere(~_touched(known == 0, 1, side))  # whole in the photo, free of the hole
    if not len(sources):
        return image[:height, :width]
    sources = sources[:: -(-len(sources) // SOURCES)]
    patches = _patches(small, 1, side)[tuple(sources.T)].reshape(len(sources), -1)
    squares = patches**2
    while missing.any():
        certain = cv2.boxFilter(known, -1, (side, side))
        y, x = np.argwhere(missing)[certain[missing].argmax()]
        around = np.s_[y - CONTEXT : y + CONTEXT + 1, x - CONTEXT : x + CONTEXT + 1]
        weight = np.tile(known[around].ravel(), 3)
        wanted = small[around].transpose(2, 0, 1).ravel()
        distances = np.einsum("pd,d->p", squares, weight)
        distances -= 2 * np.einsum("pd,d->p", patches, weight * wanted)
        v, u = sources[distances.argmin()] + CONTEXT
        here = np.s_[y - COPY : y + COPY + 1, x - COPY : x + COPY + 1]
        there = np.s_[v - COPY : v + COPY + 1, u - COPY : u + COPY + 1]
        new = missing[here].copy()
        small[here][new], known[here][new] = small[there][new], 1
        shifts[:, *here][:, new] = [[v - y], [u - x]]
        missing[here] = False
    shifts = BLOCK * shifts[:, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
    rows, columns = np.indices(hole.shape) + shifts.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)
    return np.asarray(image[rows, columns], np.float32)[:height, :width]


def _patches(array: npt.NDArray[Any], stride: int, side: int | None = None) -> npt.NDArray[Any]:
    """Return a view (rows, columns, channels, side, side) of patches ``stride`` apart."""
    size = side or stride
    windows = np.lib.stride_tricks.sliding_window_view(array, (size, size), axis=(0, 1))
    return windows[::stride, ::stride]


def _touched(hole: Hole, stride: int, side: int) -> Hole:
    """Return which patches of an image have a pixel in the hole, shape (rows, columns)."""
    return np.asarray(_patches(hole[..., None], stride, side).any(axis=(2, 3, 4)))


def _smooth_fill(values: Floats, hole: Hole) -> Floats:
    """Solve Laplace's equation in the hole, coarse to fine.

    Args:
        values: shape (height, width, channels).
        hole: shape (height, width); ``values`` there are not used.
    """
    known, (height, width) = (~hole[..., None]).astype(np.float32), hole.shape
    if min(height, width) > COARSEST:
        half = (width // 2, height // 2)
        share = cv2.resize(known, half)[..., None]
        coarse = cv2.resize(values * known, half) / np.maximum(share, 1e-6)
        solved = _smooth_fill(coarse.astype(np.float32), share[..., 0] == 0)
        filled = np.asarray(cv2.resize(solved, (width, height)), np.float32)
    else:
        filled = np.full_like(values, values[~hole].mean(0))
    for _ in range(20):
        blurred = cv2.blur(np.where(hole[..., None], filled, values), (3, 3))
        filled = np.asarray(blurred, np.float32)
    return np.where(hole[..., None], filled, values)


def _grain(smooth: Floats, hole: Hole, rng: np.random.Generator) -> Floats:
    """Return noise with the spectrum, strength and colour of what surrounds the hole.

    Args:
        smooth: shape (height, width, channels), the image with its hole filled smoothly.
        hole: shape (height, width).
        rng: source of the noise.
    """
    reach = 2 * (len(hole) // 16) + 1
    ring = (cv2.dilate(hole.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0) & ~hole
    detail = smooth - cv2.GaussianBlur(smooth, (0, 0), 2)
    limit = 2 * np.median(np.abs(detail[ring]), 0)  # an edge is no grain
    detail = np.clip(detail, -limit, limit) * ring[..., None]
    white = scipy.fft.rfft2(rng.standard_normal(hole.shape, np.float32))[..., None]
    spectrum = scipy.fft.rfft2(detail, axes=(0, 1)) * white / np.abs(white)
    noise = scipy.fft.irfft2(spectrum, s=hole.shape, axes=(0, 1))
    return np.asarray(noise * np.sqrt(hole.size / ring.sum()), np.float32)
