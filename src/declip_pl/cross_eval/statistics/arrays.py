"""What statistics are made of: arrays by seed and photo, and how resamples are counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

SEED = 0
"""Of all random draws: the same numbers come out every time."""

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Statistic = Callable[[Array, Indices], Array]
"""Takes how often each photo was drawn, ``[..., P]``, and drawn seeds ``[..., S]``; returns K
scores ``[..., K]``."""

_BATCH = 2**20  # photos drawn at once: 8 MiB for each array made of them
_ROWS = 32  # at least, however many photos: products of fewer wait for memory, not for arithmetic


def mean_of_defined(values: Array) -> Array:
    """Return the mean over the last axis of what is not NaN; NaN, without a warning, of nothing."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))


def batch_size(photos: int) -> int:
    """Return how many resamples of that many photos are drawn at once."""
    return max(_ROWS, _BATCH // photos)


def times_drawn(photos: Indices) -> Array:
    """Return how often each of P photos is among ``[R, P]`` drawn ones: ``[R, P]``."""
    resamples, total = photos.shape
    offsets = total * np.arange(resamples)[:, None]
    counts = np.bincount((photos + offsets).ravel(), minlength=resamples * total)
    return counts.reshape(resamples, total).astype(np.float64)


def product(counts: Array, columns: Array) -> Array:
    """Return the sums of K columns, ``[K, P]``, over ``[..., P]`` counts: ``[..., K]``."""
    result: Array = torch.matmul(torch.from_numpy(counts), torch.from_numpy(columns).T).numpy()
    return result


@contextmanager
def one_thread() -> Iterator[int]:
    """Keep each product in one thread; the figures then don't depend on how many there are.

    They are small: on a busy machine several threads wait for each other longer than they compute,
    with numpy's products, of which the threads can't be chosen here, four times as long.

    Yields:
        How many threads torch has otherwise.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def occurring(defined: NDArray[np.bool_]) -> Indices | slice:
    """Return which photos of ``[N, P]`` are defined anywhere; all of them as a slice.

    Photos of other test sets take no part in a product, nor any memory of it.
    """
    places = np.flatnonzero(np.atleast_1d(defined.any(0)))
    return slice(None) if len(places) == defined.shape[-1] else places


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
