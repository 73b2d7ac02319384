"""From cells to the matrix: each figure of small, hand-made cells against one made by hand."""

from dataclasses import replace
from math import nan

import numpy as np
import pytest
from benchmarks.matrix import MADE, trained_models

from declip_pl.cross_eval.build import build_matrix
from declip_pl.cross_eval.cell import FORMAT as CELL_FORMAT
from declip_pl.cross_eval.cell import Cell, CellKey
from declip_pl.cross_eval.estimates import Score
from declip_pl.cross_eval.figures import Curve, Panel
from declip_pl.cross_eval.matrix import (
    FORMAT,
    About,
    ChosenThresholds,
    Data,
    Failure,
    ScoredModel,
)
from declip_pl.cross_eval.scores import Scores
from declip_pl.cross_eval.statistics import BINS, bootstrap
from declip_pl.cross_eval.summary import summary
from declip_pl.metrics import Thresholds
from declip_pl.model.description import TrainedOn
from declip_pl.model.features import Identity

ABOUT = About("name", "notice", "jpeg", Data("r", "n", {}), (Failure("what", "why"),), MADE)
PHOTOS = ["0", "1", "2", "3"]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)


def model(row, trained_on, seed=0):
    first = trained_models()[0]
    trained = TrainedOn(tuple(trained_on), "full", "") if trained_on else None
    checkpoint = replace(first.checkpoint, trained_on=trained, seed=seed)
    return replace(first, name=f"{row}-{seed}", row=row, checkpoint=checkpoint)


def histogram(photos, probability, fake):
    """Ten pixels of each photo that have a probability, of which some are fake."""
    table = np.zeros((photos, 3, BINS))
    bin_ = min(int(probability * BINS), BINS - 1)
    table[:, :, bin_] = 10, 10 * probability, fake
    return table


def cell(model, test, iou=50.0, **changes):
    """Return a cell in which every photo has the same scores."""
    photos = changes.get("photos", PHOTOS)
    about = Cell(
        key=CellKey(CELL_FORMAT, "", "", "none", None, ()), model=model.name,
        seed=model.seed, test=test, thresholds=Thresholds(None, {}), photos=photos,
        curve=Curve([0.25, 0.75], [10.0, 20.0], [30.0, 40.0]),
        panels={"best": Panel(f"{model.name}-{test}.png", "0", 60.0)}, seconds=0.0,
        scores={} if test == "real" else {"iou": np.full(len(photos), iou)},
        image_scores={"top": np.full(len(photos), 0.3 if test == "real" else 0.7)},
        histogram=histogram(len(photos), 0.9, 5),
    )  # fmt: skip
    return replace(about, **changes)


def build(models, cells, columns=("a", "b", "c"), thresholds=None, pooling="top"):
    by_name = {(c.model, c.test): c for c in cells}
    if thresholds is None:
        thresholds = {m.name: Thresholds(None, {"top": None, "max": None}) for m in models}
    return build_matrix(models, by_name, thresholds, columns, pooling, ABOUT)


A, B = model("a", ["a"]), model("b", ["b"])
ALL_BUT_C, UNKNOWN = model("all-but-c", ["b", "a"]), model("imported", [])
IOU = {
    "b": {"b": 80, "a": 30, "c": 20},
    "all-but-c": {"a": 71, "b": 72, "c": 45},
    "a": {"a": 90, "b": 40, "c": 25},
    "imported": {"a": 1, "b": 2, "c": 3},
}


@pytest.fixture
def matrix():
    """Two rows of one generator, one that leaves one out, one of which nothing is on record."""
    models = [UNKNOWN, B, ALL_BUT_C, A]
    cells = [cell(m, test, iou) for m in models for test, iou in IOU[m.row].items()]
    for index, scored in enumerate(cells):  # a calibration error of its own for each cell
        cells[index] = replace(
            scored, histogram=histogram(4, 0.9, 9 - scored.scores["iou"][0] / 20)
        )
    return build(models, cells)


def test_a_matrix_says_what_it_is_about(matrix):
    assert {name: getattr(matrix, name) for name in vars(ABOUT)} == vars(ABOUT)
    assert (matrix.format, matrix.pooling, matrix.columns) == (FORMAT, "top", ("a", "b", "c"))
    assert matrix.seeds == (0,) and matrix.metrics == ("iou", "pixel_ece")
    assert len(matrix.inputs) == 64


