"""Comparing two cross-evaluations, on small made-up folders."""

import json
import re

import numpy as np
import pytest

from declip_pl.cross_eval import compare as c
from declip_pl.cross_eval.cells import FORMAT
from declip_pl.cross_eval.compare import Evaluation, compare, comparison
from declip_pl.errors import UserError

PHOTOS = [f"photo{index}" for index in range(40)]
ROWS = {"ldm": ["ldm"], "lama": ["lama"], "all-but-lama": ["ldm"]}


def write(folder, score, rows=ROWS, columns=("lama", "ldm"), seeds=(0,), notice=None, sha="same"):
    """Write a cross-evaluation; ``score(row, column, seed)`` gives ``[P]`` scores, or None."""
    matrix = {
        "name": folder.name,
        "notice": notice,
        "data": {"tests": {column: {"photos": 40, "sha256": sha} for column in columns}},
        "models": [
            {
                "name": f"model-{row}-{seed}",
                "row": row,
                "seed": seed,
                "checkpoint_sha256": "c",
                "trained_on": row.split("+")
                if "+" in row
                else rows[row] * (1 + row.startswith("all")),
            }
            for row in rows
            for seed in seeds
        ],
        "rows": list(rows),
        "columns": list(columns),
        "in_domain": rows,
        "leave_one_out": [row for row in rows if row.startswith("all-but")],
        "matrix": {"iou": {row: {} for row in rows}},
    }
    for model in matrix["models"]:
        for column in columns:
            scores = score(model["row"], column, model["seed"])
            if scores is not None:
                path = folder / "cells" / model["name"] / f"{column}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                key = {"format": FORMAT, "checkpoint": "c", "test": sha}
                path.write_text(json.dumps({"key": key, **cell(scores)}))
                matrix["matrix"]["iou"][model["row"]][column] = {}
    (folder / "matrix.json").write_text(json.dumps(matrix))
    return folder


def cell(scores):
    order = np.random.default_rng(0).permutation(len(scores))  # files needn't agree on it
    values = [None if np.isnan(scores[i]) else float(scores[i]) for i in order]
    return {"photos": [PHOTOS[i] for i in order], "scores": {"iou": values, "ap": values}}


def base(row, column, _seed=0):
    rng = np.random.default_rng([len(row), len(column)])
    return rng.uniform(20, 60, len(PHOTOS))


def better(row, column, seed=0):
    """Ten points better out of domain, two points give or take elsewhere."""
    noise = np.random.default_rng([9, len(row), len(column), seed]).normal(0, 2, len(PHOTOS))
    return base(row, column) + noise + (10 if column not in ROWS[row] else 0)


def read(a, b, metric="iou"):
    return comparison(Evaluation.read(a), Evaluation.read(b), metric)


@pytest.fixture
def folders(tmp_path):
    return write(tmp_path / "a", base), write(tmp_path / "b", better)


def test_every_cell_is_compared_photo_by_photo(folders):
    result = read(*folders)
    assert [found.where for found in result.cells] == [
        (r, c) for r in ROWS for c in ("lama", "ldm")
    ]
    for found in result.cells:
        a, b = base(*found.where), better(*found.where)
        assert (found.a, found.b) == pytest.approx((a.mean(), b.mean()))
        assert found.change.value == pytest.approx((b - a).mean())
        assert found.change.n == len(PHOTOS)
        # Unpaired, the interval would be about 10 points wide.
        assert found.change.low < found.change.value < found.change.high < found.change.low + 2
        assert (found.corrected < 0.05) == (found.where[1] not in ROWS[found.where[0]])
        assert found.corrected >= found.p_value


def test_means_are_of_single_generator_rows(folders):
    inside, outside = read(*folders).means
    assert inside.where == ("in-domain mean", "2 cells")
    assert outside.where == ("out-of-domain mean", "2 cells")
    a = np.mean([base("ldm", "lama"), base("lama", "ldm")])
    b = np.mean([better("ldm", "lama"), better("lama", "ldm")])
    assert (outside.a, outside.b, outside.change.value) == pytest.approx((a, b, b - a))
    assert outside.change.n == 2 * len(PHOTOS)
    assert outside.corrected < 0.05 < inside.corrected


def test_a_model_does_not_differ_from_itself(tmp_path):
    a, b = write(tmp_path / "a", base), write(tmp_path / "b", base)
    for found in [*(result := read(a, b)).cells, *result.means]:
        assert found.change[:3] == (0, 0, 0)
        assert found.p_value == found.corrected == 1


def test_a_photo_counts_if_every_seed_of_both_has_a_score(tmp_path):
    def holes(row, column, seed):
        scores = better(row, column, seed)
        scores[[seed, 5]] = np.nan
        return scores

    a, b = write(tmp_path / "a", base), write(tmp_path / "b", holes, seeds=(0, 1))
    found = read(a, b).cells[0]
    assert found.change.n == len(PHOTOS) - 3
    counted = [index for index in range(len(PHOTOS)) if index not in (0, 1, 5)]
    assert found.a == pytest.approx(base(*found.where)[counted].mean())


def test_seeds_are_averaged_and_widen_the_interval(tmp_path):
    def apart(row, column, seed):
        return better(row, column) + (-8, 0, 8)[seed]

    a, one = write(tmp_path / "a", base), write(tmp_path / "one", better)
    several = write(tmp_path / "several", apart, seeds=(0, 1, 2))
    narrow, wide = read(a, one), read(a, several)
    assert wide.seeds == (1, 3)
    for left, right in zip(narrow.cells, wide.cells, strict=True):
        assert right.change.value == pytest.approx(left.change.value)
        assert right.change.high - right.change.low > 10
        assert right.p_value == left.p_value


