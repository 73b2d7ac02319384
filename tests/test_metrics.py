"""Each metric on hand-made cases and against an independent implementation."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter, minimum_filter
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    jaccard_score,
    roc_auc_score,
)

from declip_pl import metrics as m
from declip_pl.metrics import sizes
from declip_pl.metrics.accumulate import DetectionMetrics, LocalizationMetrics, ThresholdChoice

LOCALIZATION = [entry.name for entry in m.map_metrics(tuned=False)]


def box(size=64, top=10, left=10, side=30):
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.fixture(params=["continuous", "ties"])
def case(request):
    torch.manual_seed(0)
    masks = torch.stack([box(), box(side=20), box(top=0, left=0, side=40)])
    maps = 0.3 * masks + 0.7 * torch.rand(masks.shape)
    return (maps * 8).round() / 8 if request.param == "ties" else maps, masks


def test_iou_and_f1_equal_scikit_learn(case):
    maps, masks = case
    for index in range(len(masks)):
        truth, guess = masks[index].flatten(), maps[index].flatten() > 0.5
        assert m.iou(maps, masks)[index] == pytest.approx(100 * jaccard_score(truth, guess))
        assert m.f1(maps, masks)[index] == pytest.approx(100 * f1_score(truth, guess))


def test_average_precision_equals_scikit_learn(case):
    maps, masks = case
    expected = [
        100 * average_precision_score(t.flatten(), p.flatten())
        for p, t in zip(maps, masks, strict=True)
    ]
    assert m.average_precision(maps, masks).tolist() == pytest.approx(expected)


def test_best_f1_is_the_maximum_over_all_thresholds(case):
    maps, masks = (tensor[:, ::2, ::2] for tensor in case)
    for guess, truth, best in zip(maps, masks, m.best_f1(maps, masks), strict=True):
        tried = [f1_score(truth.flatten(), (guess >= t).flatten()) for t in guess.unique()[::7]]
        exact = max(f1_by_counts(guess >= t, truth, torch.ones_like(truth)) for t in guess.unique())
        assert best == pytest.approx(100 * exact)
        assert best >= 100 * max(tried) - 1e-4


def f1_by_counts(guess, truth, counted):
    hits = (guess & truth & counted).sum().item()
    return 2 * hits / ((guess & counted).sum().item() + (truth & counted).sum().item())


def without_border(mask):
    """TruFor's protocol, with SciPy's filters."""
    eroded = minimum_filter(mask.numpy().astype(np.uint8), 15, mode="constant", cval=1)
    dilated = maximum_filter(mask.numpy().astype(np.uint8), 11, mode="constant", cval=0)
    fake = torch.from_numpy(eroded.astype(bool))
    return fake, fake | torch.from_numpy(dilated == 0)


def test_border_f1_equals_an_implementation_with_scipy(case):
    maps, masks = case
    fixed, best = m.f1_border(maps, masks), m.best_f1_border(maps, masks)
    for index in range(len(masks)):
        fake, counted = without_border(masks[index])
        guess = maps[index]
        assert fixed[index] == pytest.approx(100 * f1_by_counts(guess > 0.5, fake, counted))
        values = guess.unique()
        exact = max(f1_by_counts(guess >= t, fake, counted) for t in values)
        assert best[index] == pytest.approx(100 * exact)


def trufor(maps, masks, fixed):
    """TruFor's F1 of each map: of it or its inverse, at 0.5 or at the best of all thresholds."""
    found = []
    for guess, mask in zip(maps, masks, strict=True):
        fake, counted = without_border(mask)
        cuts = [torch.tensor(0.5)] if fixed else [*guess.unique(), torch.tensor(-1.0)]
        both = [(guess > cut, guess <= cut) for cut in cuts]
        found.append(max(f1_by_counts(g, fake, counted) for pair in both for g in pair))
    return 100 * torch.tensor(found)


