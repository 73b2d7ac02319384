"""Statistics on hand-made cases, against independent implementations, and by simulation."""

import warnings
from math import isnan, nan

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from declip_pl.cross_eval import statistics as s
from declip_pl.cross_eval.statistics import arrays, bootstrap, significance

ONE_SEED = np.zeros(1, np.intp)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def everything(statistic, photos, seeds=1):
    return float(statistic(np.ones(photos), np.arange(seeds))[0])


def counted(drawn, photos=None):
    """Return how often each photo is among the drawn ones, ``[..., P]``."""
    each = np.arange(photos or drawn.shape[-1])
    return (drawn[..., None, :] == each[:, None]).sum(-1).astype(float)


def estimate(statistic, photos, seeds, n):
    ((score,),) = s.sampled([(statistic, [n])], photos, seeds)
    return score.estimate()


def combined(statistics, how, photos, seeds, n):
    scores = s.sampled([(statistic, [n]) for statistic in statistics], photos, seeds)
    return s.combined([score for (score,) in scores], how).estimate()


def coverage(make, truth, photos, seeds=1, repetitions=500):
    """Return how many percent of intervals of simulated statistics contain the truth."""
    rng = np.random.default_rng(0)
    estimates = [estimate(make(rng), photos, seeds, photos) for _ in range(repetitions)]
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
    together = estimate(s.mean_of_cells(scores), 100, 3, 200)
    for found in (combined(cells, "mean", 100, 3, 100), together):
        assert 39 < found.low < found.value < found.high < 41
    assert combined(cells, "lowest", 100, 3, 100).high < 21


def worst_of_cells(scores):
    """The lowest of the cells as a statistic of its own."""
    means = s.means_of(scores)
    return lambda counts, seeds: means(counts, seeds).min(-1, keepdims=True)


def test_mean_and_worst_of_cells_equal_a_naive_loop(holes):
    rng = np.random.default_rng(2)
    photos, seeds = rng.integers(0, 6, (40, 6)), rng.integers(0, 2, (40, 2))
    naive = [naive_cell_means(holes, p, i) for p, i in zip(photos, seeds, strict=True)]
    assert any(isnan(mean) for means in naive for mean in means)  # photos 4 and 5 not drawn
    for found, expected in ((s.mean_of_cells(holes), np.mean), (worst_of_cells(holes), np.min)):
        values = [expected(means) for means in naive]  # NaN where a cell is not defined
        assert found(counted(photos), seeds)[:, 0] == pytest.approx(values, nan_ok=True)


@pytest.mark.parametrize("how", ["mean", "lowest", "highest"])
def test_combined_scores_are_those_of_a_statistic_of_all_cells(holes, how):
    means, reduce = s.means_of(holes), {"mean": np.mean, "lowest": np.min, "highest": np.max}[how]

    def statistic(counts, seeds):
        return reduce(means(counts, seeds), axis=-1)[..., None]

    cells = [s.mean_of_cells(cell[None]) for cell in holes]
    assert combined(cells, how, 6, 2, 4) == pytest.approx(estimate(statistic, 6, 2, 12))


def test_leading_axes_are_broadcast(holes):
    photos, seeds = np.random.default_rng(3).integers(0, 6, (5, 1, 6)), np.array([[0, 0], [1, 1]])
    table = s.mean_of_cells(holes)(counted(photos), seeds)
    assert table.shape == (5, 2, 1)
    alone = s.mean_of_cells(holes)(counted(photos[3, 0]), seeds[1])
    assert table[3, 1] == pytest.approx(alone)


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
    found = estimate(s.mean_of_cells(np.array([[[10.0, 20.0, 30.0, 40.0]]])), 4, 1, 4)
    assert found.value == pytest.approx(25)
    assert found.n == 4
    assert 10 <= found.low < 25 < found.high <= 40


def test_the_interval_is_about_twice_the_standard_error():
    scores = np.random.default_rng(0).normal(50, 20, (1, 1, 400))
    found = estimate(s.mean_of_cells(scores), 400, 1, 400)
    half = norm.ppf(0.975) * scores.std() / 20
    assert (found.low, found.high) == pytest.approx(
        (found.value - half, found.value + half), abs=0.2
    )


def test_the_same_numbers_come_out_every_time_and_cells_are_drawn_alike():
    scores = np.random.default_rng(0).uniform(0, 100, (1, 2, 30))
    first, again, shifted = (
        estimate(s.mean_of_cells(values), 30, 2, 30) for values in (scores, scores, scores + 7)
    )
    assert first == again
    assert shifted[:3] == pytest.approx([value + 7 for value in first[:3]])


def test_batches_bound_how_many_photos_are_drawn_at_once():
    seen = []

    def statistic(counts, seeds):
        seen.append(counts.size)
        assert seeds.shape == (*counts.shape[:-1], 3)
        assert (counts.sum(-1) == 10_000).all()
        return counts.max(-1, keepdims=True)

    estimate(statistic, 10_000, 3, 10_000)
    assert max(seen) <= 2**20
    assert sum(seen) == (s.RESAMPLES + 1) * 10_000


