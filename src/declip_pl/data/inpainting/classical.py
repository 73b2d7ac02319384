"""Inpainters without a network: each leaves a trace of its own."""

from collections.abc import Callable

import cv2
import numpy as np

from declip_pl.data.inpainting import fills
from declip_pl.data.inpainting.doors import INPAINTERS, Mask, Pixels

RADIUS = 3
"""Px around a pixel that Telea's and the Navier-Stokes fill look at."""

ERODED = 3
"""Px that OpenCV takes off a hole's edge before it blends."""

TRIES = 32
"""Places of the photo that copy-move draws, to take the one that overlaps the hole least."""


@INPAINTERS.register("telea")
def telea(photo: Pixels, mask: Mask, rng: np.random.Generator) -> Pixels:
    """Fill from the border inwards by weighted means (Telea 2004)."""
    del rng
    return np.asarray(cv2.inpaint(photo, _byte(mask), RADIUS, cv2.INPAINT_TELEA), np.uint8)


@INPAINTERS.register("navier-stokes")
def navier_stokes(photo: Pixels, mask: Mask, rng: np.random.Generator) -> Pixels:
    """Continue lines of equal brightness into the hole (Bertalmio 2001)."""
    del rng
    return np.asarray(cv2.inpaint(photo, _byte(mask), RADIUS, cv2.INPAINT_NS), np.uint8)


@INPAINTERS.register("laplace")
def laplace(photo: Pixels, mask: Mask, rng: np.random.Generator) -> Pixels:
    """Let the border's colours diffuse into the hole and add the surroundings' grain."""
    return _filled(fills.repaint, photo, mask, rng)


@INPAINTERS.register("exemplar")
def exemplar(photo: Pixels, mask: Mask, rng: np.random.Generator) -> Pixels:
    """Copy blocks of 4 px from where the photo around them fits best, from the border inwards."""
    return _filled(fills.pluralistic, photo, mask, rng)


@INPAINTERS.register("fourier")
def fourier(photo: Pixels, mask: Mask, rng: np.random.Generator) -> Pixels:
    """Fill with the photo's strongest frequencies, under a threshold that falls step by step."""
    return _filled(fills.lama, photo, mask, rng)


@INPAINTERS.register("poisson")
def poisson(photo: Pixels, mask: Mask, rng: np.random.Generator, other: Pixels) -> Pixels:
    """Splice in another photo's pixels so that gradients fit at the border (Perez 2003)."""
    height, width = photo.shape[:2]
    scale = max(1.0, height / other.shape[0], width / other.shape[1])
    size = (max(width, round(other.shape[1] * scale)), max(height, round(other.shape[0] * scale)))
    other = np.asarray(cv2.resize(other, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    top = int(rng.integers(other.shape[0] - height + 1))
    left = int(rng.integers(other.shape[1] - width + 1))
    piece = other[top : top + height, left : left + width]
    more = ERODED + 2  # as OpenCV takes no hole that touches the border
    border = ((more, more), (more, more), (0, 0))
    photo, piece = np.pad(photo, border, mode="edge"), np.pad(piece, border, mode="edge")
    hole = cv2.dilate(_byte(np.pad(mask, more)), np.ones((3, 3)), iterations=ERODED)
    x, y, across, down = cv2.boundingRect(hole)
    centre = (x + across // 2, y + down // 2)  # where OpenCV puts the middle of the hole's box
    blended = cv2.seamlessClone(piece, photo, hole, centre, cv2.NORMAL_CLONE)
    return np.asarray(blended, np.uint8)[more:-more, more:-more]


@INPAINTERS.register("copy-move")
def copy_move(photo: Pixels, mask: Mask, rng: np.random.Generator) -> Pixels:
    """Copy another place of the same photo, turned over where the hole leaves no other place."""
    x, y, width, height = cv2.boundingRect(_byte(mask))
    shape = mask[y : y + height, x : x + width]
    free = np.array([mask.shape[0] - height + 1, mask.shape[1] - width + 1])
    places = rng.integers(0, free, (TRIES, 2))
    overlaps = [
        np.count_nonzero(mask[top : top + height, left : left + width] & shape)
        for top, left in places
    ]
    top, left = places[int(np.argmin(overlaps))]
    piece = photo[top : top + height, left : left + width]
    moved = photo.copy()
    moved[y : y + height, x : x + width] = piece[:, ::-1] if (top, left) == (y, x) else piece
    return moved


def _byte(mask: Mask) -> Pixels:
    return mask.astype(np.uint8) * 255


def _filled(
    fill: Callable[[fills.Floats, Mask, np.random.Generator], fills.Floats],
    photo: Pixels,
    mask: Mask,
    rng: np.random.Generator,
) -> Pixels:
    return fill(photo.astype(np.float32), mask, rng).round().clip(0, 255).astype(np.uint8)
