"""How well image scores tell fakes from reals, for every resample at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from declip_pl.cross_eval.statistics.arrays import (
    Array,
    Counts,
    Indices,
    Statistic,
    mean_over,
    ratio,
)

Whole = NDArray[np.int32]
"""Sums of counts: numbers of 4 bytes are added up eight times as fast as those of 8."""

_BLOCK = 2**16
"""Counts that are ranked at once: what is made of them stays in a core's cache."""


def detection(fakes: Array, reals: Array, thresholds: Sequence[Sequence[float]]) -> Statistic:
    """Return how well image scores tell fakes from reals, in percent, mean over seeds.

    A drawn photo brings its fake and its real, if it has both. Equal scores count as in
    scikit-learn: half for AUROC, one step for AP. NaN where one of the classes is missing.

    Args:
        fakes: ``[C, S, P]`` scores in [0, 1] of the manipulated photos of C test sets, NaN where
            there is none.
        reals: ``[S, P]`` scores of the real ones, the same beside each test set.
        thresholds: For each of T accuracies each seed's threshold: a score above it says fake.

    Returns:
        What computes average precision, the area under the ROC curve, and the share of right
        decisions for each of ``thresholds``, one test set after the other: C times 2 + T scores.
    """
    limits = np.array(thresholds).reshape(len(thresholds), len(reals))
    of_seeds = [
        (_Reals.of(real, limit), [_Fakes.parts(scores, real, limit) for scores in fakes[:, seed]])
        for seed, (real, limit) in enumerate(zip(reals, limits.T, strict=True))
    ]

    def statistic(counts: Counts, seeds: Indices) -> Array:
        flat = counts.reshape(-1, counts.shape[-1]).astype(np.uint8, copy=False)
        rates = np.stack([_rates(flat, *found) for found in of_seeds], -1)
        rates = rates.reshape(*counts.shape[:-1], -1, len(reals))
        return mean_over(rates, seeds[..., None, :])

    return statistic


class _Reals(NamedTuple):
    """One seed's reals.

    Attributes:
        photos: ``[N]`` in falling order of their score.
        above: ``[T]``, how many of them have a score above a threshold.
    """

    photos: Indices
    above: Indices

    @classmethod
    def of(cls, scores: Array, limits: Array) -> "_Reals":
        """Sort ``[P]`` scores; NaN are left out."""
        falling, photos = _falling(scores)
        return cls(photos, _at_least(falling, limits, "left"))


