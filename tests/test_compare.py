"""Comparing two cross-evaluations, on small made-up folders."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from crosseval_example import plain_cell, plain_matrix, plain_model
from crosseval_example import score as plain_score

from declip_pl.cross_eval import compare as c
from declip_pl.cross_eval.cell import cell_path, read_cell, write_cell
from declip_pl.cross_eval.compare import compare, comparison
from declip_pl.cross_eval.evaluation import read_evaluations
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import Checkpoint, read_checkpoint, save
from declip_pl.model.features import Identity

PHOTOS = [f"photo{index}" for index in range(40)]
ROWS = {"ldm": ["ldm"], "lama": ["lama"], "all-but-lama": ["ldm"]}


def write(folder, score, rows=ROWS, columns=("lama", "ldm"), seeds=(0,), notice=None, sha="same",
          checkpoint="c"):  # fmt: skip
    """Write a cross-evaluation; ``score(row, column, seed)`` gives ``[P]`` scores, or None."""
    models = [
        plain_model(
            row,
            name=f"model-{row}-{seed}",
            seed=seed,
            checkpoint_sha256=checkpoint,
            trained_on=rows[row] * (1 + row.startswith("all")),
        )
        for row in rows
        for seed in seeds
    ]
    matrix = plain_matrix(models, columns, name=folder.name, notice=notice)
    matrix["matrix"]["iou"] = {row: {} for row in rows}
    for test in matrix["data"]["tests"].values():
        test["sha256"] = sha
    for model in models:
        for column in columns:
            scores = score(model["row"], column, model["seed"])
            if scores is not None:
                path = cell_path(folder, model["name"], column)
                write_cell(path, cell(model, column, scores, sha))
                matrix["matrix"]["iou"][model["row"]][column] = plain_score(50.0)
    (folder / "matrix.json").write_text(json.dumps(matrix))
    return folder


def cell(model, column, scores, sha):
    order = np.random.default_rng(0).permutation(len(scores))  # files needn't agree on it
    values, photos = scores[order], [PHOTOS[i] for i in order]
    return plain_cell(model, column, photos, {"iou": values, "ap": values}, test=sha)


def change_key(path, **changes):
    """Write a cell again with another key."""
    cell = read_cell(path)
    write_cell(path, replace(cell, key=replace(cell.key, **changes)))


def base(row, column, _seed=0):
    rng = np.random.default_rng([len(row), len(column)])
    return rng.uniform(20, 60, len(PHOTOS))


def better(row, column, seed=0):
    """Ten points better out of domain, two points give or take elsewhere."""
    noise = np.random.default_rng([9, len(row), len(column), seed]).normal(0, 2, len(PHOTOS))
    return base(row, column) + noise + (10 if column not in ROWS[row] else 0)


def read(a, b, metric="iou"):
    return comparison(*read_evaluations(str(a), str(b)), metric)


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


def test_the_permutation_test_is_of_the_difference_that_is_told(tmp_path, monkeypatch):
    """One number for each photo, whose mean is the difference: of a cell, or of several's mean."""
    tested, p_value = [], c.paired_p_value
    monkeypatch.setattr(c, "paired_p_value", lambda x: tested.append(x) or p_value(x))

    def some(row, column, _seed):
        scores = better(row, column)
        scores[: 25 if column == "lama" else 3] = np.nan
        return scores

    a, b = write(tmp_path / "a", base), write(tmp_path / "b", some)
    result = read(a, b)
    differences = [*result.cells, *result.means]
    assert [len(x) for x in tested] == [15, 37, 15, 37, 15, 37, 37, 37]
    assert [x.mean() for x in tested] == pytest.approx([d.change.value for d in differences])


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
    with pytest.raises(UserError, match=r"is no cross-evaluation .*matrix\.json.* and no model"):
        compare(str(tmp_path), str(tmp_path))


def test_other_test_data_are_refused(tmp_path):
    a, b = write(tmp_path / "a", base), write(tmp_path / "b", better, sha="other")
    with pytest.raises(UserError, match=f"{b}: test set lama is not the one of {a}"):
        compare(str(a), str(b))


def test_nothing_in_common_is_refused(tmp_path):
    a = write(tmp_path / "a", base)
    b = write(tmp_path / "b", better, columns=("splice",))
    with pytest.raises(UserError, match=r"share no cell: .*columns lama, ldm; .*columns splice"):
        compare(str(a), str(b))


def test_lost_cell_files_are_refused(folders):
    for path in folders[1].glob("cells/*/*"):
        path.unlink()
    with pytest.raises(UserError, match=r"share no cell that can be read: run .* again"):
        compare(*map(str, folders))