def test_trufors_f1_equals_an_implementation_with_scipy(case):
    maps, masks = case
    for given_maps in (maps, 1 - maps):
        scores = m.localization_scores(given_maps, masks)
        for name, fixed in (("f1_trufor_fixed", True), ("f1_trufor_best", False)):
            assert torch.allclose(scores[name], trufor(given_maps, masks, fixed)), name


def test_hand_made_trufors_f1():
    """40 x 40 fakes, of which the border leaves 26 x 26; of 100 x 100 others it takes 5 around."""
    mask = torch.zeros(1, 100, 100, dtype=torch.bool)
    mask[0, 30:70, 30:70] = True
    fakes, pixels = 26 * 26, 100 * 100 - (50 * 50 - 26 * 26)
    everything = 100 * 2 * fakes / (pixels + fakes)

    def scores(maps):
        found = m.localization_scores(maps, mask)
        return [found[name].item() for name in ("f1_trufor_fixed", "f1_trufor_best", "f1_best")]

    assert scores(mask.float()) == [100, 100, 100]
    assert scores(1 - mask.float()) == pytest.approx([100, 100, everything])
    assert scores(0.2 * mask + 0.3) == pytest.approx([everything, 100, 100])
    half = torch.where(mask & (torch.arange(100) < 50), 1.0, 0.0)  # 13 of 26 columns
    assert scores(half) == pytest.approx([100 * 2 / 3] * 3)


def test_trufors_f1_is_undefined_without_fakes_and_where_the_border_takes_them():
    masks = torch.stack([torch.zeros(64, 64, dtype=torch.bool), box(side=5)])
    scores = m.localization_scores(masks.float(), masks)
    assert scores["f1_trufor_fixed"].isnan().all() and scores["f1_trufor_best"].isnan().all()


def test_hand_made_iou():
    mask = torch.tensor([[[True, True, False, False]]])
    half = torch.tensor([[[0.9, 0.1, 0.9, 0.1]]])
    assert m.iou(half, mask).item() == pytest.approx(100 / 3)
    assert m.f1(half, mask).item() == pytest.approx(50)
    assert m.average_precision(half, mask).item() == pytest.approx(50)
    assert m.iou(torch.full((1, 1, 4), 0.5), mask).item() == 0  # 0.5 itself is not fake
    assert m.iou(half, mask).dtype == torch.float32


def test_one_pixel_is_enough():
    one = torch.ones(1, 1, 1)
    assert m.iou(one, one > 0).item() == m.f1(one, one > 0).item() == 100


def test_thresholds_may_be_the_ends():
    assert m.iou(MAPS, MASKS, 0.0).tolist() == pytest.approx(
        [100 * jaccard_score(t.flatten(), torch.ones(16)) for t in MASKS]
    )
    assert m.iou(MAPS, MASKS, 1.0).tolist() == [0, 0]


@pytest.mark.parametrize("answer", [0.0, 1.0, 0.3])
def test_constant_maps_have_every_score(answer):
    masks = box()[None]
    scores = m.localization_scores(torch.full((1, 64, 64), answer), masks)
    share = 100 * masks.float().mean().item()
    assert scores["ap"].item() == pytest.approx(share)
    assert scores["iou"].item() == pytest.approx(share if answer > 0.5 else 0)
    assert all(score.isfinite().all() for score in scores.values())


def test_a_negative_zero_is_a_zero():
    masks = box()[None]
    maps = torch.where(masks, -0.0, 0.0)
    zeros = m.localization_scores(torch.zeros_like(maps), masks)
    for name, scores in m.localization_scores(maps, masks).items():
        assert torch.equal(scores, zeros[name]), name


def test_empty_masks():
    empty = torch.zeros(2, 64, 64, dtype=torch.bool)
    maps = torch.stack([torch.zeros(64, 64), torch.eye(64)])
    scores = m.localization_scores(maps, empty)
    assert scores["iou"].tolist() == scores["f1_plain"].tolist() == scores["f1_fixed"].tolist()
    assert scores["iou"].tolist() == [100, 0]
    for undefined in ("ap", "f1_plain_best", "f1_best"):
        assert scores[undefined].isnan().all()