def test_a_seed_that_failed_in_a_cell_leaves_the_others(tmp_path):
    def failing(row, column, seed):
        return None if (row, column, seed) == ("ldm", "lama", 1) else better(row, column, seed)

    a, b = write(tmp_path / "a", base), write(tmp_path / "b", failing, seeds=(0, 1))
    result = read(a, b)
    found = result.cells[0]
    assert found.b == pytest.approx(better("ldm", "lama", 0).mean())
    both = np.mean([better("lama", "ldm", seed).mean() for seed in (0, 1)])
    assert result.means[1].b == pytest.approx((found.b + both) / 2)


def test_contributions_of_photos_have_the_mean_of_the_cells_differences(tmp_path):
    def some(row, column, _seed):
        scores = better(row, column)
        scores[: 25 if column == "lama" else 3] = np.nan
        return scores

    a, b = write(tmp_path / "a", base), write(tmp_path / "b", some)
    result = read(a, b)
    scores = [
        np.where(np.isfinite(some(*found.where, 0)), side(*found.where), np.nan)
        for side in (base, better) for found in result.cells
    ]  # fmt: skip
    a, b = np.array(scores).reshape(2, len(result.cells), 1, -1)[..., 3:]
    contributions = c._contributions(a, b)
    assert contributions.mean() == pytest.approx(
        np.mean([found.change.value for found in result.cells])
    )


def test_one_photo_manipulated_by_many_generators_is_one_observation(tmp_path):
    # 25 cells of the same five photos: five signs flip.
    rows = {name: [name] for name in ("v", "w", "x", "y", "z")}

    def few(row, column, _seed):
        return np.array([50.0, 40, 30, 20, 10, *[np.nan] * 35])

    def few_better(row, column, seed):
        return few(row, column, seed) + np.arange(1, 41)

    options = {"rows": rows, "columns": tuple(rows)}
    result = read(
        write(tmp_path / "a", few, **options), write(tmp_path / "b", few_better, **options)
    )
    assert [found.p_value for found in result.means] == pytest.approx([2 / 2**5] * 2)


def test_cells_that_one_of_them_lacks_are_left_out(tmp_path):
    def failed(row, column, seed):
        return None if row == "ldm" else better(row, column, seed)

    a = write(tmp_path / "a", base)
    b = write(tmp_path / "b", failed, columns=("ldm", "splice"), rows=ROWS)
    assert [found.where for found in read(a, b).cells] == [("lama", "ldm"), ("all-but-lama", "ldm")]
    assert [found.where[0] for found in read(a, b).means] == ["out-of-domain mean"]


def test_cells_without_a_defined_score_are_left_out(tmp_path):
    def undefined(row, column, seed):
        return base(row, column) * (np.nan if column == "ldm" else 1)

    a, b = write(tmp_path / "a", undefined), write(tmp_path / "b", better)
    assert {found.where[1] for found in read(a, b).cells} == {"lama"}
    nothing = write(tmp_path / "c", lambda row, column, seed: base(row, column) * np.nan)
    with pytest.raises(UserError, match="iou is not defined for any photo"):
        read(nothing, b)


def test_a_folder_that_is_no_cross_evaluation_is_refused(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: no matrix.json")):
        compare(tmp_path, tmp_path)


def test_other_test_data_are_refused(tmp_path):
    a, b = write(tmp_path / "a", base), write(tmp_path / "b", better, sha="other")
    with pytest.raises(UserError, match=f"{b}: test set lama is not the one of {a}"):
        compare(a, b)


def test_nothing_in_common_is_refused(tmp_path):
    a = write(tmp_path / "a", base)
    b = write(tmp_path / "b", better, columns=("splice",))
    with pytest.raises(UserError, match=r"share no cell: .*columns lama, ldm; .*columns splice"):
        compare(a, b)


def test_lost_cell_files_are_refused(folders):
    for path in folders[1].glob("cells/*/*.json"):
        path.unlink()
    with pytest.raises(UserError, match="share no cell"):
        compare(*folders)


def test_an_unknown_metric_is_refused(folders):
    with pytest.raises(UserError, match="metric image_ap is not in every cell; expected ap, iou"):
        compare(*folders, metric="image_ap")


def test_the_table_says_what_its_numbers_are(tmp_path, capsys):
    a = write(tmp_path / "a", base, notice="mini is a stand-in")
    b = write(tmp_path / "b", better, seeds=(0, 1), notice="mini is a stand-in")
    compare(a, b, metric="ap")
    text = capsys.readouterr().out
    assert f"A: a ({a})\nB: b ({b})\n" in text
    assert "ap in percent" in text
    assert "6 cells of 40 photos" in text
    assert "over seeds (A 1, B 2)" in text
    assert "Holm's method over the 6 cells" in text
    assert "sign-flip permutation test" in text
    assert "doesn't say that other trainings would differ" in text
    assert text.count("mini is a stand-in") == 1
    table = text.split("\n\n")[1].splitlines()
    assert len(table) == 1 + 6 + 2
    starred = [line for line in table if line.endswith("*")]
    assert [line.split()[:2] for line in starred[:3]] == [
        ["ldm", "lama"], ["lama", "ldm"], ["all-but-lama", "lama"],
    ]  # fmt: skip
    assert re.search(r"ldm +lama +\d\d\.\d +\d\d\.\d +\+\d+\.\d +\[\+\d.* <0.001 +0.001 +\*", text)
    assert len({line.index("]") for line in table[1:]}) == 1  # numbers stand under each other


def test_one_seed_is_not_called_several(folders, capsys):
    compare(*folders)
    text = capsys.readouterr().out
    assert "over seeds" not in text
    assert "seeds: A 1, B 1" in text
