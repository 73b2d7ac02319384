"""Statistics on hand-made cases, against independent implementations, and by simulation."""

import warnings
from math import isnan, nan

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from declip_pl.cross_eval import statistics as s
from declip_pl.cross_eval.statistics import bootstrap, significance

ONE_SEED = np.zeros(1, np.intp)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def everything(statistic, photos, seeds=1):
    return float(statistic(np.arange(photos), np.arange(seeds)))


def coverage(make, truth, photos, seeds=1, repetitions=500):
    """Return how many percent of intervals of simulated statistics contain the truth."""
    rng = np.random.default_rng(0)
    estimates = [s.estimate(make(rng), photos, seeds, photos) for _ in range(repetitions)]
    return 100 * np.mean([found.low <= truth <= found.high for found in estimates])


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)


# Means over cells


def naive_cell_means(scores, photos, seeds):
    def mean(values):
        defined = [value for value in values if not isnan(value)]
        return sum(defined) / len(defined) if defined else nan

    return [mean([mean([cell[i][p] for p in photos]) for i in seeds]) for cell in scores]


@pytest.fixture
def holes():
    """Three cells, two seeds, six photos; the last cell has two photos of its own."""
    rng = np.random.default_rng(1)
    scores = rng.uniform(0, 100, (3, 2, 6))
    scores[0, :, 4:] = nan
    scores[1, 1, 2] = nan
    scores[2, :, :4] = nan
    return scores


def test_a_resample_without_one_of_the_cells_does_not_count():
    """One of three trainings failed for the first cell: its interval is not drawn to the other."""
    rng = np.random.default_rng(0)
    scores = np.stack([rng.normal(20, 2, (3, 100)), rng.normal(60, 2, (3, 100))])
    scores[0, 1:] = nan
    cells = [s.mean_of_cells(cell[None]) for cell in scores]
    for statistic in (s.combined(cells, "mean"), s.mean_of_cells(scores)):
        found = s.estimate(statistic, 100, 3, 200)
        assert 39 < found.low < found.value < found.high < 41
    assert s.estimate(s.combined(cells, "lowest"), 100, 3, 200).high < 21


def worst_of_cells(scores):
    return s.combined([s.mean_of_cells(cell[None]) for cell in scores], "lowest")


def test_mean_and_worst_of_cells_equal_a_naive_loop(holes):
    rng = np.random.default_rng(2)
    photos, seeds = rng.integers(0, 6, (40, 6)), rng.integers(0, 2, (40, 2))
    naive = [naive_cell_means(holes, p, i) for p, i in zip(photos, seeds, strict=True)]
    assert any(isnan(mean) for means in naive for mean in means)  # photos 4 and 5 not drawn
    for found, expected in ((s.mean_of_cells(holes), np.mean), (worst_of_cells(holes), np.min)):
        values = [expected(means) for means in naive]  # NaN where a cell is not defined
        assert found(photos, seeds) == pytest.approx(values, nan_ok=True)


def test_leading_axes_are_broadcast(holes):
    photos, seeds = np.random.default_rng(3).integers(0, 6, (5, 1, 6)), np.array([[0, 0], [1, 1]])
    table = s.mean_of_cells(holes)(photos, seeds)
    assert table.shape == (5, 2)
    assert table[3, 1] == pytest.approx(float(s.mean_of_cells(holes)(photos[3, 0], seeds[1])))


def test_undefined_cells_have_no_mean():
    empty = np.full((2, 1, 3), nan)
    assert isnan(everything(s.mean_of_cells(empty), 3))
    assert isnan(everything(worst_of_cells(empty), 3))
    assert isnan(everything(s.mean_of_cells(np.empty((1, 1, 0))), 0))


def test_a_seed_that_failed_in_a_cell_is_left_out():
    scores = np.array([[[10.0, 20.0], [nan, nan]], [[30.0, 30.0], [50.0, 50.0]]])
    assert everything(s.mean_of_cells(scores), 2, 2) == pytest.approx((15 + 40) / 2)


# Intervals


def test_an_estimate_holds_value_interval_and_count():
    found = s.estimate(s.mean_of_cells(np.array([[[10.0, 20.0, 30.0, 40.0]]])), 4, 1, 4)
    assert found.value == pytest.approx(25)
    assert found.n == 4
    assert 10 <= found.low < 25 < found.high <= 40


def test_the_interval_is_about_twice_the_standard_error():
    scores = np.random.default_rng(0).normal(50, 20, (1, 1, 400))
    found = s.estimate(s.mean_of_cells(scores), 400, 1, 400)
    half = norm.ppf(0.975) * scores.std() / 20
    assert (found.low, found.high) == pytest.approx(
        (found.value - half, found.value + half), abs=0.2
    )