def test_large_photos_do_not_overflow():
    """200 times the hits of an 11 megapixel mask do not fit into 32 bits."""
    whole = torch.ones(1, 3300, 3300, dtype=torch.bool)
    assert m.best_f1(whole.float(), whole).item() == pytest.approx(100)


def test_tiny_masks_have_no_border_score_and_do_not_poison_the_mean():
    metric = LocalizationMetrics()
    masks = torch.stack([box(), box(side=5)])
    metric.update(masks.float().unsqueeze(1), list(masks))
    result = metric.compute()
    assert result["f1_fixed"] == 100 and result["f1_fixed_n"] == 1
    assert result["iou"] == 100 and result["iou_n"] == 2


def test_metric_averages_images_not_pixels():
    """Pooled over pixels the IoU would be about 97; the mean over images is 50."""
    big, small = torch.ones(64, 64, dtype=torch.bool), box(side=10)
    metric = LocalizationMetrics()
    metric.update(torch.stack([big.float(), torch.zeros(64, 64)])[:, None], [big, small])
    assert metric.compute()["iou"] == pytest.approx(50)


def test_metric_accepts_masks_of_different_sizes():
    metric = LocalizationMetrics()
    maps = torch.nn.functional.interpolate(box().float()[None, None], (256, 256)).repeat(3, 1, 1, 1)
    large = torch.nn.functional.interpolate(box().float()[None, None], (300, 200))[0, 0] > 0.5
    metric.update(maps, [box(), large, box()])
    result = metric.compute()
    assert result["iou_n"] == 3 and result["iou"] > 95


def test_metric_means_do_not_depend_on_batches():
    torch.manual_seed(1)
    masks = torch.stack([box(side=side) for side in range(20, 26)])
    maps = torch.rand(6, 1, 64, 64)
    whole, parts = LocalizationMetrics(), LocalizationMetrics()
    whole.update(maps, list(masks))
    for index in range(6):
        parts.update(maps[index : index + 1], [masks[index]])
    for name in LOCALIZATION:
        assert whole.compute()[name] == pytest.approx(float(parts.compute()[name]), rel=1e-5)


@pytest.mark.parametrize("floor", [None, 0.2])
@pytest.mark.parametrize("tuned", [None, 0.3])
def test_means_are_those_of_the_photos_scores_with_or_without_thresholds(case, tuned, floor):
    maps, masks = case
    metric = LocalizationMetrics(tuned, floor, sync_on_compute=False)
    metric.update(maps[:, None], list(masks))
    found = metric.compute()
    expected = m.localization_scores(maps, masks, tuned, floor)
    assert {name for name in found if not name.endswith("_n")} == expected.keys()
    for name, scores in expected.items():
        assert found[name] == pytest.approx(float(scores.double().nanmean()))
    assert metric.sync_on_compute is False  # an option of torchmetrics


def test_metric_without_a_defined_image_reports_zero_and_no_mean():
    metric = LocalizationMetrics()
    metric.update(torch.zeros(1, 1, 8, 8), [torch.zeros(8, 8, dtype=torch.bool)])
    assert metric.compute()["ap_n"] == 0 and "ap" not in metric.compute()


MAPS, MASKS = torch.rand(2, 4, 4), torch.rand(2, 4, 4) > 0.5
OF_MAPS = (
    *(m.iou, m.f1, m.f1_border, m.best_f1, m.best_f1_border, m.average_precision),
    *(m.localization_scores, m.threshold_curves, m.calibration_histogram),
)


