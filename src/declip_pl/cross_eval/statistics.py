"""How sure a score is: bootstrap intervals, paired tests, calibration.

Scores are float64 arrays whose last axis is the photos, aligned by name: column ``p`` is the same
photo in every cell and seed, however it was manipulated. NaN stands where a photo is not in a test
set or a score is not defined for it. Scores are percent, probabilities in [0, 1].

A photo is the unit that is drawn, with everything that was made of it: a resample never holds a
photo's manipulation by one generator and not that by another. Resamples are counted, not gathered:
how often each photo was drawn, times its scores, is one matrix product for all resamples.
"""

import warnings
from collections.abc import Callable, Sequence
from math import isnan, nan, prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from declip_pl.metrics import CALIBRATION_BINS

RESAMPLES = 2000
"""Of the bootstrap. The ends of an interval then move by about 0.06 standard errors."""
PERMUTATIONS = 9999
BINS = CALIBRATION_BINS
"""Equal parts of [0, 1] for calibration; a probability on an edge belongs to the upper one."""

_SEED = 0
_BATCH = 2**20  # photos drawn at once: 8 MiB for each array made of them

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Statistic = Callable[[Indices, Indices], Array]
"""Takes drawn photos ``[..., P]`` and drawn seeds ``[..., S]``; returns the score ``[...]``."""
Detection = Literal["ap", "auroc", "accuracy"]


class Estimate(NamedTuple):
    """A score, its 95 % interval, and how many photos it is made of."""

    value: float
    low: float
    high: float
    n: int


def estimate(statistic: Statistic, photos: int, seeds: int, n: int) -> Estimate:
    """Return a statistic with its percentile bootstrap interval over photos and seeds.

    Photos are drawn with replacement, and, where there are several, seeds independently of them.
    With one seed the interval is about this one trained model on other photos, and nothing in it
    says how another training would have come out. Drawing seeds adds that, but a few seeds can't
    show how much they vary. In simulations the intervals hold the true mean in 93 to 96 % of cases
    where trainings vary less than the mean over photos does, but where nearly all uncertainty is
    between trainings, only in 50 % with two seeds, 75 % with three, 84 % with five, 89 % with ten.

    The same numbers come out every time, and equal ``photos`` and ``seeds`` are drawn alike, so
    that differences between cells of one test set aren't blurred. Resamples for which the
    statistic is not defined are left out. An interval always holds its value.

    Args:
        statistic: What to estimate.
        photos: Length of its photo axis.
        seeds: Length of its seed axis.
        n: How many photos it is made of; the interval is NaN for fewer than two.
    """
    return _estimate(statistic, (photos, seeds), n)


def estimate_difference(
    a: Statistic, b: Statistic, photos: int, seeds: tuple[int, int], n: int
) -> Estimate:
    """Return ``b - a`` on the same drawn photos, the seeds of either drawn independently.

    Args:
        a: A statistic.
        b: Another, over the same photos.
        photos: Length of their photo axis.
        seeds: Lengths of the seed axes of ``a`` and of ``b``.
        n: As in :func:`estimate`.
    """

    def difference(drawn: Indices, seeds_a: Indices, seeds_b: Indices) -> Array:
        return b(drawn, seeds_b) - a(drawn, seeds_a)

    return _estimate(difference, (photos, *seeds), n)


def mean_of_cells(scores: Array) -> Statistic:
    """Return the mean over cells of each cell's mean over seeds of the mean over photos.

    A seed for which no photo is defined is left out of its cell's mean; without one of the cells
    the mean is NaN.

    Args:
        scores: ``[C, S, P]``.
    """
    means = _cell_means(scores)
    return lambda photos, seeds: np.asarray(means(photos, seeds).mean(-1), np.float64)