def test_rows_that_leave_one_out_come_last(matrix):
    assert matrix.rows == ("a", "b", "imported", "all-but-c")
    assert matrix.leave_one_out == ("all-but-c",)
    assert [m.row for m in matrix.models] == ["imported", "b", "all-but-c", "a"]


def test_a_model_of_forgeries_alone_is_out_of_domain_everywhere_and_has_a_mean_of_its_own():
    none = model("none", ["forgeries"])
    iou = {"a": {"a": 90, "b": 40}, "b": {"a": 30, "b": 80}, "none": {"a": 10, "b": 14}}
    cells = [cell(m, test, value) for m in (A, B, none) for test, value in iou[m.row].items()]
    found = build([A, B, none], cells, columns=("a", "b"))
    assert found.in_domain == {"a": ("a",), "b": ("b",), "none": ()}
    summary = found.summary["iou"]
    assert summary.out_of_domain.value == (40 + 30) / 2
    assert summary.by_train.keys() == {"a", "b"} and summary.leave_one_out["none"].value == 12
    alone = build([none], [c for c in cells if c.model == none.name], columns=("a", "b"))
    assert alone.summary["iou"].out_of_domain.value == 12


def test_a_cell_is_in_domain_if_its_generator_was_trained_on(matrix):
    in_domain = {"a": ("a",), "b": ("b",), "imported": (), "all-but-c": ("a", "b")}
    assert matrix.in_domain == in_domain and list(matrix.in_domain) == list(matrix.rows)


def test_every_cell_has_its_score(matrix):
    assert {
        row: {c: s.value for c, s in found.items()} for row, found in matrix.matrix["iou"].items()
    } == IOU
    for metric, table in matrix.matrix.items():
        assert list(table) == list(matrix.rows), metric
        for found in table.values():
            assert list(found) == ["a", "b", "c"]
            for score in found.values():
                assert score.n == 4 and score.low == score.value == score.high


def test_means_are_of_the_cells_that_they_say(matrix):
    found = matrix.summary["iou"]
    assert found.in_domain.value == pytest.approx((90 + 80) / 2)
    assert found.out_of_domain.value == pytest.approx((40 + 25 + 30 + 20) / 4)
    assert (found.in_domain.n, found.out_of_domain.n) == (8, 16)
    assert {k: s.value for k, s in found.by_train.items()} == {"a": 32.5, "b": 25}
    assert [(k, s.value) for k, s in found.by_test.items()] == [("a", 30), ("b", 40), ("c", 22.5)]
    assert {k: (s.value, s.n) for k, s in found.leave_one_out.items()} == {"all-but-c": (45, 4)}


def test_the_worst_cell_is_the_lowest_score_and_the_highest_error(matrix):
    worst = matrix.summary["iou"].worst_out_of_domain
    assert (worst.train, worst.test, worst.value, worst.n) == ("b", "c", 20, 16)
    errors = matrix.matrix["pixel_ece"]
    out = {(r, c): errors[r][c].value for r, c in (("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"))}
    assert len(set(out.values())) == 4
    worst = matrix.summary["pixel_ece"].worst_out_of_domain
    assert out[worst.train, worst.test] == worst.value == max(out.values())


def test_a_cell_without_a_score_is_not_the_worst():
    cells = [cell(A, "a", 90), cell(A, "b", 40), cell(A, "c")]
    cells[2] = replace(cells[2], histogram=np.zeros((4, 3, BINS)))
    worst = build([A], cells).summary["pixel_ece"].worst_out_of_domain
    assert (worst.train, worst.test, worst.value) == ("a", "b", None)


def test_without_rows_of_one_generator_the_means_are_of_those_on_record():
    models = [ALL_BUT_C, UNKNOWN]
    found = build(models, [cell(m, t, v) for m in models for t, v in IOU[m.row].items()])
    summary = found.summary["iou"]
    assert summary.in_domain.value == pytest.approx(71.5)
    assert summary.out_of_domain.value == 45
    assert summary.leave_one_out == {}
    assert summary.by_train.keys() == {"all-but-c"}


