"""The decision: each photo's own threshold against a search of all of them, and its floor."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from declip_pl import metrics as m
from declip_pl.metrics.accumulate import ThresholdChoice, UntouchedMetrics

SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=9)
FLOATS = st.floats(0, 1, width=32, allow_subnormal=False)
LEVELS = st.integers(0, 8).map(lambda level: level / 8)  # many ties
MAPS = st.one_of(arrays(np.float32, SHAPES, elements=e) for e in (FLOATS, LEVELS))


def one(values, floor=0.0):
    """Return the threshold of one map."""
    return float(m.photo_thresholds(torch.tensor(np.atleast_2d(values))[None].float(), floor)[0])


def expected_iou(values, marked):
    """Return the expected intersection over the expected union."""
    inside, outside = values[marked].sum(), values[~marked].sum()
    union = marked.sum() + outside
    return inside / union if union else 0.0


def best_expected_iou(values):
    """Return the highest over the k most probable pixels, for each k."""
    order = np.sort(values.ravel().astype(np.float64))[::-1]
    ranks = np.arange(order.size)
    return max(expected_iou(order, ranks < k) for k in range(order.size + 1))


@given(MAPS)
def test_no_threshold_has_a_higher_expected_iou(values):
    threshold = one(values)
    exact = values.astype(np.float64)
    found = expected_iou(exact, values > np.float32(threshold))
    assert found == pytest.approx(best_expected_iou(values), abs=1e-12)
    assert 0 <= threshold <= 0.5
    assert threshold == pytest.approx(found / (1 + found), rel=1e-6, abs=1e-12)


def test_by_hand():
    # Marking 0.6 alone: 0.6 / (1 + 0.2). With 0.2: 0.8 / 2. The threshold is 0.5 / 1.5.
    assert one([0.6, 0.2, 0.0, 0.0]) == pytest.approx(1 / 3)
    # Marking 0.4, 0.4: 0.8 / (2 + 0.1); one of them alone 0.4 / 1.5.
    assert one([0.4, 0.4, 0.1]) == pytest.approx((0.8 / 2.1) / (1 + 0.8 / 2.1))


@pytest.mark.parametrize("level", [0.01, 0.3, 0.5, 1.0])
def test_a_map_of_one_level_is_marked_whole(level):
    threshold = one(np.full((8, 8), level))
    assert threshold == pytest.approx(level / (1 + level)) and threshold < level


def test_a_map_of_zeros_is_not_marked():
    assert one(np.zeros((8, 8))) == 0  # and nothing is above


def test_a_pixel_exactly_at_the_threshold_is_not_marked():
    # r = 1 / (2 - 1 + 1) of {1, 1/3}... is 4/3 / 2 = 2/3, and 1 / (1 + 1/3) = 3/4: {1} alone.
    values = np.array([1.0, 3 / 7], np.float32)  # of {1}: r = 1 / (1 + 3/7) = 0.7; 0.7 / 1.7 < 3/7
    assert values[1] > one(values)
    values = np.array([1.0, 0.25, 0.25], np.float32)  # of {1}: r = 1 / 1.5, threshold 0.4
    assert one(values) == pytest.approx(0.4)


def test_a_pixel_just_above_the_threshold_is_marked():
    """Beside a pixel of 1 the threshold of p is 1 / (2 + p), here nearest to p among float32s."""
    pixel = np.float32(0.41421357)  # the square root of 2, less 1, rounded up
    exact = 1 / (2 + float(pixel))
    assert exact < float(pixel) and np.float32(exact) == pixel
    assert one([1.0, pixel]) < pixel


def test_the_threshold_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    maps = torch.rand(5, 20, 30) ** 3
    assert m.photo_thresholds(maps, 0.1).tolist() == [one(p, 0.1) for p in maps.numpy()]
    assert m.photo_thresholds(maps, 0.1).dtype == torch.float32


@given(MAPS)
def test_the_peak_is_what_two_percent_reach(values):
    found = m.peaks(torch.from_numpy(values)[None])[0].item()
    reached = [v for v in values.ravel() if np.count_nonzero(values >= v) >= 0.02 * values.size]
    assert found == max(reached)


def test_the_peak_of_100_pixels_is_the_second_highest():
    values = torch.linspace(0, 1, 100).view(1, 10, 10)
    assert m.peaks(values)[0] == values[0, 9, 8]
    assert m.peaks(values[:, :, :5])[0] == values[0, 9, 4]  # of 50 the highest


def test_a_photo_below_the_floor_is_not_marked():
    values = np.full((10, 10), 0.01, np.float32)
    values[0, :2] = 0.4
    assert one(values, 0.4) == one(values, 0.0) < 0.4
    assert one(values, 0.41) == one(values, 1.0) == 1
    values[0, 1] = 0.01  # one pixel of a hundred is less than 2 %
    assert one(values, 0.4) == 1
    assert one(np.ones((3, 3)), 1.0) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: m.photo_thresholds(p, 1.1), "floor in"),
        (lambda p: m.photo_thresholds(p, float("nan")), "floor in"),
        (lambda p: m.photo_thresholds(p[0], 0.5), r"\[B, H, W\]"),
        (lambda p: m.photo_thresholds(p + 1, 0.5), r"in \[0, 1\]"),
        (lambda p: m.peaks(p[0]), r"\[B, H, W\]"),
        (lambda p: m.peaks(p.long()), "floating-point"),
        (lambda p: m.floor_areas(p[0]), r"\[B, H, W\]"),
        (lambda p: m.untouched_scores(p, -0.1), "floor in"),
        (lambda p: m.untouched_scores(p[None]), r"\[B, H, W\]"),
        (lambda p: m.localization_scores(p, p > 0, floor=2), "floor in"),
    ],
)
def test_input_of_another_kind_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.rand(2, 4, 4) * 0.9)


def test_the_decided_iou_is_at_the_photos_own_threshold():
    torch.manual_seed(0)
    maps, masks = torch.rand(4, 16, 16) * torch.tensor([0.1, 0.3, 0.6, 1])[:, None, None], None
    masks = maps > maps.amax((1, 2), True) * 0.4
    found = m.localization_scores(maps, masks, floor=0.25)
    for index, threshold in enumerate(m.photo_thresholds(maps, 0.25).tolist()):
        one_photo = (maps[index : index + 1], masks[index : index + 1])
        assert found["iou_decided"][index] == m.iou(*one_photo, threshold)[0]
    assert found["iou_decided"][0] == 0 < found["iou_decided"][1]
    assert "iou_decided" not in m.localization_scores(maps, masks, tuned=0.3)


PHOTOS = st.lists(
    st.tuples(arrays(np.float32, (4, 5), elements=LEVELS), st.booleans()), min_size=1, max_size=6
)


@given(PHOTOS)
def test_the_floor_is_the_lowest_that_keeps_marks_on_untouched_photos_within_bounds(photos):
    choice = ThresholdChoice([])
    labels = torch.tensor([float(fake) for _, fake in photos])
    maps = torch.tensor(np.stack([p for p, _ in photos]))
    masks = [torch.from_numpy((p > 0.4) & fake) for p, fake in photos]
    choice.update(maps[:, None], masks, {}, labels)
    found = choice.choose().floor
    untouched = [p for p, fake in photos if not fake]
    if not untouched:
        assert found is None
        return
    # Above its peak a floor leaves a photo unmarked, below it does nothing: see above.
    whole = [100 * (p > np.float32(one(p))).mean() for p in untouched]
    highest = [float(m.peaks(torch.from_numpy(p)[None])[0]) for p in untouched]
    areas = [
        np.mean([area * (peak >= floor) for area, peak in zip(whole, highest, strict=True)])
        for floor in m.FLOORS
    ]
    marked = [
        100 * np.mean([area > 0 and top >= floor for area, top in zip(whole, highest, strict=True)])
        for floor in m.FLOORS
    ]
    fixed = np.mean([100 * (p > 0.5).mean() for p in untouched])
    allowed = max(m.UNTOUCHED_AREA, fixed) + 1e-4
    photos_allowed = max(m.UNTOUCHED_MARKED, 100 * np.mean([(p > 0.5).any() for p in untouched]))
    photos_allowed += 1e-4
    place = m.FLOORS.index(found)
    assert (areas[place] <= allowed and marked[place] <= photos_allowed) or found == 1
    assert all(
        area > allowed - 2e-4 or share > photos_allowed - 2e-4
        for area, share in zip(areas[:place], marked[:place], strict=True)
    )


def test_a_floor_is_chosen_by_hand():
    """Of two untouched photos one has a bright 1 % of its pixels and the other 4 % at 0.3."""
    maps = torch.zeros(2, 1, 100, 100)
    maps[0, 0, :1], maps[1, 0, :4] = 0.9, 0.3
    choice = ThresholdChoice([])
    empty = [torch.zeros(100, 100, dtype=torch.bool)] * 2
    choice.update(maps, empty, {}, torch.zeros(2))
    # The first never reaches its peak; the second marks 4 % of it, 2 % of both, up to its peak.
    # At 0.5 the first alone is marked, 0.5 % of both.
    assert choice.choose().floor == 0.31


def test_a_floor_need_not_mark_less_than_the_fixed_threshold():
    """Both mark 4 % of one photo of two, where 1 % would be allowed."""
    maps = torch.zeros(2, 1, 100, 100)
    maps[0, 0, :4] = 0.9
    choice = ThresholdChoice([])
    empty = [torch.zeros(100, 100, dtype=torch.bool)] * 2
    choice.update(maps, empty, {}, torch.zeros(2))
    assert choice.choose().floor == 0


def test_a_floor_leaves_four_photos_of_five_unmarked():
    """In each photo 2 % of the pixels stand out, at another level: half of them may be marked by
    area, but only two."""
    maps = torch.zeros(10, 1, 100, 100)
    for index in range(10):
        maps[index, 0, :2, :] = (index + 1) / 20
        maps[index, 0, :2, 1:] -= 0.01 * (index + 1) / 20
    choice = ThresholdChoice([])
    choice.update(maps, [torch.zeros(100, 100, dtype=torch.bool)] * 10, {}, torch.zeros(10))
    areas = m.floor_areas(maps[:, 0]).double()
    floor = choice.choose().floor
    marked = float((areas[:, m.FLOORS.index(floor)] > 0).double().mean())
    before = float((areas[:, m.FLOORS.index(floor) - 1] > 0).double().mean())
    assert marked <= 0.2 < before


def test_floors_reach_from_nothing_to_everything():
    assert m.FLOORS[0] == 0 and m.FLOORS[-1] == 1 and len(m.FLOORS) == 101
    assert np.diff(m.FLOORS) == pytest.approx(0.01)


def test_a_floor_is_reached_by_a_peak_that_equals_it():
    """All pixels are at one of the floors: every floor up to that one marks all of them."""
    maps = torch.tensor(m.FLOORS)[:, None, None].expand(-1, 4, 4)
    areas = m.floor_areas(maps)
    expected = 100 * (torch.arange(101)[:, None] >= torch.arange(101)).float()
    expected[0] = 0  # of zeros nothing is marked
    assert torch.equal(areas, expected)
    for floor, alone in zip(m.FLOORS, maps, strict=True):
        assert m.photo_thresholds(alone[None], floor) <= 0.5


def test_a_single_pixel_is_a_mark():
    maps = torch.zeros(1, 20, 20)
    maps[0, 3, 4] = 0.9
    assert m.untouched_scores(maps)["untouched_area"] == 0.25
    assert m.untouched_scores(maps)["untouched_marked"] == 100


def test_what_is_marked_of_untouched_photos():
    maps = torch.zeros(3, 10, 10)
    maps[0, 0], maps[1, :2] = 0.9, 0.3
    assert {name: found.tolist() for name, found in m.untouched_scores(maps, 0.2).items()} == {
        "untouched_area": [10, 0, 0],
        "untouched_area_decided": [10, 20, 0],
        "untouched_marked": [100, 0, 0],
        "untouched_marked_decided": [100, 100, 0],
    }
    assert list(m.untouched_scores(maps)) == ["untouched_area", "untouched_marked"]


def test_untouched_photos_are_measured_at_the_size_of_their_masks():
    metric = UntouchedMetrics(0.2)
    maps = torch.zeros(3, 1, 10, 10)
    maps[0, 0, 0], maps[1, 0, :2] = 0.9, 0.3
    masks = [torch.zeros(side, side, dtype=torch.bool) for side in (10, 10, 20)]
    metric.update(maps[:1], masks[:1])
    metric.update(maps[1:], masks[1:])
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found["untouched_area"] == pytest.approx(10 / 3)
    assert found["untouched_area_decided"] == pytest.approx(30 / 3)
    assert found["untouched_marked_decided"] == pytest.approx(200 / 3)
    assert found["untouched_area_n"] == 3
