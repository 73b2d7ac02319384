"""Baselines of a cross-evaluation: the scores of answers that never look at the photo."""

import re

import numpy as np
import pytest
import torch
from conftest import GENERATORS, make_tree

from declip_pl.cross_eval.answers import answers, score_answers
from declip_pl.cross_eval.heat_maps import TestSet as Photos
from declip_pl.cross_eval.plan import read_data_sets
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.place import read_place
from declip_pl.errors import UserError
from declip_pl.training.baselines import baselines
from declip_pl.training.recipe import Options


def sets(data):
    return [
        Photos(name, data.evaluation_set(name, "test", name), f"hash of {name}")
        for name in (*GENERATORS, "real")
    ]


@pytest.fixture
def data(tree):
    return LocalizationDataModule(str(tree), "all")


def test_they_have_the_scores_that_a_test_tells(data, tmp_path):
    failures = []
    cells = score_answers(tmp_path, data, sets(data), failures)
    assert not failures and len(cells) == 3 * 3
    for generator, expected in baselines(data, decided=True).items():
        for name, scores in expected.items():
            found = cells[name, generator].scores
            assert {"iou", "iou_decided", "ap", "f1_best"} <= found.keys()
            for metric, values in found.items():
                assert values.mean() == pytest.approx(scores[metric], abs=1e-3)
    for name, area in (("all fake", 100), ("all real", 0)):
        cell = cells[name, "real"]
        assert cell.scores["untouched_area"].tolist() == [area] * 4
        assert cell.scores["untouched_marked_decided"].tolist() == [area] * 4
        assert len(np.unique(cell.image_scores["top"])) == 1


def test_they_are_kept_until_a_mask_changes(data, tmp_path):
    tests = sets(data)
    score_answers(tmp_path, data, tests, [])
    files = sorted(tmp_path.rglob("*.safetensors"))
    before = [path.stat().st_mtime_ns for path in files]
    score_answers(tmp_path, data, tests, [])
    assert [path.stat().st_mtime_ns for path in files] == before
    changed = [Photos(t.name, t.data, t.sha256 + "!") for t in tests]
    score_answers(tmp_path, data, changed, [])
    assert all(path.stat().st_mtime_ns != old for path, old in zip(files, before, strict=True))


def test_the_mean_mask_depends_on_the_training_masks(data, tmp_path):
    first = {answer.name: answer for answer in answers(data)}
    other = make_tree(tmp_path / "other")
    for mask in (other / "fake").rglob("masks/train/*.png"):
        mask.write_bytes(next((other / "fake").rglob("masks/test/*.png")).read_bytes())
    second = {a.name: a for a in answers(LocalizationDataModule(str(other), "all"))}
    assert first["all fake"].key == second["all fake"].key
    assert first["mean train mask"].key != second["mean train mask"].key
    assert not torch.equal(first["mean train mask"].map, second["mean train mask"].map)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_training_file_that_goes_is_named_and_leaves_its_answer_out(tmp_path, monkeypatch, kind):
    root = make_tree(tmp_path / "dolos")
    data = LocalizationDataModule(str(root), "all")
    tests, gone = sets(data), root / f"fake/ldm/{kind}/train/3.png"
    _ = data.stamps
    hashed = data.index.hashes
    monkeypatch.setattr(data.index, "hashes", lambda files: (hashed(files), gone.unlink())[0])
    failures = []
    cells = score_answers(tmp_path / "out", data, tests, failures)
    assert {name for name, _ in cells} == {"all fake", "all real"}
    (failure,) = failures
    assert failure.what == "baseline mean train mask" and str(gone) in failure.why


def test_data_sets_are_listed_before_anything_is_compared_with_them(tmp_path):
    root = make_tree(tmp_path / "dolos")
    (data,) = read_data_sets(Options(str(root)), None, [read_place(str(root))], "none")
    gone = root / "fake/ldm/images/train/3.png"
    gone.unlink()
    with pytest.raises(UserError, match=re.escape(str(gone))):
        list(data.train_masks())