def test_the_same_numbers_come_out_in_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 100)
    scores = np.random.default_rng(0).uniform(0, 100, (2, 2, 30_000))  # three batches and a rest
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            ((score,),) = s.sampled([(s.mean_of_cells(scores), [60_000])], 30_000, 2)
            assert torch.get_num_threads() == threads
            found.append(score.resamples)
    finally:
        torch.set_num_threads(before)
    assert len(found[0]) == 100
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize("photos", [3, 1000, 40_000])
def test_draws_are_counted(photos):
    found = arrays.draw(np.random.default_rng(0), 7, photos)
    drawn = np.random.default_rng(0).integers(photos, size=(7, photos))
    assert np.array_equal(found, [np.bincount(row, minlength=photos) for row in drawn])


def test_statistics_that_are_found_together_are_as_they_are_alone():
    """Sums of the same photos, of others, of more than one piece, and what is no sum."""
    rng = np.random.default_rng(0)
    whole, some = rng.uniform(0, 100, (2, 2, 5000)), rng.uniform(0, 100, (1, 2, 5000))
    some[..., 100:] = nan
    histogram = s.image_histogram(rng.random(5000), rng.integers(0, 2, 5000))
    statistics = [
        s.means_of(whole), s.means_of(some), s.calibration_error(np.stack([histogram] * 2)),
        lambda counts, seeds: counts[..., :1], s.mean_of_cells(whole), s.mean_of_cells(some),
    ]  # fmt: skip
    counts, seeds = rng.poisson(1, (3, 5000)).astype(np.uint8), rng.integers(0, 2, (3, 2))
    found = arrays.joint(statistics)(counts, seeds)
    for together, alone in zip(found, statistics, strict=True):
        assert together == pytest.approx(alone(counts, seeds))
        assert together == pytest.approx(alone(counts.astype(float), seeds))


@pytest.mark.parametrize(("photos", "n"), [(1, 1), (1, 4), (10, 1)])
def test_fewer_than_two_photos_have_no_interval(photos, n):
    scores = np.full((1, 2, photos), nan)
    scores[..., 0] = 60
    found = estimate(s.mean_of_cells(scores), photos, 2, n)
    assert found.value == 60
    assert isnan(found.low)
    assert isnan(found.high)


def test_an_interval_goes_from_the_2_5th_to_the_97_5th_percentile():
    resamples = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert s.Sampled(500, resamples, 7).estimate() == (500, 25, 975, 7)
    assert s.Sampled(10, resamples, 7).estimate() == (10, 10, 975, 7)


def test_two_photos_have_an_interval():
    found = estimate(s.mean_of_cells(np.array([[[10.0, 30.0]]])), 2, 1, 2)
    assert found == s.Estimate(20, 10, 30, 2)


def test_undefined_resamples_are_left_out():
    scores = np.array([[[40.0, 60.0, nan, nan, nan, nan]]])  # (4 / 6) ** 6: 9 % hold neither
    found = estimate(s.mean_of_cells(scores), 6, 1, 2)
    assert found == s.Estimate(50, 40, 60, 2)


def test_an_undefined_score_has_no_interval():
    found = estimate(s.mean_of_cells(np.full((1, 1, 5), nan)), 5, 1, 5)
    assert all(isnan(part) for part in found[:3])
    assert found.n == 5


def test_drawing_seeds_widens_the_interval():
    scores = np.random.default_rng(0).normal(50, 5, (1, 1, 100)) + np.array([[[-20.0], [0], [20]]])
    one = estimate(s.mean_of_cells(scores[:, :1]), 100, 1, 100)
    three = estimate(s.mean_of_cells(scores), 100, 3, 100)
    assert three.high - three.low > 10 * (one.high - one.low)


def test_differences_are_paired_by_photo_and_not_by_seed():
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 100, (1, 1, 50))
    b = np.concatenate([a, a + 6], axis=1)
    pair = s.mean_of_cells(a), s.mean_of_cells(b)
    found = s.sampled_difference(*pair, 50, (1, 2), 50).estimate()
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
        return auroc(fakes[None], reals[None])

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


def auroc(fakes, reals):
    """The area under the ROC curve as a statistic of its own."""
    all_of_them = s.detection(fakes[None], reals, [])
    return lambda counts, seeds: all_of_them(counts, seeds)[..., 1:2]


def test_detection_equals_scikit_learn_on_every_resample(image_scores):
    fakes, reals = image_scores
    thresholds = [[0.3, 0.45], [0.5, 0.5]]
    rng = np.random.default_rng(5)
    photos, seeds = rng.integers(0, 30, (20, 30)), rng.integers(0, 2, (20, 2))

    def reference(drawn, seed):
        values = np.concatenate([fakes[seed, drawn], reals[seed, drawn]])
        labels = np.repeat([1, 0], len(drawn))[np.isfinite(values)]
        values = values[np.isfinite(values)]
        rates = [average_precision_score(labels, values), roc_auc_score(labels, values)]
        rates += [accuracy_score(labels, values > each[seed]) for each in thresholds]
        return 100 * np.array(rates)

    expected = [
        np.mean([reference(drawn, seed) for seed in some], axis=0)
        for drawn, some in zip(photos, seeds, strict=True)
    ]
    found = s.detection(fakes[None], reals, thresholds)(counted(photos), seeds)
    assert found == pytest.approx(np.array(expected))