def test_the_same_numbers_come_out_every_time_and_cells_are_drawn_alike():
    scores = np.random.default_rng(0).uniform(0, 100, (1, 2, 30))
    first, again, shifted = (
        s.estimate(s.mean_of_cells(values), 30, 2, 30) for values in (scores, scores, scores + 7)
    )
    assert first == again
    assert shifted[:3] == pytest.approx([value + 7 for value in first[:3]])


def test_batches_bound_how_many_photos_are_drawn_at_once():
    seen = []

    def statistic(photos, seeds):
        seen.append(photos.size)
        assert seeds.shape == (*photos.shape[:-1], 3)
        return photos.mean(-1)

    s.estimate(statistic, 10_000, 3, 10_000)
    assert max(seen) <= 2**20
    assert sum(seen) == (s.RESAMPLES + 1) * 10_000


@pytest.mark.parametrize(("photos", "n"), [(1, 1), (1, 4), (10, 1)])
def test_fewer_than_two_photos_have_no_interval(photos, n):
    scores = np.full((1, 2, photos), nan)
    scores[..., 0] = 60
    found = s.estimate(s.mean_of_cells(scores), photos, 2, n)
    assert found.value == 60
    assert isnan(found.low)
    assert isnan(found.high)


def test_undefined_resamples_are_left_out():
    scores = np.array([[[40.0, 60.0, nan, nan, nan, nan]]])  # (4 / 6) ** 6: 9 % hold neither
    found = s.estimate(s.mean_of_cells(scores), 6, 1, 2)
    assert found == s.Estimate(50, 40, 60, 2)


def test_an_undefined_score_has_no_interval():
    found = s.estimate(s.mean_of_cells(np.full((1, 1, 5), nan)), 5, 1, 5)
    assert all(isnan(part) for part in found[:3])


def test_drawing_seeds_widens_the_interval():
    scores = np.random.default_rng(0).normal(50, 5, (1, 1, 100)) + np.array([[[-20.0], [0], [20]]])
    one = s.estimate(s.mean_of_cells(scores[:, :1]), 100, 1, 100)
    three = s.estimate(s.mean_of_cells(scores), 100, 3, 100)
    assert three.high - three.low > 10 * (one.high - one.low)


def test_differences_are_paired_by_photo_and_not_by_seed():
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 100, (1, 1, 50))
    b = np.concatenate([a, a + 6], axis=1)
    found = s.estimate_difference(s.mean_of_cells(a), s.mean_of_cells(b), 50, (1, 2), 50)
    assert found[:3] == pytest.approx((3, 0, 6))  # what photos add cancels, b's seeds do not


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1), (2, 0.7)])
def test_intervals_of_skewed_scores_contain_the_mean(few_resamples, alpha, beta):
    def make(rng):
        return s.mean_of_cells(100 * rng.beta(alpha, beta, (1, 1, 100)))

    assert 93 <= coverage(make, 100 * alpha / (alpha + beta), 100, repetitions=1000) <= 97


def test_intervals_count_a_photo_once_however_many_generators_manipulated_it(few_resamples):
    def make(rng):  # had photos been drawn in each cell apart, 78 % would contain it
        photo = rng.normal(0, 20, (1, 1, 100))
        return s.mean_of_cells(50 + photo + rng.normal(0, 10, (3, 1, 100)))

    assert 93 <= coverage(make, 50, 100) <= 97


@pytest.mark.parametrize(
    ("seeds", "between", "low", "high"),
    [(3, 2, 93, 97), (10, 3, 92, 97), (2, 100, 45, 60), (3, 100, 70, 82)],
    ids=["three alike", "ten", "two that differ", "three that differ"],
)
def test_intervals_of_few_seeds_are_as_good_as_the_docstring_says(
    few_resamples, seeds, between, low, high
):
    def make(rng):  # the mean over photos has a standard error of 3
        photo, seed = rng.normal(0, 30, (1, 1, 100)), rng.normal(0, between, (1, seeds, 1))
        return s.mean_of_cells(50 + photo + seed + rng.normal(0, 10, (1, seeds, 100)))

    assert low <= coverage(make, 50, 100, seeds) <= high