@pytest.mark.parametrize("function", OF_MAPS, ids=lambda function: function.__name__)
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (MAPS[:, None], MASKS[:, None], r"probabilities \[B, H, W\].* found \[2, 1, 4, 4\]"),
        (MAPS[0], MASKS[0], r"probabilities \[B, H, W\].* found \[4, 4\]"),
        (MAPS[:0], MASKS[:0], r"not empty; found \[0, 4, 4\]"),
        (MAPS, MASKS[:, :3], r"masks of the probabilities' shape \[2, 4, 4\]; found \[2, 3, 4\]"),
        (MAPS, MASKS.float(), r"masks of torch\.bool.* found torch\.float32"),
        (MAPS, MASKS.to("meta"), "on one device; found cpu and meta"),
        ((255 * MAPS).byte(), MASKS, r"floating-point type; found torch\.uint8"),
        (torch.full((2, 4, 4), float("nan")), MASKS, r"in \[0, 1\]; found NaN"),
        (MAPS - 1, MASKS, r"expected probabilities in \[0, 1\]; found"),
        (MAPS + 1, MASKS, r"in \[0, 1\]; found"),
    ],
)
def test_input_of_another_shape_type_or_range_is_refused(function, maps, masks, message):
    with pytest.raises(ValueError, match=message):
        function(maps, masks)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("function", [m.iou, m.f1, m.f1_border, m.localization_scores])