def test_rows_that_are_not_on_record_are_in_no_mean(tmp_path):
    rows = {"ldm": ["ldm"], "imported": []}
    a, b = (write(tmp_path / name, base_of_any, rows=rows) for name in "ab")
    result = read(a, b)
    assert len(result.cells) == 4
    assert [mean.where for mean in result.means] == [
        ("in-domain mean", "1 cells"), ("out-of-domain mean", "1 cells"),
    ]  # fmt: skip


def base_of_any(row, column, _seed=0):
    return base(row, column)


def test_p_values_have_three_decimals_and_undefined_ones_are_called_undefined(folders):
    result = read(*folders)
    given = {float("nan"): "undefined", 0.0001: "<0.001", 0.0005: "0.001", 0.02: "0.020"}
    cells = [replace(result.cells[0], p_value=p, corrected=p) for p in given]
    lines = c.describe(replace(result, cells=cells)).splitlines()
    shown = [line.removesuffix("*").split()[-2:] for line in lines if line.startswith("ldm ")]
    assert shown == [[text, text] for text in given.values()]


def test_one_photo_has_no_interval_and_says_so(tmp_path, capsys):
    def single(row, column, _seed=0):
        return np.array([50.0, *[np.nan] * 39])

    compare(*(str(write(tmp_path / name, single)) for name in "ab"))
    printed = capsys.readouterr().out
    assert "nan" not in printed and "undefined" in printed


def test_the_perturbation_of_either_side_is_told(folders, capsys):
    content = json.loads((folders[1] / "matrix.json").read_text()) | {"perturbation": "jpeg 75"}
    (folders[1] / "matrix.json").write_text(json.dumps(content))
    for path in folders[1].glob("cells/*/*"):
        change_key(path, perturbation="jpeg 75")
    compare(*map(str, folders))
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [
        f"A: a ({folders[0]})", f"B: b ({folders[1]}), photos went through jpeg 75"
    ]  # fmt: skip


def save_model(folder):
    """Write a saved folder; its weights are its own."""
    identity = Identity(name="clip", layer="layer1", source="hub", sha256="0" * 64)
    weights = {"fc.weight": torch.tensor([float(len(folder.name))])}
    save(Checkpoint("clip", "layer1", "linear", 224, identity, weights=weights), folder)


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Three checkpoints in outputs/cross_eval: one's newer matrix, and one that is damaged."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "outputs/cross_eval"
    for name in ("first", "second", "unscored"):
        save_model(tmp_path / name)
    one = {"ldm": ["ldm"]}
    first = read_checkpoint(tmp_path / "first").sha256
    write(root / "old", base, rows=one, checkpoint=first)
    write(root / "new", better, rows=one, checkpoint=first)
    other = {"other": ["lama"]}
    second = read_checkpoint(tmp_path / "second").sha256
    write(root / "other", base_of_any, rows=other, checkpoint=second)
    (root / "damaged").mkdir()
    (root / "damaged/matrix.json").write_text("{")
    os.utime(root / "old/matrix.json", (1, 1))
    return tmp_path


def test_models_stand_for_their_cells_in_the_newest_matrix_and_are_paired_by_column(scored, capsys):
    compare("first", "second")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "A: model-ldm-0 in new (outputs/cross_eval/new)"
    assert lines[1] == "B: model-other-0 in other (outputs/cross_eval/other)"
    result = comparison(*read_evaluations("first", "second"), "iou")
    assert [found.where for found in result.cells] == [
        ("ldm / other", "lama"), ("ldm / other", "ldm")
    ]  # fmt: skip
    assert result.cells[0].a == pytest.approx(better("ldm", "lama").mean())
    assert result.cells[0].b == pytest.approx(base("other", "lama").mean())
    # One was trained on ldm, the other on lama: no test set is in or out of domain for both.
    assert result.means == []


def test_a_model_and_a_folder_are_paired_by_row(scored):
    result = comparison(*read_evaluations("outputs/cross_eval/old", "first"), "iou")
    assert [found.where for found in result.cells] == [("ldm", "lama"), ("ldm", "ldm")]


def test_of_several_seeds_a_model_is_one(scored):
    digest = read_checkpoint(scored / "first").sha256
    folder = write(scored / "outputs/cross_eval/seeds", better, rows={"ldm": ["ldm"]}, seeds=(0, 1))
    content = json.loads((folder / "matrix.json").read_text())
    content["models"][1]["checkpoint_sha256"] = digest
    (folder / "matrix.json").write_text(json.dumps(content))
    change_key(cell_path(folder, "model-ldm-1", "lama"), checkpoint=digest)
    a, _ = read_evaluations("first", "first")
    assert a.folder.name == "seeds" and list(a.photos(("ldm", "lama"))) == [1]