def test_detection_by_hand():
    fakes, reals = np.array([[[0.9, 0.5, 0.5]]]), np.array([[0.5, 0.1, nan]])
    found = s.detection(fakes, reals, [[0.5]])(np.ones(3), ONE_SEED)
    # Thresholds 0.9: precision 1, recall 1/3; 0.5: precision 3/4, recall 1.
    # Pairs: 0.9 wins two; each 0.5 ties with one and wins one.
    # Above 0.5 lies 0.9 alone: one fake and both reals are right.
    assert found == pytest.approx([100 * (1 + 1.5) / 3, 100 * 5 / 6, 60])


def test_detection_of_many_photos_by_hand():
    fakes = np.linspace(0.5, 1, 70_000)[None, None]  # more pairs than 4 bytes can count
    reals = np.where(np.arange(70_000) < 35_000, 0.2, 2.0)[None]
    found = s.detection(fakes, reals, [])(np.ones(70_000), ONE_SEED)
    harmonic = (np.arange(70_000) + 1) / (np.arange(70_000) + 35_001)
    assert found == pytest.approx([100 * harmonic.mean(), 50])


@pytest.mark.parametrize("levels", [50, 2000, 10**6], ids=["many equal", "some", "few"])
def test_detection_of_several_test_sets_in_several_parts(levels):
    """More photos than are ranked at once, equal ones across where they are parted."""
    rng = np.random.default_rng(6)
    photos = 150_000
    fakes = rng.integers(0, levels, (2, 1, photos)) / levels
    reals = rng.integers(0, levels, (1, photos)) / levels
    fakes[1, 0, 1000:], reals[0, 2000:] = nan, nan
    counts = rng.poisson(1, (2, photos))
    found = s.detection(fakes, reals, [[0.4]])(counts, ONE_SEED)
    assert found.shape == (2, 2 * 3)
    for drawn, rates in zip(counts, found.reshape(2, 2, 3), strict=True):
        for fake, expected in zip(fakes[:, 0], rates, strict=True):
            values, labels = np.concatenate([fake, reals[0]]), np.repeat([1, 0], photos)
            there = np.isfinite(values)
            given = labels[there], values[there]
            weights = {"sample_weight": np.tile(drawn, 2)[there]}
            assert expected == pytest.approx([
                100 * average_precision_score(*given, **weights),
                100 * roc_auc_score(*given, **weights),
                100 * accuracy_score(given[0], given[1] > 0.4, **weights),
            ])  # fmt: skip


def test_a_missing_class_is_undefined():
    none, some = np.full((1, 4), nan), np.array([[0.1, 0.2, 0.3, 0.4]])
    for fakes, reals in ((some, none), (none, some), (none, none)):
        assert np.isnan(s.detection(fakes[None], reals, [[0.5]])(np.ones(4), ONE_SEED)).all()


def test_resamples_without_a_class_are_left_out_of_the_interval():
    fakes, reals = np.array([[0.9, nan, nan]]), np.array([[nan, 0.1, 0.2]])
    assert estimate(auroc(fakes, reals), 3, 1, 3) == s.Estimate(100, 100, 100, 3)


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
    found = s.calibration_error(histograms)(counted(photos), seeds)
    assert found[:, 0] == pytest.approx(expected)


def test_calibration_error_by_hand():
    histogram = np.zeros((1, 2, 3, s.BINS))
    histogram[0, 0, :, 3] = 60, 15, 30  # says 0.25, half are fake
    histogram[0, 1, :, 14] = 20, 19, 20  # says 0.95, all are fake
    statistic = s.calibration_error(histogram)
    assert everything(statistic, 2) == pytest.approx(100 * (0.75 * 0.25 + 0.25 * 0.05))
    assert statistic(np.array([0.0, 2.0]), ONE_SEED) == pytest.approx([5])
    assert isnan(everything(s.calibration_error(np.full_like(histogram, nan)), 2))


def test_fakes_of_which_nothing_is_suspected_are_an_error_of_100_percent():
    histogram = s.image_histogram(np.array([0.0, 1.0]), np.array([1, 1]))
    statistic = s.calibration_error(histogram[None])
    assert everything(statistic, 2) == 50
    assert statistic(np.array([1.0, 0.0]), ONE_SEED) == [100]


def test_a_biased_statistic_lies_within_its_interval():
    scores = np.random.default_rng(0).random(100)  # perfectly calibrated, yet not 0 of 100 images
    labels = np.random.default_rng(1).random(100) < scores
    statistic = s.calibration_error(s.image_histogram(scores, labels)[None])
    found = estimate(statistic, 100, 1, 100)
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
    assert s.paired_p_value(noise + 0.1) == s.paired_p_value(noise + 0.1)  # the same draws


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