def combined(
    statistics: Sequence[Statistic], how: Literal["mean", "lowest", "highest"]
) -> Statistic:
    """Return the mean, the lowest or the highest of several statistics, drawn alike.

    Every resample has a worst cell of its own, so the interval of a ``lowest`` counts that it might
    be another; where several are about equally bad, the lowest of noisy values lies too low.

    Args:
        statistics: Over the same photos and seeds; NaN where one of them is not defined.
        how: How to combine them.
    """

    def statistic(photos: Indices, seeds: Indices) -> Array:
        # A resample without one of the cells is a mean of something else: NaN, and left out.
        values = np.stack([each(photos, seeds) for each in statistics], axis=-1)
        reduce: Any = {"mean": np.mean, "lowest": np.min, "highest": np.max}
        return np.asarray(reduce[how](values, axis=-1), np.float64)

    return statistic


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
        drawn = _times_drawn(photos, fakes.shape[-1])
        scored = [
            _rate(rate, *level.counts(drawn)) for rate, level in zip(rates, levels, strict=True)
        ]
        return _mean_over(np.stack(scored, -1), seeds)

    return statistic


def calibration_error(histograms: Array) -> Statistic:
    """Return the expected calibration error in percent, mean over seeds.

    The mean distance between what was predicted and what was true in each of :data:`BINS` bins,
    weighted by the bin's share. Noise within bins adds to it, and in resamples once more: on few
    images even a perfectly calibrated model has several percent, and the interval lies too high.

    Args:
        histograms: ``[S, P, 3, BINS]``: count, sum of probabilities, count of fakes.
    """
    trained, total = histograms.shape[:2]
    table = np.nan_to_num(histograms).swapaxes(0, 1).reshape(total, -1)

    def statistic(photos: Indices, seeds: Indices) -> Array:
        drawn = _times_drawn(photos, total)
        summed = (drawn @ table).reshape(*drawn.shape[:-1], trained, 3, BINS)
        count, probability, fake = np.moveaxis(summed, -2, 0)
        return _mean_over(100 * _ratio(abs(fake - probability).sum(-1), count.sum(-1)), seeds)

    return statistic


def image_histogram(scores: Array, labels: NDArray[Any]) -> Array:
    """Return each image's histogram for :func:`calibration_error`: one entry, none if NaN.

    Args:
        scores: ``[N]`` in [0, 1].
        labels: ``[N]`` 1 = fake, 0 = real.

    Returns:
        ``[N, 3, BINS]``: count, sum of probabilities, count of fakes.
    """
    histogram = np.zeros((len(scores), 3, BINS))
    (scored,) = np.isfinite(scores).nonzero()
    bins = np.minimum((scores[scored] * BINS).astype(np.intp), BINS - 1)
    histogram[scored, 0, bins] = 1
    histogram[scored, 1, bins] = scores[scored]
    histogram[scored, 2, bins] = labels[scored]
    return histogram


def reliability(histogram: Array) -> dict[str, list[float | None]]:
    """Return what a reliability diagram shows of a summed histogram.

    Args:
        histogram: ``[3, BINS]``: count, sum of probabilities, count of fakes.

    Returns:
        For each bin the mean ``probability`` and the share that is ``fake``, both None where it is
        empty, and the bin's ``share`` of everything. All in [0, 1].
    """
    count, probability, fake = histogram
    return {
        "probability": _optional(_ratio(probability, count)),
        "fake": _optional(_ratio(fake, count)),
        "share": _optional(_ratio(count, count.sum())),
    }


def paired_p_value(differences: Array) -> float:
    """Return the two-sided p-value of "the mean of these differences is zero".

    A sign-flip permutation test: under that hypothesis each difference could as well have had the
    other sign. Exact for up to 13 photos, else with :data:`PERMUTATIONS` random flips.

    Args:
        differences: ``[P]``, one for each photo; NaN are left out.

    Returns:
        The p-value; 1 if all are zero, NaN if none is defined.
    """
    defined = differences[np.isfinite(differences)]
    if not len(defined):
        return nan
    if len(defined) == 1 or not defined.any():
        return 1.0
    result = stats.permutation_test(
        (defined,), np.mean, permutation_type="samples", vectorized=True,
        n_resamples=PERMUTATIONS, batch=_batch(len(defined)), rng=np.random.default_rng(_SEED),
    )  # fmt: skip
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method, in the given order.

    Reporting those below 0.05 is then wrong about any of them in at most 5 % of cases. NaN stay
    NaN and don't count.
    """
    corrected = [nan] * len(p_values)
    tested = sorted((p, index) for index, p in enumerate(p_values) if not isnan(p))
    highest = 0.0
    for rank, (p, index) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[index] = highest
    return corrected


def mean_of_defined(values: Array) -> Array:
    """Return the mean over the last axis of what is not NaN; NaN, without a warning, of nothing."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))