def test_what_no_cell_is_made_of_has_no_mean():
    summary = build([A], [cell(A, "a")]).summary["iou"]
    assert summary.in_domain.value == 50
    assert summary.out_of_domain is None and summary.worst_out_of_domain is None
    assert summary.by_train == summary.by_test == summary.leave_one_out == {}
    assert build([A], [cell(A, "b")]).summary["iou"].in_domain is None


def test_a_failed_cell_is_absent():
    found = build([A, B], [cell(A, "a"), cell(B, "a"), cell(B, "b")])
    expected = {"a": {"a"}, "b": {"a", "b"}}
    for table in (found.curves, found.reliability, found.panels):
        assert {row: set(cells) for row, cells in table.items()} == expected
    assert {row: set(cells) for row, cells in found.matrix["iou"].items()} == expected
    nothing = build([A, B], [cell(A, "a")])
    assert nothing.matrix["iou"]["b"] == {} and "b" not in nothing.curves


def test_an_undefined_score_is_none():
    found = build([A], [replace(cell(A, "a"), histogram=np.zeros((4, 3, BINS)))])
    score = found.matrix["pixel_ece"]["a"]["a"]
    assert (score.value, score.low, score.high, score.n) == (None, None, None, 0)
    assert found.reliability["a"]["a"].pixel.share == [None] * BINS
    empty = cell(A, "a", scores={"iou": np.full(4, nan)})
    assert build([A], [empty]).metrics == ("pixel_ece",)


def test_a_cell_of_another_threshold_model_or_pooling_is_of_other_inputs():
    thresholds = {A.name: Thresholds(0.5, {"top": 0.4, "max": 0.4})}
    options = {"models": [A], "cells": [cell(A, "a")], "thresholds": thresholds, "pooling": "top"}
    others = [
        {"pooling": "max"},
        {"thresholds": {A.name: Thresholds(0.5, {"top": 0.4, "max": 0.6})}},
        {"models": [replace(A, checkpoint=replace(A.checkpoint, image_size=448))]},
    ]
    first, *found = (build(**options | changes).inputs for changes in ({}, {}, *others))
    assert found[0] == first and len({first, *found}) == 4


# Several seeds


def test_curves_are_means_over_seeds():
    models = [model("a", ["a"], seed) for seed in (5, 2, 3)]
    curves = [([10.0, None], [1.0, 2.0]), ([20.0, 4.0], [3.0, 8.0])]
    cells = [
        cell(m, "a", curve=Curve([0.25, 0.75], *curve))
        for m, curve in zip(models[1:], curves, strict=True)
    ]
    found = build(models, cells)
    assert found.seeds == (2, 3, 5)
    curve = found.curves["a"]["a"]
    assert curve.thresholds == [0.25, 0.75]
    assert curve.iou == pytest.approx([15, nan], nan_ok=True) and curve.f1 == [2, 5]
    assert found.panels["a"]["a"] == cells[0].panels  # the first seed's that there is


def test_cells_are_means_over_seeds_that_have_one():
    models = [model("a", ["a"], 0), model("a", ["a"], 1), B]
    cells = [cell(models[0], "a", 40), cell(models[1], "a", 60), cell(B, "a", 30)]
    found = build(models, cells).matrix["iou"]
    assert found["a"]["a"].value == 50 and found["a"]["a"].n == 4
    assert found["b"]["a"].value == 30  # its row has fewer seeds
    assert (found["a"]["a"].low, found["a"]["a"].high) == (40, 60)


def test_photos_are_known_by_name():
    def of(test, iou, photos, images):
        columns = {"scores": {"iou": np.array(iou)}, "image_scores": {"top": np.array(images)}}
        return cell(A, test, photos=photos, histogram=histogram(2, 0.9, 5), **columns)

    one = of("a", [10.0, 20.0], ["z", "b"], [0.1, 0.2])
    two = of("b", [30.0, 40.0], ["b", "y"], [0.3, 0.4])
    scores = Scores([A], {("a-0", "a"): one, ("a-0", "b"): two}, {}, "top")
    assert scores.position == {"b": 0, "y": 1, "z": 2}
    np.testing.assert_array_equal(scores.of_maps("a", "a", "iou"), [[20, nan, 10]])
    np.testing.assert_array_equal(scores.of_maps("a", "b", "iou"), [[30, 40, nan]])
    np.testing.assert_array_equal(scores.of_maps("a", "b", "ap"), [[nan] * 3])
    np.testing.assert_array_equal(scores.of_images("a", "a"), [[0.2, nan, 0.1]])
    np.testing.assert_array_equal(scores.of_images("a", "c"), [[nan] * 3])
    pixels = scores.pixel_histograms("a", "a")
    assert pixels.shape == (1, 3, 3, BINS) and pixels.sum((0, 2, 3)).tolist() == [24, 0, 24]


