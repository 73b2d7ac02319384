"""What statistics are made of: arrays by seed and photo, and how resamples are counted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SEED = 0
"""Of all random draws: the same numbers come out every time."""

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Counts = NDArray[Any]
"""How often each photo was drawn; draws come as uint8."""
Statistic = Callable[[Counts, Indices], Array]
"""Takes how often each photo was drawn, ``[..., P]``, and drawn seeds ``[..., S]``; returns K
scores ``[..., K]``."""

_BATCH = 2**20  # photos drawn at once
_ROWS = 32  # at least, however many photos: products of fewer wait for memory, not for arithmetic
_BLOCK = 2**17  # photos that are counted at once: their counts stay in a core's cache
_CHUNK = 2**11  # photos of which the counts are fractions for a product at once


@dataclass(frozen=True, eq=False)
class Sums:
    """A statistic that is made of sums over photos, which :func:`joint` finds with those of others.

    Attributes:
        photos: Which photos have anything to add.
        columns: What each of them adds to K sums, ``[K, photos]``.
        scores: Takes sums ``[..., K]`` and drawn seeds ``[..., S]``; returns scores.
    """

    photos: Indices | slice
    columns: Array
    scores: Statistic

    def __call__(self, counts: Counts, seeds: Indices) -> Array:
        """Return the scores, as any :data:`Statistic` does."""
        return self.scores(product(counts[..., self.photos], self.columns), seeds)


def mean_of_defined(values: Array) -> Array:
    """Return the mean over the last axis of what is not NaN; NaN, without a warning, of nothing."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))


def batch_size(photos: int) -> int:
    """Return how many resamples of that many photos are drawn at once."""
    return max(_ROWS, _BATCH // photos)


def draw(rng: np.random.Generator, resamples: int, photos: int) -> Counts:
    """Draw P of P photos for each of R resamples; return how often each was: ``[R, P]``."""
    # A photo that is drawn 256 times of 256 or more does not occur: the odds are below 1e-500.
    drawn = np.empty((resamples, photos), np.uint8)
    size = max(1, _BLOCK // photos)
    for start in range(0, resamples, size):
        part = drawn[start : start + size]
        # The same numbers as of 8 bytes, in half the time.
        found = rng.integers(photos, size=part.shape, dtype=np.uint32).astype(np.intp)
        found += photos * np.arange(len(part))[:, None]
        part[:] = np.bincount(found.ravel(), minlength=part.size).reshape(part.shape)
    return drawn


def product(counts: Counts, columns: Array) -> Array:
    """Return the sums of K columns, ``[K, P]``, over ``[..., P]`` counts: ``[..., K]``."""
    total = np.zeros((*counts.shape[:-1], len(columns)))
    for start in range(0, counts.shape[-1], _CHUNK):
        chosen = slice(start, start + _CHUNK)
        part = torch.from_numpy(np.ascontiguousarray(counts[..., chosen], np.float64))
        total += torch.matmul(part, torch.from_numpy(columns[:, chosen]).T).numpy()
    return total


def joint(statistics: Sequence[Statistic]) -> Callable[[Counts, Indices], list[Array]]:
    """Return what computes several statistics at once.

    Sums over the same photos are one product: on its own each would be too small for it to be
    arithmetic, and not memory, that takes the time.
    """
    groups: dict[bytes | None, dict[int, Sums]] = {}
    for place, statistic in enumerate(statistics):
        if isinstance(statistic, Sums):
            chosen = statistic.photos
            key = None if isinstance(chosen, slice) else chosen.tobytes()
            groups.setdefault(key, {})[place] = statistic
    tables = [
        (group, np.concatenate([found.columns for found in group.values()]))
        for group in groups.values()
    ]

    def scores(counts: Counts, seeds: Indices) -> list[Array]:
        found: dict[int, Array] = {}
        for group, table in tables:
            first = next(iter(group.values()))
            summed, end = product(counts[..., first.photos], table), 0
            for place, statistic in group.items():
                start, end = end, end + len(statistic.columns)
                found[place] = statistic.scores(summed[..., start:end], seeds)
        return [
            found[place] if place in found else statistic(counts, seeds)
            for place, statistic in enumerate(statistics)
        ]

    return scores


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


def ratio(part: Array | NDArray[np.signedinteger[Any]], whole: Array | NDArray[np.intp]) -> Array:
    """Divide, with NaN for nothing of nothing."""
    with np.errstate(invalid="ignore"):
        return part / whole
