"""One forgery: a photo, a region, and what the region went through."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from declip_pl.data.forgeries.autoencoders import Autoencoder
from declip_pl.data.forgeries.operations import OPERATIONS, Operation, Pixels, compress
from declip_pl.data.forgeries.regions import random_region
from declip_pl.errors import UserError
from declip_pl.model.description import OF_WHOLE

RECIPE = 2
"""Raise it with any change to what forgeries look like."""

UNTOUCHED = 0.2
"""Share of photos in which nothing is forged."""
CONTENT = {"own": 0.45, "near": 0.15, "far": 0.1, "other": 0.3}
"""Where a region's pixels come from: the same place, the same photo moved a little or turned over,
or another photo; as shares of forgeries."""
TONED = 0.7
"""Share of regions from elsewhere that take on brightness and contrast of what was there."""
TWICE = 0.5
"""Share of regions that go through two operations."""
AUTOENCODED = 0.6
"""Share of regions of which the first operation is an autoencoder."""
FEATHERED = 0.5
"""Share of regions with a soft edge."""
EVERYWHERE = 0.6
"""Share of photos that are re-processed as a whole afterwards: what is everywhere says nothing."""
WHOLE = "everywhere"
"""Names that re-processing in what may be left out."""
COMPRESSED = 0.5
"""Share of photos that are compressed at the end, as published photos are."""


class Forgery(NamedTuple):
    """A forged photo.

    Attributes:
        pixels: ``[H, W, 3]`` RGB.
        mask: ``[H, W]``, True = forged; None for an untouched photo.
        operations: What the region went through, then ``everywhere:`` and what the photo did.
    """

    pixels: Pixels
    mask: NDArray[np.bool_] | None
    operations: tuple[str, ...]


def forge(
    photo: Pixels,
    other: Pixels,
    rng: np.random.Generator,
    autoencoders: Mapping[str, Autoencoder],
    without: Sequence[str] = (),
) -> Forgery:
    """Forge a photo.

    Args:
        photo: ``[H, W, 3]`` RGB.
        other: Another photo of any size, pixels of which may be put into the first.
        rng: Decides on everything.
        autoencoders: By name.
        without: What is left out (:func:`left_out`).
    """
    ways = {name: way for name, way in _ways(autoencoders).items() if name not in without}
    mask: NDArray[np.bool_] | None = None
    used: list[str] = []
    if rng.random() >= UNTOUCHED:
        mask, _ = random_region(photo.shape[:2], rng)
        contents = {name: share for name, share in CONTENT.items() if name not in without}
        inside, used = _inside(photo, other, mask, rng, ways, contents)
        photo = _mixed(photo, inside, _weight(mask, rng))
    if rng.random() < EVERYWHERE and WHOLE not in without:
        name = _pick(ways, rng)
        photo = _mixed(photo, ways[name](photo, rng), rng.uniform(0.4, 1.0))
        used.append(f"{OF_WHOLE}{name}")
    if rng.random() < COMPRESSED:
        photo = compress(photo, int(rng.integers(88, 101)), rng)
        used.append(f"{OF_WHOLE}compressed")
    return Forgery(photo, mask, tuple(used))


def left_out(patterns: Sequence[str], autoencoders: Sequence[str]) -> list[str]:
    """Return the names that patterns stand for: what forgeries are to be made without.

    Args:
        patterns: Names of operations, autoencoders or :data:`CONTENT`, ``everywhere``, or patterns
            of them such as ``autoencoder-*``.
        autoencoders: Names of all.

    Raises:
        UserError: If a pattern fits no name, or no operation is left.
    """
    ways = [*OPERATIONS.names(), *autoencoders]
    names = [*ways, *(name for name in CONTENT if name != "own"), WHOLE]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            known = ", ".join(names)
            raise UserError(f"forgeries without {pattern!r}: expected one of {known}, or a pattern")
    found = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    if set(ways) <= set(found):
        raise UserError(f"forgeries without {', '.join(patterns)}: no operation is left")
    return found


def _ways(autoencoders: Mapping[str, Autoencoder]) -> dict[str, Operation]:
    """Return all operations by name, autoencoders last."""
    found: dict[str, Operation] = {name: OPERATIONS.find(name) for name in OPERATIONS.names()}
    return found | {name: partial(_through, model) for name, model in autoencoders.items()}


def _through(model: Autoencoder, pixels: Pixels, rng: np.random.Generator) -> Pixels:
    del rng
    return model.apply_to(pixels)


def _inside(
    photo: Pixels,
    other: Pixels,
    mask: NDArray[np.bool_],
    rng: np.random.Generator,
    ways: Mapping[str, Operation],
    contents: Mapping[str, float],
) -> tuple[Pixels, list[str]]:
    """Return the pixels that the region is filled with, ``[H, W, 3]``, and how they came about."""
    shares = np.array(list(contents.values()))
    content = str(rng.choice(list(contents), p=shares / shares.sum()))
    pixels = _CONTENTS[content](photo, other, rng)
    used = [content]
    if content != "own" and rng.random() < TONED:
        pixels = _toned(pixels, photo, mask)
    # Pixels of another photo are a trace of their own: they need not be re-processed.
    count = int(rng.integers(0 if content == "other" else 1, 2)) + int(rng.random() < TWICE)
    for turn in range(count):
        wanted = AUTOENCODED if turn == 0 else None
        name = _pick(ways, rng, wanted)
        pixels = ways[name](pixels, rng)
        used.append(name)
    return pixels, used


def _pick(
    ways: Mapping[str, Operation], rng: np.random.Generator, autoencoded: float | None = None
) -> str:
    """Choose an operation; an autoencoder with the given probability, by default as any other."""
    names = list(ways)
    if autoencoded is not None:
        learned = [name for name in names if name.startswith("autoencoder-")]
        others = [name for name in names if name not in learned]
        names = learned if learned and rng.random() < autoencoded else others or learned
    return names[rng.integers(len(names))]


def _own(photo: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    return photo


def _near(photo: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Return the photo moved by 4 to 20 % of its sides."""
    moves = [
        round(float(rng.uniform(0.04, 0.2)) * side) * (1 if rng.random() < 0.5 else -1)  # noqa: PLR2004
        for side in photo.shape[:2]
    ]
    return np.roll(photo, moves, (0, 1))