# Whole photos


def with_reals(fake, real, models=(A,), **changes):
    """Return cells of fakes and reals of given image scores."""
    return [
        cell(m, test, image_scores={"top": np.array(scores), "max": np.zeros(4)}, **changes)
        for m in models
        for test, scores in (("a", fake), ("real", real))
    ]


def test_a_photo_is_called_fake_above_a_half():
    cells = with_reals([0.45, 0.5, 0.55, 0.9], [0.1, 0.2, 0.5, 0.6])
    found = build([A], cells).matrix["image_accuracy"]["a"]["a"]
    assert found.value == pytest.approx(100 * (2 + 3) / 8)
    assert found.n == 8


def test_image_metrics_are_in_the_order_of_the_table_and_count_photos():
    cells = with_reals([0.4, 0.5, 0.6, nan], [0.1, nan, nan, 0.5])
    found = build([A], cells)
    assert found.metrics == (
        "iou", "pixel_ece", "image_ap", "image_auroc", "image_accuracy", "image_ece"
    )  # fmt: skip
    for metric in found.metrics[2:]:
        assert found.matrix[metric]["a"]["a"].n == 5
    # Of 6 pairs the fakes win 4 and tie in one.
    assert found.matrix["image_auroc"]["a"]["a"].value == pytest.approx(100 * 4.5 / 6)
    errors = abs(0.4 - 1) + abs(0.5 + 0.5 - 1) + abs(0.6 - 1) + abs(0.1 - 0)
    assert found.matrix["image_ece"]["a"]["a"].value == pytest.approx(100 * errors / 5)


def test_one_real_photo_is_enough():
    found = build([A], with_reals([0.4] * 4, [0.1, nan, nan, nan]))
    assert found.matrix["image_auroc"]["a"]["a"].value == 100


def test_metrics_at_a_tuned_threshold_are_in_the_matrix():
    scores = {"iou_tuned": np.full(4, 30.0), "iou": np.full(4, 20.0)}
    found = build([A], [cell(A, "a", scores=scores)])
    assert found.metrics == ("iou", "iou_tuned", "pixel_ece")
    assert found.matrix["iou_tuned"]["a"]["a"].value == 30


def test_untouched_photos_count_the_same_in_every_column():
    scores = {"untouched_area": np.array([0, 10, 20, 30]), "untouched_marked": np.full(4, 75)}
    found = build([A], [cell(A, "a"), cell(A, "b"), cell(A, "real", scores=scores)])
    areas = found.matrix["untouched_area"]["a"]
    assert areas["a"] == areas["b"] == found.of_row("untouched_area", "a")
    assert (areas["a"].value, areas["a"].n) == (15, 4) and areas["a"].low < 15 < areas["a"].high
    assert found.of_row("untouched_marked", "a").value == 75
    assert found.of_row("untouched_marked", "b") is None
    assert "untouched_area_decided" not in found.metrics


def test_a_model_without_a_floor_did_not_fail():
    """Its scores by the decision are undefined, and in none of the means."""
    decided = {"iou": np.full(4, 20.0), "iou_decided": np.full(4, 30.0)}
    cells = [cell(A, "a", scores=decided), cell(A, "b", scores=decided), cell(B, "b")]
    found = build([A, B], cells)
    assert found.matrix["iou_decided"]["b"] == {"b": Score(None, None, None, 0)}
    assert found.summary["iou_decided"].in_domain.value == 30
    assert found.summary["iou"].in_domain.value == 35
    lines = summary(found).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("iou_decided in percent"))
    (line,) = (line for line in lines[start:] if line.startswith("b "))
    assert line.split() == ["b", "30.0", "undefined*"]


def test_without_reals_there_are_no_image_metrics():
    found = build([A], with_reals([0.4] * 4, [nan] * 4))
    assert found.metrics == ("iou", "pixel_ece")
    assert found.reliability["a"]["a"].image is None