@pytest.mark.parametrize("shared", [0.0, 0.8], ids=["independent", "reals are the fakes' photos"])
def test_intervals_contain_the_auroc(few_resamples, shared):
    def make(rng):
        photo = shared * rng.normal(size=100)
        own = np.sqrt(1 - shared**2) * rng.normal(size=(2, 100))
        fakes, reals = 1 / (1 + np.exp(-(photo + own + [[1], [0]])))
        return s.detection("auroc", fakes[None], reals[None], None)

    # A fake is compared with the reals of all photos, so sharing photos doesn't move the truth.
    truth = 100 * norm.cdf(1 / np.sqrt(2))
    assert 93 <= coverage(make, truth, 100, repetitions=1000) <= 97


def test_the_worst_of_clearly_different_cells_is_covered(few_resamples):
    def make(rng):
        means = np.array([20, 35, 50])[:, None, None]
        return worst_of_cells(means + rng.normal(0, 25, (3, 1, 100)))

    assert 93 <= coverage(make, 20, 100) <= 97


# Detection


@pytest.fixture(params=["continuous", "ties"])
def image_scores(request):
    """Two seeds, 30 photos: some without a fake, some without a real."""
    rng = np.random.default_rng(4)
    fakes, reals = rng.beta(2, 3, (2, 30)), rng.beta(2, 4, (2, 30))
    fakes[:, :5], reals[:, 10:20] = nan, nan
    rounding = 1 if request.param == "ties" else 9
    return fakes.round(rounding), reals.round(rounding)


@pytest.mark.parametrize("metric", ["ap", "auroc", "accuracy"])
def test_detection_equals_scikit_learn_on_every_resample(image_scores, metric):
    fakes, reals = image_scores
    thresholds = [0.3, 0.45]
    rng = np.random.default_rng(5)
    photos, seeds = rng.integers(0, 30, (20, 30)), rng.integers(0, 2, (20, 2))

    def reference(drawn, seed):
        values = np.concatenate([fakes[seed, drawn], reals[seed, drawn]])
        labels = np.repeat([1, 0], len(drawn))[np.isfinite(values)]
        values = values[np.isfinite(values)]
        if metric == "accuracy":
            return 100 * accuracy_score(labels, values > thresholds[seed])
        rate = {"ap": average_precision_score, "auroc": roc_auc_score}[metric]
        return 100 * rate(labels, values)

    statistic = s.detection(metric, fakes, reals, thresholds)
    expected = [
        np.mean([reference(drawn, seed) for seed in some])
        for drawn, some in zip(photos, seeds, strict=True)
    ]
    assert statistic(photos, seeds) == pytest.approx(expected)


def test_detection_by_hand():
    fakes, reals = np.array([[0.9, 0.5, 0.5]]), np.array([[0.5, 0.1, nan]])
    # Pairs: 0.9 wins two; each 0.5 ties with one and wins one.
    assert everything(s.detection("auroc", fakes, reals), 3) == pytest.approx(100 * 5 / 6)
    # Thresholds 0.9: precision 1, recall 1/3; 0.5: precision 3/4, recall 1.
    assert everything(s.detection("ap", fakes, reals), 3) == pytest.approx(100 * (1 + 1.5) / 3)
    # Above 0.5 lies 0.9 alone: one fake and both reals are right.
    assert everything(s.detection("accuracy", fakes, reals, [0.5]), 3) == pytest.approx(60)


@pytest.mark.parametrize("metric", ["ap", "auroc", "accuracy"])
def test_a_missing_class_is_undefined(metric):
    none, some = np.full((1, 4), nan), np.array([[0.1, 0.2, 0.3, 0.4]])
    for fakes, reals in ((some, none), (none, some), (none, none)):
        assert isnan(everything(s.detection(metric, fakes, reals, [0.5]), 4))


def test_accuracy_needs_thresholds():
    with pytest.raises(ValueError, match="threshold"):
        s.detection("accuracy", np.zeros((1, 2)), np.zeros((1, 2)))


def test_resamples_without_a_class_are_left_out_of_the_interval():
    fakes, reals = np.array([[0.9, nan, nan]]), np.array([[nan, 0.1, 0.2]])
    assert s.estimate(s.detection("auroc", fakes, reals), 3, 1, 3) == s.Estimate(100, 100, 100, 3)


# Calibration


def test_image_histograms_put_every_image_into_its_bin():
    scores, labels = np.array([0.0, 1 / 15, 0.5, 1.0, nan]), np.array([0, 1, 1, 1, 1])
    histogram = s.image_histogram(scores, labels)
    assert histogram.shape == (5, 3, s.BINS)
    assert [int(row[0].argmax()) for row in histogram[:4]] == [0, 1, 7, 14]
    assert histogram[:, 0].sum(1).tolist() == [1, 1, 1, 1, 0]
    assert histogram[:, 1].sum(1) == pytest.approx([0, 1 / 15, 0.5, 1, 0])
    assert histogram[:, 2].sum(1).tolist() == [0, 1, 1, 1, 0]