def _far(photo: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Return the photo turned over."""
    flips = (np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1])
    return np.ascontiguousarray(photo[flips[rng.integers(len(flips))]])


def _other(photo: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a piece of the other photo of this one's size, enlarged where that is smaller."""
    height, width = photo.shape[:2]
    scale = max(height / other.shape[0], width / other.shape[1])
    if scale > 1:
        size = (
            max(width, round(other.shape[1] * scale)),
            max(height, round(other.shape[0] * scale)),
        )
        other = np.asarray(cv2.resize(other, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    top = int(rng.integers(other.shape[0] - height + 1))
    left = int(rng.integers(other.shape[1] - width + 1))
    return other[top : top + height, left : left + width]


_CONTENTS: dict[str, Callable[[Pixels, Pixels, np.random.Generator], Pixels]] = {
    "own": _own,
    "near": _near,
    "far": _far,
    "other": _other,
}


def _toned(pixels: Pixels, photo: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Give the pixels in the region the mean and the deviation of what was there, by channel."""
    there, new = photo[mask].astype(np.float32), pixels[mask].astype(np.float32)
    gain = np.clip((there.std(0) + 1) / (new.std(0) + 1), 0.5, 2)
    toned = (pixels - new.mean(0)) * gain + there.mean(0)
    return np.asarray(toned.round().clip(0, 255), np.uint8)


def _weight(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return how much of each pixel is new, ``[H, W, 1]``: the region's edge is hard or soft."""
    weight = mask.astype(np.float32)
    if rng.random() < FEATHERED:
        weight = np.asarray(
            cv2.GaussianBlur(weight, (0, 0), float(rng.uniform(0.6, 3))), np.float32
        )
    return weight[..., None]


def _mixed(photo: Pixels, new: Pixels, weight: float | NDArray[np.float32]) -> Pixels:
    mixed = photo + weight * (new.astype(np.float32) - photo)
    return np.asarray(mixed).round().clip(0, 255).astype(np.uint8)
