"""What statistics are made of: arrays by seed and photo, and how resamples are counted."""

from collections.abc import Callable
from math import prod

import numpy as np
from numpy.typing import NDArray

SEED = 0
"""Of all random draws: the same numbers come out every time."""

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Statistic = Callable[[Indices, Indices], Array]
"""Takes drawn photos ``[..., P]`` and drawn seeds ``[..., S]``; returns the score ``[...]``."""

_BATCH = 2**20  # photos drawn at once: 8 MiB for each array made of them


def mean_of_defined(values: Array) -> Array:
    """Return the mean over the last axis of what is not NaN; NaN, without a warning, of nothing."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))


def batch_size(photos: int) -> int:
    """Return how many resamples of that many photos are drawn at once."""
    return max(1, _BATCH // photos)


def times_drawn(photos: Indices, total: int) -> Array:
    """Return how often each of ``total`` photos is among ``[..., P]`` drawn: ``[..., total]``."""
    drawn = photos.reshape(prod(photos.shape[:-1]), photos.shape[-1])
    offsets = total * np.arange(len(drawn))[:, None]
    counts = np.bincount((drawn + offsets).ravel(), minlength=len(drawn) * total)
    return counts.reshape(*photos.shape[:-1], total).astype(np.float64)


def mean_over(values: Array, seeds: Indices) -> Array:
    """Return the mean of ``[..., S]`` values over drawn seeds, leading axes broadcast."""
    leading = np.broadcast_shapes(values.shape[:-1], seeds.shape[:-1])
    drawn = np.take_along_axis(
        np.broadcast_to(values, (*leading, values.shape[-1])),
        np.broadcast_to(seeds, (*leading, seeds.shape[-1])),
        axis=-1,
    )
    return mean_of_defined(drawn)


def ratio(part: Array, whole: Array | NDArray[np.intp]) -> Array:
    """Divide, with NaN for nothing of nothing."""
    with np.errstate(invalid="ignore"):
        return part / whole