def test_thresholds_outside_the_range_are_refused(function, threshold):
    with pytest.raises(ValueError, match=r"a threshold in \[0, 1\]; found"):
        function(MAPS, MASKS, threshold)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: list(m.by_size(MAPS, MASKS)), r"probabilities \[B, 1, h, w\].*\[2, 4, 4\]"),
        (lambda: list(m.by_size(MAPS[:, None], MASKS[:1])), "a mask for each of 2 .* found 1"),
        (lambda: list(m.by_size(MAPS[:, None], MASKS[:, None])), r"mask 0 \[H, W\].*\[1, 4, 4\]"),
        (lambda: list(m.by_size(MAPS[:, None], MASKS.float())), r"torch\.bool.*torch\.float32"),
        (lambda: m.resize_to(MAPS, torch.Size((8, 8))), r"\[B, 1, h, w\].*\[2, 4, 4\]"),
        (
            lambda: m.resize_to(MAPS[:, None] + 1, torch.Size((8, 8))),
            r"expected probabilities in \[0, 1\]",
        ),
        (lambda: LocalizationMetrics().update(MAPS, MASKS), r"\[B, 1, h, w\].*\[2, 4, 4\]"),
        (lambda: DetectionMetrics().update(MAPS[0, 0] - 1, MASKS[0, 0]), r"scores in \[0, 1\]"),
        (lambda: m.best_accuracy_threshold(MAPS, MASKS), r"scores \[N\].*\[2, 4, 4\]"),
        (lambda: m.best_accuracy_threshold(MAPS[0, 0] + 1, MASKS[0, 0]), r"scores in \[0, 1\]"),
        (lambda: m.best_accuracy_threshold(MAPS[0, 0], MASKS[0, 0, :3]), "4 labels"),
        (lambda: m.best_accuracy_threshold(MAPS[0, 0], torch.full((4,), 2)), "1 = fake and 0 ="),
    ],
)
def test_input_of_another_kind_is_refused_by_the_others(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_all_scores_of_a_map_take_one_sort(monkeypatch, case):
    sorted_ = []
    argsort = np.argsort
    monkeypatch.setattr(np, "argsort", lambda *a, **k: sorted_.append(1) or argsort(*a, **k))
    maps, masks = case
    m.localization_scores(maps, masks, tuned=0.3)
    assert len(sorted_) == 2 * len(maps)  # one sort of 32 bits is two of 16


def decided_iou(maps, masks):
    """Return each photo's IoU at its own threshold with a floor of 0.4."""
    own = m.photo_thresholds(maps, 0.4).tolist()
    found = [m.iou(p[None], k[None], t) for p, k, t in zip(maps, masks, own, strict=True)]
    return torch.cat(found)


def test_each_entry_of_the_table_is_its_function(case):
    maps, masks = case
    functions = {
        **{"iou": m.iou, "f1_plain": m.f1, "f1_plain_best": m.best_f1, "f1_fixed": m.f1_border},
        **{"f1_best": m.best_f1_border, "ap": m.average_precision},
        "iou_tuned": lambda *given: m.iou(*given, 0.3),
        "f1_tuned": lambda *given: m.f1_border(*given, 0.3),
        "iou_decided": decided_iou,
    }
    scores = m.localization_scores(maps, masks, tuned=0.3, floor=0.4)
    assert scores.keys() - {"f1_trufor_fixed", "f1_trufor_best"} == functions.keys()
    for name, function in functions.items():
        assert torch.equal(scores[name], function(maps, masks)), name


def test_without_a_tuned_threshold_the_metrics_that_need_one_are_left_out():
    names = set(m.localization_scores(MAPS, MASKS))
    assert names == {
        *("iou", "f1_plain", "f1_plain_best", "f1_fixed", "f1_best", "ap"),
        *("f1_trufor_fixed", "f1_trufor_best"),
    }


def test_every_entry_of_the_table_says_what_it_is():
    entries = m.all_metrics()
    assert len({entry.name for entry in entries}) == len({entry.title for entry in entries}) == 21
    for entry in entries:
        assert entry.title and entry.definition and not entry.definition.endswith(".")
        assert (entry.score is None) == (entry.level != "map")
    less = [e.name for e in entries if e.less_is_better]
    assert less[:2] == ["pixel_ece", "image_ece"]
    assert less[2:] == [e.name for e in m.untouched_metrics(decided=True)]


def test_a_metric_is_found_by_its_name():
    assert m.find_metric("iou") in m.map_metrics(tuned=False)
    assert m.find_metric("iou_tuned") not in m.map_metrics(tuned=False, decided=True)
    assert m.find_metric("iou_decided") in m.map_metrics(tuned=False, decided=True)
    assert m.find_metric("iou_decided") not in m.map_metrics(tuned=True)
    assert m.find_metric("image_ap").level == "images"
    assert m.find_metric("unheard_of") == m.Metric("unheard_of", "unheard_of", "", "map", key=False)


def test_a_metric_is_entered_as_it_was_described(own_metrics):
    def share(image):
        return 100 * image.mask.mean()

    m.metric("share", title="Share", definition="share of fakes")(share)
    m.metric(
        "worst", title="Worst", definition="w", less_is_better=True, needs_fake=True, tuned=True,
        key=False,
    )(share)  # fmt: skip
    assert m.find_metric("share") == m.Metric("share", "Share", "share of fakes", "map", share)
    assert m.find_metric("worst") == m.Metric(
        "worst", "Worst", "w", "map", share, True, True, True, False
    )
    assert m.localization_scores(MAPS, MASKS)["share"].tolist() == pytest.approx(
        [100 * mask.float().mean().item() for mask in MASKS]
    )


def test_a_metric_that_needs_fakes_is_not_asked_without():
    entry = m.Metric("x", "X", "x", "map", lambda image: 1.0, needs_fake=True)
    maps = np.zeros((2, 2), np.float32)
    assert np.isnan(entry.of(m.Ranking(maps, maps > 0)))
    assert entry.of(m.Ranking(maps, maps == 0)) == 1


@pytest.mark.parametrize(
    "name", ["iou", "", "Iou", "my-metric", "image_x", "pixel_x", "untouched_x", "iou_n"]
)
def test_names_that_are_taken_or_mean_something_else_are_refused(name):
    with pytest.raises(ValueError, match=r"two metrics called 'iou'|expected a metric's name"):
        m.metric(name, title="T", definition="d")(lambda image: 1.0)


def test_counts_are_of_the_pixels_that_count():
    image = m.Ranking(np.full((64, 64), 0.7, np.float32), box().numpy())
    whole, inner = image.above(0.5), image.above(0.5, border=False)
    assert whole == (900, 64 * 64, 900, 64 * 64)
    fake, counted = without_border(box())
    assert inner == (fake.sum(), counted.sum(), fake.sum(), counted.sum())
    assert image.above(0.7) == (0, 0, 900, 64 * 64)  # equal is not above
    ranked = image.at_fakes(border=False)
    assert ranked.fakes == inner.fakes and ranked.pixels == inner.pixels
    assert set(ranked.predicted) == {inner.predicted}


def test_nothing_that_trains_or_draws_is_imported():
    code = (
        "import sys\n"
        "for name in ('torchmetrics', 'lightning', 'matplotlib'): sys.modules[name] = None\n"
        "import declip_pl.metrics"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_detection_equals_scikit_learn():
    torch.manual_seed(0)
    labels = (torch.rand(80) > 0.4).long()
    scores = ((0.2 * labels + 0.8 * torch.rand(80)) * 20).round() / 20
    metric = DetectionMetrics(tuned=0.4)
    metric.update(scores[:30], labels[:30])
    metric.update(scores[30:], labels[30:])
    result = metric.compute()
    assert result["ap"] == pytest.approx(100 * average_precision_score(labels, scores), rel=1e-5)
    assert result["auroc"] == pytest.approx(100 * roc_auc_score(labels, scores), rel=1e-5)
    assert result["accuracy"] == pytest.approx(100 * accuracy_score(labels, scores > 0.5))
    assert result["accuracy_tuned"] == pytest.approx(100 * accuracy_score(labels, scores > 0.4))
    assert result["n"] == 80


def test_processes_are_gathered():
    """Two processes that saw the same images: sums double, means and rankings stay."""
    scores, labels = torch.tensor([0.1, 0.2, 0.6, 0.3]), torch.tensor([0, 0, 1, 1])
    detection, localization = DetectionMetrics(), LocalizationMetrics()
    detection.update(scores, labels)
    localization.update(box().float()[None, None], [box()])
    for metric in (detection, localization):
        metric.distributed_available_fn = lambda: True
        metric.dist_sync_fn = lambda state, group: [state, state]
    assert detection.compute()["n"] == 8 and detection.compute()["auroc"] == 100
    assert localization.compute()["iou_n"] == 2 and localization.compute()["iou"] == 100


def test_what_thresholds_are_chosen_by_is_gathered_of_all_processes():
    maps, masks = torch.stack([0.9 * box(), 0.7 * box(side=12)])[:, None], [box(), ~box() & box()]
    scores, labels = {"top": torch.tensor([0.9, 0.7])}, torch.tensor([1, 0])
    alone, together = ThresholdChoice(["top"]), ThresholdChoice(["top"])
    for choice in (alone, together):
        choice.update(maps, masks, scores, labels)
    together.distributed_available_fn = lambda: True
    together.dist_sync_fn = lambda state, group: [state, state]
    *sums, found, pooled = alone.compute()
    *doubled, all_labels, all_scores = together.compute()
    assert all(
        torch.equal(twice, 2 * once) and once.any()
        for once, twice in zip(sums, doubled, strict=True)
    )
    assert torch.equal(all_labels, found.repeat(2)) and torch.equal(all_scores, pooled.repeat(2))
    assert together.choose() == alone.choose()


def test_detection_needs_both_classes():
    metric = DetectionMetrics()
    assert metric.compute() == {}
    metric.update(torch.rand(3), torch.ones(3))
    assert metric.compute() == {}


def test_threshold_separates_what_can_be_separated():
    scores, labels = torch.tensor([0.1, 0.2, 0.6, 0.7]), torch.tensor([0, 0, 1, 1])
    assert m.best_accuracy_threshold(scores, labels) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("label", "expected"), [(1, 0.0), (0, 0.85)], ids=["fakes alone", "reals alone"]
)
def test_the_lowest_of_equally_good_thresholds_is_taken(label, expected):
    scores = torch.tensor([0.3, 0.7])
    found = m.best_accuracy_threshold(scores, torch.full((2,), label))
    assert found == pytest.approx(expected)


def test_threshold_has_the_best_accuracy_of_all():
    torch.manual_seed(3)
    labels = (torch.rand(50) > 0.5).long()
    scores = torch.rand(50)
    best = m.best_accuracy_threshold(scores, labels)
    reached = ((scores > best) == labels.bool()).float().mean()
    grid = torch.linspace(0, 1, 2001)
    assert reached >= max(((scores > t) == labels.bool()).float().mean() for t in grid)


def test_threshold_curves_equal_scoring_at_each_threshold():
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 51, (3, 16, 16), generator=generator) / 50  # many lie on a threshold
    masks = torch.rand(3, 16, 16, generator=generator) > 0.6
    masks[2] = False
    curves = m.threshold_curves(levels, masks)
    for index, threshold in enumerate(m.THRESHOLDS):
        exact = torch.tensor(threshold).item()  # as fp32, like the probabilities
        torch.testing.assert_close(curves["iou"][:, index], m.iou(levels, masks, exact))
        torch.testing.assert_close(curves["f1"][:, index], m.f1(levels, masks, exact))