def naive_calibration_error(scores, labels):
    bins = np.minimum((scores * s.BINS).astype(int), s.BINS - 1)
    gaps = [
        (bins == b).mean() * abs(labels[bins == b].mean() - scores[bins == b].mean())
        for b in set(bins)
    ]
    return 100 * sum(gaps)


def test_calibration_error_equals_a_naive_loop_on_every_resample():
    rng = np.random.default_rng(6)
    scores = rng.random((2, 40))
    labels = (rng.random((2, 40)) < scores**2).astype(float)
    histograms = np.stack([s.image_histogram(*pair) for pair in zip(scores, labels, strict=True)])
    photos, seeds = rng.integers(0, 40, (25, 40)), rng.integers(0, 2, (25, 2))
    expected = [
        np.mean([naive_calibration_error(scores[i, drawn], labels[i, drawn]) for i in some])
        for drawn, some in zip(photos, seeds, strict=True)
    ]
    assert s.calibration_error(histograms)(photos, seeds) == pytest.approx(expected)


def test_calibration_error_by_hand():
    histogram = np.zeros((1, 2, 3, s.BINS))
    histogram[0, 0, :, 3] = 60, 15, 30  # says 0.25, half are fake
    histogram[0, 1, :, 14] = 20, 19, 20  # says 0.95, all are fake
    statistic = s.calibration_error(histogram)
    assert everything(statistic, 2) == pytest.approx(100 * (0.75 * 0.25 + 0.25 * 0.05))
    assert float(statistic(np.array([1, 1]), ONE_SEED)) == pytest.approx(5)
    assert isnan(everything(s.calibration_error(np.full_like(histogram, nan)), 2))


def test_a_biased_statistic_lies_within_its_interval():
    scores = np.random.default_rng(0).random(100)  # perfectly calibrated, yet not 0 of 100 images
    labels = np.random.default_rng(1).random(100) < scores
    statistic = s.calibration_error(s.image_histogram(scores, labels)[None])
    found = s.estimate(statistic, 100, 1, 100)
    assert found.low <= found.value <= found.high


def test_reliability_by_hand():
    histogram = np.zeros((3, s.BINS))
    histogram[:, 3] = 60, 15, 30
    histogram[:, 14] = 20, 19, 20
    diagram = s.reliability(histogram)
    assert diagram["probability"][3] == pytest.approx(0.25)
    assert diagram["fake"][14] == 1
    assert diagram["share"][3] == 0.75
    assert diagram["probability"][0] is diagram["fake"][0] is None
    assert diagram["share"][0] == 0


# Tests


def test_sign_flips_by_hand():
    # Of 8 equally likely sign patterns one gives a mean as high, one a mean as low.
    assert s.paired_p_value(np.array([1.0, 2.0, 3.0, nan])) == pytest.approx(0.25)
    assert s.paired_p_value(np.array([-1.0, -2.0, -3.0])) == pytest.approx(0.25)


def test_many_differences_of_one_sign_are_as_significant_as_resampling_can_say():
    assert s.paired_p_value(np.full(200, 2.0)) == pytest.approx(2 / (s.PERMUTATIONS + 1))
    noise = np.random.default_rng(0).normal(size=100)
    assert s.paired_p_value(noise - noise.mean()) > 0.9


def test_no_differences_are_no_evidence():
    assert s.paired_p_value(np.zeros(50)) == 1
    assert s.paired_p_value(np.array([5.0])) == 1
    assert isnan(s.paired_p_value(np.array([nan, nan])))


def test_p_values_are_uniform_where_nothing_differs(monkeypatch):
    monkeypatch.setattr(significance, "PERMUTATIONS", 500)
    rng = np.random.default_rng(0)
    p_values = np.array([s.paired_p_value(rng.standard_t(3, 40)) for _ in range(400)])
    assert np.mean(p_values < 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.mean(p_values < 0.5) == pytest.approx(0.5, abs=0.06)


def test_holm_by_hand():
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert s.holm([0.6, 0.7]) == [1, 1]
    assert s.holm([]) == []


def test_holm_ignores_what_was_not_tested():
    corrected = s.holm([0.02, nan, 0.03])
    assert corrected[::2] == pytest.approx([0.04, 0.04])
    assert isnan(corrected[1])