def test_the_pooling_decides_which_image_scores_count():
    cells = with_reals([0.9] * 4, [0.1] * 4)
    assert build([A], cells).matrix["image_accuracy"]["a"]["a"].value == 100
    found = build([A], cells, pooling="max")
    assert found.matrix["image_accuracy"]["a"]["a"].value == 50
    assert found.pooling == "max"


SEEDS = [model("a", ["a"], seed) for seed in range(2)]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(0.2, 0.95, 50 * (100 + 50) / 100), (0.2, None, None), (None, 0.5, None), (0.0, 0.5, 75)],
)
def test_the_tuned_accuracy_takes_a_threshold_of_every_seed(first, second, expected):
    cells = with_reals([0.9] * 4, [0.1] * 4, SEEDS)
    thresholds = {
        m.name: Thresholds(0.5, {"top": t, "max": 0.5})
        for m, t in zip(SEEDS, (first, second), strict=True)
    }
    found = build(SEEDS, cells, thresholds=thresholds)
    assert ("image_accuracy_tuned" in found.metrics) == (expected is not None)
    if expected is not None:
        assert found.matrix["image_accuracy_tuned"]["a"]["a"].value == pytest.approx(expected)


def test_a_seed_that_was_not_scored_keeps_no_other_from_its_threshold():
    cells = with_reals([0.4] * 4, [0.1] * 4, SEEDS[:1])
    thresholds = {SEEDS[0].name: Thresholds(0.5, {"top": 0.2})}
    for models in (SEEDS, [SEEDS[0], model("b", ["b"], 0), model("b", ["b"], 1)]):
        found = build(models, cells, thresholds=thresholds)
        assert found.matrix["image_accuracy_tuned"]["a"]["a"].value == 100


# Reliability


def test_reliability_is_of_all_photos_and_seeds():
    cells = [
        cell(m, test, histogram=histogram(4, probability, fake),
             image_scores={"top": np.array(scores)})
        for m, probability, fake in ((SEEDS[0], 0.9, 5), (SEEDS[1], 0.5, 1))
        for test, scores in (("a", [0.9, 0.9, 0.9, 0.5]), ("real", [0.9, 0.1, 0.1, 0.1]))
    ]  # fmt: skip
    found = build(SEEDS, cells).reliability["a"]["a"]
    pixel, image = found.pixel, found.image
    shown = {i: (pixel.probability[i], pixel.fake[i], pixel.share[i]) for i in (7, 13)}
    assert shown == {7: pytest.approx((0.5, 0.1, 0.5)), 13: pytest.approx((0.9, 0.5, 0.5))}
    assert image.probability[13] == pytest.approx(0.9) and image.fake[13] == 0.75
    assert image.share[13] == 0.5 and image.fake[7] == 1 and image.fake[1] == 0
    assert [i for i, share in enumerate(image.share) if share] == [1, 7, 13]
    assert pixel.fake[0] is None and image.fake[0] is None


# Models


def test_a_scored_model_says_what_it_is(tmp_path):
    path = tmp_path / "run.ckpt"
    path.write_bytes(b"weights")
    identity = Identity("clip", "layer7", "hub /home/ann/weights/x", "e")
    checkpoint = replace(
        A.checkpoint, identity=identity, decoder="conv-20", supervision="weak", image_size=448,
        path=path, seed=7, trained_on=TrainedOn(("c", "a"), "full", ""),
    )  # fmt: skip
    named = replace(A, name="m", row="a+c", checkpoint=checkpoint)
    thresholds = {"m": Thresholds(0.2, {"top": 0.4, "max": 0.6}), "other": Thresholds(0.1, {})}
    for pooling, image in (("top", 0.4), ("max", 0.6), ("mean", None)):
        (found,) = build([named], [cell(named, "a")], ("a",), thresholds, pooling).models
        assert found == ScoredModel(
            name="m", row="a+c", trained_on=("a", "c"), seed=7, encoder="clip",
            encoder_source="hub x", layer="layer7", decoder="conv-20", supervision="weak",
            image_size=448, checkpoint="run.ckpt", checkpoint_sha256=checkpoint.sha256,
            thresholds=ChosenThresholds(0.2, image),
        )  # fmt: skip
    (without,) = build([named], [cell(named, "a")], ("a",), {}).models
    assert without.thresholds == ChosenThresholds(None, None)
