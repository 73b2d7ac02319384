"""How well image scores tell fakes from reals, for every resample at once."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from declip_pl.cross_eval.statistics.arrays import (
    Array,
    Indices,
    Statistic,
    mean_over,
    ratio,
    times_drawn,
)

Detection = Literal["ap", "auroc", "accuracy"]


def detection(
    metric: Detection, fakes: Array, reals: Array, thresholds: Sequence[float] | None = None
) -> Statistic:
    """Return how well image scores tell fakes from reals, in percent, mean over seeds.

    A drawn photo brings its fake and its real, if it has both. Equal scores count as in
    scikit-learn: half for AUROC, one step for AP. NaN where one of the classes is missing.

    Args:
        metric: Average precision, area under the ROC curve, or share of right decisions.
        fakes: ``[S, P]`` scores in [0, 1] of manipulated photos.
        reals: ``[S, P]`` scores of the real ones.
        thresholds: For accuracy, each seed's: a score above it says fake.
    """
    levels = [_Levels.of(*pair) for pair in zip(fakes, reals, strict=True)]
    rates: list[Callable[[Array, Array], Array]]
    if metric == "accuracy":
        if thresholds is None:
            raise ValueError("accuracy needs a threshold for each seed")
        pairs = zip(levels, thresholds, strict=True)
        rates = [_accuracy(level.values > threshold) for level, threshold in pairs]
    else:
        rates = [{"ap": _average_precision, "auroc": _auroc}[metric]] * len(levels)

    def statistic(photos: Indices, seeds: Indices) -> Array:
        drawn = times_drawn(photos, fakes.shape[-1])
        scored = [
            _rate(rate, *level.counts(drawn)) for rate, level in zip(rates, levels, strict=True)
        ]
        return mean_over(np.stack(scored, -1), seeds)

    return statistic


class _Levels(NamedTuple):
    """One seed's distinct scores in rising order, and which images have them.

    ``values`` is ``[L]``; ``photos`` and ``fake`` are ``[I]``, the images in rising order of their
    score; ``starts`` is ``[L]``, where each level's images begin.
    """

    values: Array
    photos: Indices
    fake: NDArray[np.bool_]
    starts: Indices

    @classmethod
    def of(cls, fakes: Array, reals: Array) -> "_Levels":
        """Sort ``[P]`` scores of fakes and of reals; NaN are left out."""
        scores = np.concatenate([fakes, reals])
        order = np.argsort(scores)[: np.isfinite(scores).sum()]  # NaN come last
        values, starts = np.unique(scores[order], return_index=True)
        return cls(values, order % len(fakes), order < len(fakes), starts)

    def counts(self, drawn: Array) -> tuple[Array, Array]:
        """Return how many fakes and how many reals were drawn of each level: ``[..., L]``."""
        images = drawn[..., self.photos]
        fakes = np.add.reduceat(images * self.fake, self.starts, axis=-1)
        return fakes, np.add.reduceat(images, self.starts, axis=-1) - fakes


def _rate(rate: Callable[[Array, Array], Array], fakes: Array, reals: Array) -> Array:
    """Return a rate of ``[..., L]`` counts in percent, NaN where a class is missing."""
    both = (fakes.sum(-1) > 0) & (reals.sum(-1) > 0)
    return np.where(both, 100 * rate(fakes, reals), np.nan)


def _average_precision(fakes: Array, reals: Array) -> Array:
    falling = fakes[..., ::-1]
    found = (fakes + reals)[..., ::-1].cumsum(-1)
    precision = falling.cumsum(-1) / np.maximum(found, 1)
    return ratio((falling * precision).sum(-1), fakes.sum(-1))


def _auroc(fakes: Array, reals: Array) -> Array:
    below = reals.cumsum(-1) - reals / 2
    return ratio((fakes * below).sum(-1), fakes.sum(-1) * reals.sum(-1))


def _accuracy(above: NDArray[np.bool_]) -> Callable[[Array, Array], Array]:
    """Return the share of right decisions if the levels ``above`` are called fake."""

    def accuracy(fakes: Array, reals: Array) -> Array:
        return ratio(np.where(above, fakes, reals).sum(-1), (fakes + reals).sum(-1))

    return accuracy