def _estimate(statistic: Callable[..., Array], sizes: tuple[int, ...], n: int) -> Estimate:
    """Estimate a statistic of index arrays: photos, then seeds, as many as ``sizes``."""
    identity = [np.arange(size) for size in sizes]
    value = float(statistic(*identity))
    if min(sizes[0], n) < 2:  # noqa: PLR2004
        return Estimate(value, nan, nan, n)

    def resampled(*drawn: Indices, axis: int) -> Array:
        # SciPy refuses to draw from one observation: an axis of length 1 stays as it is.
        varied = iter(drawn)
        return statistic(*(next(varied) if len(whole) > 1 else whole for whole in identity))

    with warnings.catch_warnings():
        # A NaN among the resamples makes SciPy's own interval NaN; ours leaves it out.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            [whole for whole in identity if len(whole) > 1], resampled, paired=False, axis=-1,
            vectorized=True, method="percentile", n_resamples=RESAMPLES, batch=_batch(sizes[0]),
            rng=np.random.default_rng(_SEED),
        )  # fmt: skip
    distribution = result.bootstrap_distribution
    defined = distribution[np.isfinite(distribution)]
    if not len(defined):
        return Estimate(value, nan, nan, n)
    low, high = np.percentile(defined, [2.5, 97.5])
    # Biased statistics (calibration error, worst cell) can lie outside their own resamples.
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def _batch(photos: int) -> int:
    return max(1, _BATCH // photos)


def _cell_means(scores: Array) -> Callable[[Indices, Indices], Array]:
    """Return the function that gives ``[..., C]`` cell means of drawn photos and seeds."""
    shape = scores.shape[:-1]
    flat = scores.reshape(prod(shape), scores.shape[-1]).T
    defined = np.isfinite(flat)
    values, weights = np.where(defined, flat, 0.0), defined.astype(np.float64)

    def means(photos: Indices, seeds: Indices) -> Array:
        drawn = _times_drawn(photos, len(flat))
        by_seed = _ratio(drawn @ values, drawn @ weights).reshape(*drawn.shape[:-1], *shape)
        return _mean_over(by_seed, seeds[..., None, :])

    return means


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
    return _ratio((falling * precision).sum(-1), fakes.sum(-1))


def _auroc(fakes: Array, reals: Array) -> Array:
    below = reals.cumsum(-1) - reals / 2
    return _ratio((fakes * below).sum(-1), fakes.sum(-1) * reals.sum(-1))


def _accuracy(above: NDArray[np.bool_]) -> Callable[[Array, Array], Array]:
    """Return the share of right decisions if the levels ``above`` are called fake."""

    def accuracy(fakes: Array, reals: Array) -> Array:
        return _ratio(np.where(above, fakes, reals).sum(-1), (fakes + reals).sum(-1))

    return accuracy


def _times_drawn(photos: Indices, total: int) -> Array:
    """Return how often each of ``total`` photos is among ``[..., P]`` drawn: ``[..., total]``."""
    drawn = photos.reshape(prod(photos.shape[:-1]), photos.shape[-1])
    offsets = total * np.arange(len(drawn))[:, None]
    counts = np.bincount((drawn + offsets).ravel(), minlength=len(drawn) * total)
    return counts.reshape(*photos.shape[:-1], total).astype(np.float64)


def _mean_over(values: Array, seeds: Indices) -> Array:
    """Return the mean of ``[..., S]`` values over drawn seeds, leading axes broadcast."""
    leading = np.broadcast_shapes(values.shape[:-1], seeds.shape[:-1])
    drawn = np.take_along_axis(
        np.broadcast_to(values, (*leading, values.shape[-1])),
        np.broadcast_to(seeds, (*leading, seeds.shape[-1])),
        axis=-1,
    )
    return mean_of_defined(drawn)


def _ratio(part: Array, whole: Array | NDArray[np.intp]) -> Array:
    """Divide, with NaN for nothing of nothing."""
    with np.errstate(invalid="ignore"):
        return part / whole


def _optional(values: Array) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