def test_best_threshold_equals_trying_all_of_them():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores = torch.randint(0, 9, (30,), generator=generator) / 8
        labels = torch.randint(0, 2, (30,), generator=generator)
        best = m.best_accuracy_threshold(scores, labels)
        tried = [((scores > t) == labels.bool()).sum() for t in torch.linspace(0, 1, 161)]
        assert ((scores > best) == labels.bool()).sum() == max(tried)


def test_large_masks_are_taken_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(sizes, "PIXELS_AT_ONCE", 2 * 8 * 8)
    masks = [torch.zeros(8, 8, dtype=torch.bool)] * 5 + [torch.zeros(20, 20, dtype=torch.bool)] * 2
    found = [chosen for chosen, _, _ in m.by_size(torch.rand(7, 1, 4, 4), masks)]
    assert found == [[0, 1], [2, 3], [4], [5], [6]]


def test_maps_shrink_antialiased_and_stay_as_they_are_at_their_own_size():
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    maps = checkers.float()[None, None]
    assert m.resize_to(maps, torch.Size((64, 64))) is maps
    shrunk = m.resize_to(maps, torch.Size((7, 7)))
    assert shrunk.shape == (1, 1, 7, 7)
    assert shrunk.sub(0.5).abs().max() < 0.02  # sampled at points it would be 0 and 1


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([16, 64, 256]))
def test_resized_maps_stay_in_range(height, width, side):
    whole = torch.ones(1, 1, side, side)
    for maps in (whole, 0 * whole):
        m.resize_to(m.resize_to(maps, torch.Size((height, width))), torch.Size((9, 9)))


def test_calibration_histogram_has_all_bins_and_counts_exactly():
    low = m.calibration_histogram(torch.full((1, 4, 4), 0.1), torch.ones(1, 4, 4, dtype=torch.bool))
    assert low.shape == (1, 3, m.CALIBRATION_BINS) and low.dtype == torch.float64


def test_certain_pixels_lie_in_the_last_level():
    masks = torch.tensor([[[False, True, True]]])
    real, fake = m.level_counts(torch.tensor([[[0.0, 0.5, 1.0]]]), masks, 4)[0]
    assert real.tolist() == [1, 0, 0, 0] and fake.tolist() == [0, 0, 1, 1]


def test_calibration_histogram_by_hand():
    probabilities = torch.tensor([[[0.0, 0.05, 0.5, 1.0]]])
    masks = torch.tensor([[[False, True, True, True]]])
    count, probability, fake = m.calibration_histogram(probabilities, masks)[0]
    assert count.nonzero().flatten().tolist() == [0, 7, 14] and count.sum() == 4
    assert count[[0, 7, 14]].tolist() == [2, 1, 1] and fake[[0, 7, 14]].tolist() == [1, 1, 1]
    assert probability[[0, 7, 14]].tolist() == pytest.approx([0.05, 0.5, 1.0])
