"""The figures of a matrix against a plain, slow computation of the same: drawing, then scoring."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.matrix import MADE, simulated, trained_models
from sklearn.metrics import average_precision_score, roc_auc_score

from declip_pl.cross_eval.build import build_matrix
from declip_pl.cross_eval.matrix import About, Data
from declip_pl.cross_eval.statistics import BINS, bootstrap
from declip_pl.metrics import Thresholds

TESTS = ("a", "b")
PHOTOS, SEEDS, RESAMPLES = 14, 2, 25
ABOUT = About("", None, "none", Data("", "", {}), (), MADE)


@pytest.fixture(scope="module", params=[False, True], ids=["the same photos", "others"])
def scored(request):
    """Models of two seeds, their cells, thresholds and matrix; some photos or scores are missing.

    Every generator manipulated the same photos, or each its own.
    """
    rng = np.random.default_rng(3)
    models = [
        replace(m, name=f"{m.name}-{seed}", checkpoint=replace(m.checkpoint, seed=seed))
        for m in trained_models()
        if m.row in TESTS
        for seed in range(SEEDS)
    ]
    thresholds = {
        m.name: Thresholds(0.5, {"top": 0.3 + 0.1 * index}) for index, m in enumerate(models)
    }
    cells = {}
    for model in models:
        for test in (*TESTS, "real"):
            photos = PHOTOS - 2 * (test == "b")
            prefix = test if request.param else "photo"
            cell = simulated(rng, model, test, [f"{prefix}{index}" for index in range(photos)])
            if test == "a":
                cell.scores["iou"][3] = np.nan
            ties = {name: values.round(1) for name, values in cell.image_scores.items()}
            cells[model.name, test] = replace(cell, image_scores=ties)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES", RESAMPLES)
        matrix = build_matrix(models, cells, thresholds, TESTS, "top", ABOUT)
    return models, cells, thresholds, matrix


def slow(statistic, photos):
    """Return a statistic of lists of drawn photos and seeds, with its interval."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(photos), (RESAMPLES, len(photos)))
    seeds = rng.integers(0, SEEDS, (RESAMPLES, SEEDS))
    value = statistic(photos, range(SEEDS))
    found = [statistic([photos[i] for i in p], s) for p, s in zip(drawn, seeds, strict=True)]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return value, min(low, value), max(high, value)


def mean_score(cells, photos):
    found = [score for p in photos for score in [cells[0]["iou"].get(p)] if score is not None]
    return np.mean([score for score in found if not np.isnan(score)])


def images(cells, photos):
    fakes, reals = (
        [c["top"][p] for p in photos if p in c["top"]] for c in cells
    )  # a photo brings its fake and its real
    return np.array(fakes + reals), np.array([1] * len(fakes) + [0] * len(reals))


def error(count, probability, fake):
    return 100 * np.abs(fake - probability).sum() / count.sum()


def image_error(cells, photos):
    scores, labels = images(cells, photos)
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return error(*(np.bincount(bins, w, BINS) for w in (np.ones(len(bins)), scores, labels)))


def untouched_score(metric):
    """Return the mean over the drawn real photos."""
    return lambda cells, photos: np.mean(
        [cells[1][metric][p] for p in photos if p in cells[1]["top"]]
    )


METRICS = {
    "iou": mean_score,
    "pixel_ece": lambda cells, photos: error(
        *np.sum([cells[0]["pixels"][p] for p in photos if p in cells[0]["pixels"]], axis=0)
    ),
    "image_ap": lambda *a: 100 * average_precision_score(*images(*a)[::-1]),
    "image_auroc": lambda *a: 100 * roc_auc_score(*images(*a)[::-1]),
    "image_accuracy": lambda *a: 100 * np.mean((images(*a)[0] > 0.5) == images(*a)[1]),
    "image_ece": image_error,
    "untouched_area": untouched_score("untouched_area"),
    "untouched_marked_decided": untouched_score("untouched_marked_decided"),
}


def by_photo(cell):
    """Return a cell's columns as dictionaries by photo."""
    columns = {**cell.scores, "top": cell.image_scores["top"], "pixels": cell.histogram}
    return {name: dict(zip(cell.photos, values, strict=True)) for name, values in columns.items()}


@pytest.mark.parametrize("metric", METRICS)
def test_every_cell_and_mean_equals_a_slow_computation(scored, metric):
    models, cells, _, matrix = scored
    photos = sorted({photo for cell in cells.values() for photo in cell.photos})
    plain = {pair: by_photo(cell) for pair, cell in cells.items()}

    def of_cell(row, test):
        names = [model.name for model in models if model.row == row]
        both = [(plain[name, test], plain[name, "real"]) for name in names]
        return lambda drawn, seeds: np.mean([METRICS[metric](both[s], drawn) for s in seeds])

    def is_(found, statistic):
        expected = slow(statistic, photos)
        assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-9)

    inside, outside = (
        [of_cell(row, test) for row in TESTS for test in TESTS if (row == test) == same]
        for same in (True, False)
    )
    for row in TESTS:
        for test in TESTS:
            is_(matrix.matrix[metric][row][test], of_cell(row, test))
    means = matrix.summary[metric]
    is_(means.in_domain, lambda *drawn: np.mean([cell(*drawn) for cell in inside]))
    is_(means.out_of_domain, lambda *drawn: np.mean([cell(*drawn) for cell in outside]))
    worst = max if metric.endswith("ece") or metric.startswith("untouched") else min
    is_(means.worst_out_of_domain, lambda *drawn: worst(cell(*drawn) for cell in outside))


def test_the_tuned_accuracy_is_at_each_seeds_own_threshold(scored):
    models, cells, thresholds, matrix = scored
    rates = []
    for model in (model for model in models if model.row == "a"):
        pair = [by_photo(cells[model.name, test]) for test in ("b", "real")]
        scores, labels = images(pair, sorted({*pair[0]["top"], *pair[1]["top"]}))
        rates.append(100 * np.mean((scores > thresholds[model.name].image["top"]) == labels))
    found = matrix.matrix["image_accuracy_tuned"]["a"]["b"].value
    assert found == pytest.approx(np.mean(rates))


def test_the_same_inputs_are_not_computed_again_and_others_are(scored):
    models, cells, thresholds, matrix = scored
    about = replace(ABOUT, name="later")
    given = {"cells": cells, "thresholds": thresholds, "columns": TESTS, "pooling": "top"}
    marked = replace(matrix, metrics=("taken from before",))
    again = build_matrix(models, **given, about=about, before=marked)
    assert again == replace(marked, name="later")
    name, cell = models[0].name, cells[models[0].name, "a"]
    better = replace(cell, scores={**cell.scores, "iou": cell.scores["iou"] + 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES", RESAMPLES)
        for changes in (
            {"cells": {**cells, (name, "a"): better}},
            {"cells": {pair: c for pair, c in cells.items() if pair != (name, "a")}},
            {"thresholds": {**thresholds, name: Thresholds(0.5, {"top": 0.9, "max": 0.2})}},
            {"thresholds": {**thresholds, name: replace(thresholds[name], floor=0.2)}},
            {"columns": TESTS[::-1]},
        ):
            other = build_matrix(models, **given | changes, about=about, before=marked)
            assert other.metrics == matrix.metrics and other.inputs != matrix.inputs
