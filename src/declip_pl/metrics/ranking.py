"""What the metrics of one image share: its pixel counts, and the single sort of its pixels.

Pixels are counted on the host: numpy sorts integers by counting, eight times faster than torch
sorts floats.
"""

from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

ERODE, DILATE = 15, 11
"""Sides of the filters that make the border that does not count (TruFor's protocol, used by the
paper)."""

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]
Scores = NDArray[np.float64]


class Counts(NamedTuple):
    """How many pixels are what, at one threshold or at several.

    Attributes:
        hits: Fake pixels that are called fake; a number, or an array with one for each threshold.
        predicted: Pixels that are called fake; like ``hits``.
        fakes: Fake pixels in all.
        pixels: Pixels in all. Those that do not count are in none of the four.
    """

    hits: Any
    predicted: Any
    fakes: int
    pixels: int

    def iou(self) -> Scores:
        """Return the intersection over union in percent; 100 for nothing against nothing."""
        return _percent(self.hits, self.predicted + self.fakes - self.hits)

    def f1(self) -> Scores:
        """Return F1 in percent; 100 for nothing against nothing."""
        return _percent(2 * self.hits, self.predicted + self.fakes)

    def inverse(self) -> "Counts":
        """Return the counts where the other pixels are called fake."""
        return Counts(self.fakes - self.hits, self.pixels - self.predicted, self.fakes, self.pixels)


class Ranking:
    """One image's probabilities and mask, and what its metrics share.

    Everything that takes time is done when a metric first asks for it, and once.

    Args:
        probabilities: ``[H, W]`` float32 in [0, 1].
        mask: ``[H, W]`` bool, True = fake.
        tuned: The threshold that was chosen on validation photos, if there is one.
        floor: The decision's, if there is one (:mod:`declip_pl.metrics.decision`).

    Attributes:
        probabilities: As given.
        mask: As given.
        tuned: As given.
        floor: As given.
    """

    def __init__(
        self,
        probabilities: Map,
        mask: Mask,
        tuned: float | None = None,
        floor: float | None = None,
    ) -> None:
        self.probabilities = probabilities
        self.mask = mask
        self.tuned = tuned
        self.floor = floor
        self._above: dict[tuple[float, bool], Counts] = {}
        self._at_fakes: dict[bool | None, Counts] = {}

    @cached_property
    def has_fakes(self) -> bool:
        """Whether any pixel is fake."""
        return bool(self.mask.any())

    @cached_property
    def inner(self) -> Mask:
        """The fakes that are left without the mask's border: the eroded mask, ``[H, W]``."""
        eroded = cv2.erode(self.mask.view(np.uint8), np.ones((ERODE, ERODE), np.uint8))
        return eroded.view(np.bool_)

    @cached_property
    def border(self) -> Mask:
        """The pixels along the mask's outline that some metrics do not count, ``[H, W]``."""
        near = cv2.dilate(self.mask.view(np.uint8), np.ones((DILATE, DILATE), np.uint8))
        return near.view(np.bool_) & ~self.inner

    @property
    def is_all_border(self) -> bool:
        """Whether there are fakes, but none of them is left without the border."""
        return self.has_fakes and not self.inner.any()

    def above(self, threshold: float, border: bool = True) -> Counts:
        """Count the pixels of which the probability is above a threshold.

        Args:
            threshold: In [0, 1]; a probability equal to it is not above.
            border: Count the mask's border, too.
        """
        key = (threshold, border)
        if key not in self._above:
            self._above[key] = self._count(self.probabilities > np.float32(threshold), border)
        return self._above[key]

    def at_fakes(self, border: bool = True) -> Counts:
        """Count at each fake's own probability, itself included.

        No other threshold matters for a best score: between two of them only alarms are gained.

        Args:
            border: Count the mask's border, too.

        Returns:
            Counts with an entry for each fake that counts, those of low probability first.
        """
        return self._counts()[border]

    def up_to_fakes(self) -> Counts:
        """Count what the inverse of the map calls fake: at each fake, all that is not above it.

        Without the mask's border; the result is as of :meth:`at_fakes`.
        """
        return self._counts()[None]

    def _counts(self) -> dict[bool | None, Counts]:
        """Return what :meth:`at_fakes` counts with the border and without, and the inverse's."""
        if not self._at_fakes:
            plain, inner = self._ranked()
            self._at_fakes = {True: plain.at_fakes(), False: inner.at_fakes()}
            self._at_fakes[None] = inner.up_to_fakes()
        return self._at_fakes

    def _count(self, above: Mask, border: bool) -> Counts:
        fake = self.mask if border else self.inner
        hits, fakes = (int(np.count_nonzero(pixels)) for pixels in (above & fake, fake))
        predicted, pixels = int(np.count_nonzero(above)), above.size
        if not border:
            predicted -= int(np.count_nonzero(above & self.border))
            pixels -= int(np.count_nonzero(self.border))
        return Counts(hits, predicted, fakes, pixels)

    def _ranked(self) -> tuple["_Order", "_Order"]:
        """Sort the pixels once and return their order with the mask's border and without it."""
        # Bits of floats in [0, 1] leave two free: is it fake, does it count without the border.
        keys = self.probabilities.view(np.uint32) << np.uint32(2)
        keys |= self.mask.view(np.uint8) << 1
        keys |= ~self.border
        keys = _in_order(keys.ravel())
        values, is_fake, counts = keys >> np.uint32(2), keys & 2 > 0, keys & 1 > 0
        fakes, ignored = np.flatnonzero(is_fake), np.flatnonzero(~counts)
        return _Order(values, fakes, ignored[:0]), _Order(values, fakes[counts[fakes]], ignored)


class _Order(NamedTuple):
    """An image's pixels in rising order of probability.

    ``values`` are the probabilities' bits, which rise as they do; ``fakes`` and ``ignored`` are
    the ranks of the fakes that count and of all pixels that do not.
    """

    values: NDArray[np.uint32]
    fakes: NDArray[np.intp]
    ignored: NDArray[np.intp]

    def at_fakes(self) -> Counts:
        found = self.values[self.fakes]
        ranks = self.fakes.copy()
        tied = found == self.values[ranks - 1]  # before rank 0 comes the last: equal if all are
        ranks[tied] = np.searchsorted(self.values, found[tied])
        return self._from(ranks)

    def up_to_fakes(self) -> Counts:
        ends = np.searchsorted(self.values, self.values[self.fakes], side="right")
        return self._from(ends).inverse()

    def _from(self, ranks: NDArray[np.intp]) -> Counts:
        """Count where all pixels from each of some ranks on are called fake."""
        hits = len(self.fakes) - np.searchsorted(self.fakes, ranks)
        ignored = len(self.ignored) - np.searchsorted(self.ignored, ranks)
        total = len(self.values)
        return Counts(hits, total - ranks - ignored, len(self.fakes), total - len(self.ignored))


def _in_order(keys: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Sort by the lower halves, then by the upper ones: numpy sorts 16 bits by counting.

    That takes 0.6 ms for 256 x 256 whatever vector units there are; ``np.sort`` takes 0.2 with
    AVX2, but 1.3 with the AVX-512 of Zen 4.
    """
    for shift in (0, 16):
        halves = (keys >> np.uint32(shift)).astype(np.uint16)
        keys = keys[np.argsort(halves, kind="stable")]
    return keys


def _percent(part: Any, whole: Any) -> Scores:
    return np.where(np.equal(whole, 0), 100.0, 100 * part / np.maximum(whole, 1))