def test_a_model_that_nothing_scored_says_which_command_to_run(scored):
    with pytest.raises(
        UserError,
        match=r"^no cross-evaluation in outputs/cross_eval has scored unscored; run: "
        r"declip-pl evaluate first unscored$",
    ):
        compare("first", "unscored")


def test_an_unknown_metric_is_refused(folders):
    with pytest.raises(UserError, match="metric f1_plain is not in every cell; expected ap, iou"):
        compare(*map(str, folders), metric="f1_plain")


def test_the_table_says_what_its_numbers_are(tmp_path, capsys):
    a = write(tmp_path / "a", base, notice="mini is a stand-in")
    b = write(tmp_path / "b", better, seeds=(0, 1), notice="mini is a stand-in")
    compare(str(a), str(b), metric="ap")
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
    compare(*map(str, folders))
    text = capsys.readouterr().out
    assert "over seeds" not in text
    assert "seeds: A 1, B 1" in text


def write_images(folder, fakes, reals, seeds=(0,), threshold=None):
    """Write a cross-evaluation of one row with image scores of fakes and reals."""
    models = [plain_model("ldm", name=f"m{seed}", seed=seed) for seed in seeds]
    matrix = plain_matrix(models, ("lama",), name=folder.name)
    matrix["data"]["tests"]["real"] = {"photos": 40, "sha256": "t"}
    matrix["matrix"]["iou"] = {"ldm": {"lama": plain_score(50.0)}}
    for seed, model in zip(seeds, models, strict=True):
        for column, scores in (("lama", fakes[seed]), ("real", reals[seed])):
            made = plain_cell(model, column, PHOTOS, {"iou": scores}, {"top": scores})
            chosen = replace(made.thresholds, image={"top": threshold})
            write_cell(cell_path(folder, model["name"], column), replace(made, thresholds=chosen))
    folder.mkdir(exist_ok=True)
    (folder / "matrix.json").write_text(json.dumps(matrix))
    return folder


def image_scores(gap, seed=0):
    """Return scores of fakes and reals that are ``gap`` apart, give or take 0.1."""
    rng = np.random.default_rng(seed)
    return 0.4 + gap + rng.normal(0, 0.1, 40), 0.4 + rng.normal(0, 0.1, 40)


def test_metrics_of_whole_photos_are_compared_by_resampling_the_difference(tmp_path, capsys):
    pairs = {
        name: image_scores(gap, seed)
        for seed, (name, gap) in enumerate({"a": 0.05, "b": 0.3}.items())
    }
    folders = [
        write_images(tmp_path / name, *[[part] for part in pair]) for name, pair in pairs.items()
    ]
    found = read(*folders, "image_auroc")
    (cell,) = found.cells
    for side, (fakes, reals) in zip((cell.a, cell.b), pairs.values(), strict=True):
        assert side == pytest.approx(100 * (fakes[:, None] > reals).mean())
    assert cell.change.value == pytest.approx(cell.b - cell.a) and cell.change.n == 80
    assert cell.change.low > 0 and cell.p_value == pytest.approx(2 / 2001)
    compare(*map(str, folders), "image_auroc")
    assert "from the resamples" in capsys.readouterr().out
    compare(*map(str, folders), "image_ece")
    assert "image_ece in percent (less is better)" in capsys.readouterr().out


def test_an_image_metric_does_not_differ_from_itself_and_averages_seeds(tmp_path):
    pairs = [image_scores(0.1, seed) for seed in (0, 1)]
    folder = write_images(tmp_path / "a", *zip(*pairs, strict=True), seeds=(0, 1), threshold=0.45)
    for metric in ("image_ap", "image_accuracy", "image_accuracy_tuned"):
        (cell,) = read(folder, folder, metric).cells
        assert cell.change.value == 0 and cell.a == cell.b
    expected = np.mean([[(fakes > 0.45).mean(), (reals <= 0.45).mean()] for fakes, reals in pairs])
    assert read(folder, folder, "image_accuracy_tuned").cells[0].a == pytest.approx(100 * expected)


def test_an_image_metric_needs_reals_and_thresholds(tmp_path, folders):
    with pytest.raises(UserError, match="there are no real photos in both"):
        read(*folders, "image_auroc")
    fakes, reals = image_scores(0.1)
    folder = write_images(tmp_path / "x", [fakes], [reals])
    with pytest.raises(UserError, match="image_accuracy_tuned needs thresholds"):
        read(folder, folder, "image_accuracy_tuned")