class _Fakes(NamedTuple):
    """Some of one seed's fakes of a test set: N neighbours in falling order of their score.

    Attributes:
        photos: ``[N]``.
        above: ``[T]``, how many of them have a score above a threshold.
        alarms: ``[N]``, how many reals have at least a fake's score.
        tied: Which fakes have the score of the next one.
        found: How many of these fakes have at least the score of each that is tied.
        level: Which fakes have the score of a real.
        beaten: How many reals have more than the score of each of these.
    """

    photos: Indices
    above: Indices
    alarms: Indices
    tied: Indices
    found: Indices
    level: Indices
    beaten: Indices

    @classmethod
    def parts(cls, scores: Array, reals: Array, limits: Array) -> list["_Fakes"]:
        """Sort ``[P]`` scores of fakes and of reals; NaN are left out.

        Fakes of the same score are in the same part.
        """
        falling, photos = _falling(scores)
        of_reals, _ = _falling(reals)
        last = np.flatnonzero(np.diff(falling, append=-np.inf)) + 1
        ends = last[np.flatnonzero(np.diff(last // _BLOCK, append=-1))]
        parts = np.split(np.arange(len(falling)), ends[:-1])
        return [cls._part(falling[part], photos[part], of_reals, limits) for part in parts]

    @classmethod
    def _part(cls, falling: Array, photos: Indices, reals: Array, limits: Array) -> "_Fakes":
        alarms, beaten = (_at_least(reals, falling, side) for side in ("right", "left"))
        found = _at_least(falling, falling, "right")
        tied = np.flatnonzero(found > np.arange(1, len(found) + 1))
        level = np.flatnonzero(alarms > beaten)
        above = _at_least(falling, limits, "left")
        return cls(photos, above, alarms, tied, found[tied], level, beaten[level])

    def add(self, counts: Counts, alarms: Whole, ranked: "_Ranked") -> None:
        """Rank these fakes after those that were ranked before.

        Args:
            counts: ``[N, P]``, how often each photo was drawn.
            alarms: ``[N, R + 1]``, how many the first 0, 1, ... R of the reals are.
            ranked: What is added to.
        """
        drawn = counts.take(self.photos, -1)
        sums, weights = _running(drawn), drawn.astype(np.float64)
        ranked.above += sums.take(self.above, -1)
        sums += ranked.found[:, None]
        found = sums[:, 1:]
        found[:, self.tied] = sums.take(self.found, -1)
        beside = alarms.take(self.alarms, -1)
        marked = found + beside
        np.maximum(marked, 1, out=marked)
        ranked.precision += _dot(weights, found / marked)
        # Pairs in the wrong order. One of equal scores is half of one, so that sums are exact.
        level = beside.take(self.level, -1) - alarms.take(self.beaten, -1)
        ranked.lost += _dot(weights, beside)
        ranked.lost -= _dot(weights.take(self.level, -1), level) / 2
        ranked.found[:] = sums[:, -1]


class _Ranked:
    """What the fakes that were ranked so far add up to, for N resamples.

    Attributes:
        found: ``[N]``, how many they are.
        above: ``[N, T]``, how many of them have a score above a threshold.
        precision: ``[N]``, the sum of their precisions.
        lost: ``[N]``, how many pairs of one of them and a real are in the wrong order.
    """

    def __init__(self, resamples: int, thresholds: int) -> None:
        self.found = np.zeros(resamples, np.int32)
        self.above = np.zeros((resamples, thresholds), np.int32)
        self.precision, self.lost = np.zeros(resamples), np.zeros(resamples)

    def rates(self, reals: Whole, decided: Whole) -> Array:
        """Return average precision, AUROC and accuracies in percent: ``[N, 2 + T]``.

        Args:
            reals: ``[N]``, how many there are.
            decided: ``[N, T]``, how many of them are decided rightly.
        """
        # Their product has more than 4 bytes.
        fakes, whole = self.found.astype(np.float64), reals.astype(np.float64)
        pairs = fakes * whole
        accuracy = ratio((self.above + decided).T, fakes + whole)
        rates = np.stack([ratio(self.precision, fakes), ratio(pairs - self.lost, pairs), *accuracy])
        return np.where(pairs > 0, 100 * rates, np.nan).T


def _rates(counts: Counts, reals: _Reals, fakes: Sequence[Sequence[_Fakes]]) -> Array:
    """Return the scores of each test set for ``[N, P]`` counts: ``[N, C * (2 + T)]``."""
    size = max(1, _BLOCK // counts.shape[-1])
    blocks = []
    for start in range(0, len(counts), size):
        block = counts[start : start + size]
        alarms = _running(block.take(reals.photos, -1))
        drawn = alarms[:, -1]
        decided = drawn[:, None] - alarms.take(reals.above, -1)
        rates = []
        for parts in fakes:
            ranked = _Ranked(len(block), decided.shape[-1])
            for part in parts:
                part.add(block, alarms, ranked)
            rates.append(ranked.rates(drawn, decided))
        blocks.append(np.concatenate(rates, -1))
    return np.concatenate(blocks)


def _falling(scores: Array) -> tuple[Array, Indices]:
    """Return the ``[P]`` scores that are not NaN in falling order, and their places."""
    order = np.argsort(-scores)[: np.isfinite(scores).sum()]  # NaN come last
    return scores[order], order


def _at_least(falling: Array, scores: Array, side: Any) -> Indices:
    """Return how many of falling scores are at least each of others, or (``left``) above it."""
    return np.searchsorted(-falling, -scores, side)


def _dot(weights: Array, values: NDArray[Any]) -> Array:
    """Return the sum of each row of ``[N, I]`` products."""
    # Numpy's other products start threads, which wait for each other longer than they compute.
    total: Array = np.einsum("ni,ni->n", weights, values)
    return total


def _running(counts: Counts) -> Whole:
    """Return for ``[N, I]`` counts how many the first 0, 1, ... I of them are: ``[N, I + 1]``."""
    sums = np.zeros((len(counts), counts.shape[-1] + 1), np.int32)
    np.cumsum(counts, -1, np.int32, sums[:, 1:])
    return sums
