"""One rule for thresholds: chosen on training's validation photos, kept, and used everywhere."""

import json
import shutil
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from conftest import make_tree
from hypothesis import given
from hypothesis import strategies as st

from declip_pl import cli
from declip_pl.cross_eval.matrix import read_matrix
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.errors import UserError
from declip_pl.inference.localizer import Localizer
from declip_pl.inference.model_card import model_card
from declip_pl.metrics import (
    FLOORS,
    THRESHOLDS,
    Thresholds,
    Untouched,
    all_metrics,
    choose_thresholds,
    floor_areas,
    threshold_curves,
)
from declip_pl.metrics.accumulate import ThresholdChoice
from declip_pl.model.checkpoint import BEST, read_checkpoint, save
from declip_pl.model.network import POOLINGS
from declip_pl.training.task import LocalizationTask

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}


@pytest.fixture(scope="module")
def trained(tree, clip, tmp_path_factory):
    """A finished run on ldm, in a folder outputs/train."""
    folder = tmp_path_factory.mktemp("trained")
    cli.main([
        "fit", f"--run.root={folder}/outputs/train", "--run.name=run", f"--data.root={tree}",
        "--data.generator=ldm", "--data.batch_size=4", "--data.num_workers=0",
        f"--model.encoder={clip}", "--model.layer=layer1", "--model.decoder=light",
        "--model.image_size=64", "--model.learning_rate=3e-3", "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
        "--trainer.logger=false",
    ])  # fmt: skip
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch, blank_plots):
    """A copy of it that a test may change, seen from its folder."""
    shutil.copytree(trained / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs/train/run"


def forget(run):
    """Make a run's checkpoint one of before: without thresholds."""
    saved = torch.load(run / BEST, weights_only=True)
    saved["declip_pl"].pop("thresholds")
    torch.save(saved, run / BEST)


def scores_of(run, name):
    return json.loads((run / name).read_text())["scores"]


def cross_evaluated(run, data, *options):
    cli.main(["evaluate", str(run), f"--data={data}", "--name=x", *options])
    return read_matrix(Path("outputs/cross_eval/x"))


def test_training_and_cross_evaluation_choose_the_same(run, tree):
    kept = read_checkpoint(run).thresholds
    assert kept.pixel in THRESHOLDS and set(kept.image) == set(POOLINGS) and kept.floor in FLOORS
    forget(run)
    chosen = cross_evaluated(run, tree, "--pooling=mean").models[0].thresholds
    assert (chosen.pixel, chosen.floor) == (kept.pixel, kept.floor)
    assert chosen.image == pytest.approx(kept.image["mean"], abs=1e-6)


def test_test_and_cross_evaluation_agree_in_every_metric(run, tree):
    """On another generator as well, where `test` used to choose a threshold of its own."""
    matrix = cross_evaluated(run, tree)
    cli.main(["test", str(run), "--generator=lama"])
    found = scores_of(run, "test_metrics.json") | scores_of(run, "test_metrics_lama.json")
    shared = [m.name for m in all_metrics() if not m.name.endswith("_ece")]
    assert set(shared) >= {"iou_tuned", "f1_tuned", "image_accuracy_tuned", "iou_decided"}
    assert set(shared) >= {"untouched_area_decided", "untouched_marked"}
    for generator, scores in found.items():
        for name in shared:
            expected = matrix.matrix[name]["ldm"][generator].value
            assert scores[name] == pytest.approx(expected, abs=1e-4), (generator, name)
        kept = read_checkpoint(run).thresholds
        assert scores["pixel_threshold"] == kept.pixel == matrix.models[0].thresholds.pixel
        assert scores["image_threshold"] == kept.image["top"] == matrix.models[0].thresholds.image
        assert scores["decision_floor"] == kept.floor == matrix.models[0].thresholds.floor


def test_a_models_own_pooling_is_cross_evaluations_default(run, tree):
    save(read_checkpoint(run), saved := Path("saved"))
    config = json.loads((saved / "config.json").read_text()) | {"pooling": "mean"}
    (saved / "config.json").write_text(json.dumps(config))
    matrix = cross_evaluated(saved, tree)
    cli.main(["test", str(saved), f"--data={tree}", "--data.num_workers=0",
              "--trainer.logger=false"])  # fmt: skip
    scores = scores_of(Path("outputs/test/saved"), "test_metrics_ldm.json")["ldm"]
    assert (
        matrix.pooling == "mean" and scores["image_threshold"] == matrix.models[0].thresholds.image
    )
    for name in ("image_ap", "image_auroc", "image_accuracy", "image_accuracy_tuned"):
        assert scores[name] == pytest.approx(matrix.matrix[name]["ldm"]["ldm"].value, abs=1e-4)
    both = ["evaluate", str(saved), str(run), f"--data={tree}", "--name=both"]
    cli.main(both)
    assert read_matrix(Path("outputs/cross_eval/both")).pooling == "top"


def test_a_checkpoint_without_thresholds_has_none_in_a_test(run, capsys):
    forget(run)
    cli.main(["test", str(run), "--generator=lama"])
    scores = scores_of(run, "test_metrics_lama.json")["lama"]
    assert not any("tuned" in name or "threshold" in name for name in scores)
    assert "thresholds chosen on validation photos: none" in capsys.readouterr().out


def test_a_checkpoint_without_a_floor_has_no_decision_and_all_else(run, tree, capsys):
    saved = torch.load(run / BEST, weights_only=True)
    saved["declip_pl"]["thresholds"].pop("floor")
    torch.save(saved, run / BEST)
    before = scores_of(run, "test_metrics.json")["ldm"]
    cli.main(["test", str(run), f"--data={tree}"])
    found = json.loads((run / "test_metrics_ldm.json").read_text())
    left = {name: score for name, score in before.items() if "deci" not in name}
    assert len(left) < len(before) and found["scores"]["ldm"] == left
    assert all("iou_decided" not in scores for scores in found["baselines"]["ldm"].values())
    assert "deci" not in capsys.readouterr().out
    matrix = cross_evaluated(run, tree)
    assert not any("decided" in name for name in matrix.metrics)
    assert matrix.matrix["iou"]["ldm"]["ldm"].value == pytest.approx(left["iou"], abs=1e-4)
    assert "deci" not in capsys.readouterr().out


def test_summaries_say_what_the_decision_does(run, tree, capsys):
    cli.main(["test", str(run), f"--data={tree}"])
    out = capsys.readouterr().out
    assert "\n  iou_decided " in out and "undefined" not in out
    assert "untouched photos at 0.5: " in out and "untouched photos by the decision: " in out
    assert "floor of the decision" in out
    matrix = cross_evaluated(run, tree)
    out = capsys.readouterr().out
    assert "\n  iou_decided " in out
    header, row = out[out.index("untouched photos, percent") :].splitlines()[1:3]
    names = [name for name in matrix.metrics if name.startswith("untouched")]
    assert len(names) == 4 and header.split() == ["trained", "on", *names]
    values = [f"{matrix.matrix[name]['ldm']['lama'].value:.1f}" for name in names]
    assert row.split() == ["ldm", *values]


def test_precision_of_the_trainer_changes_no_test(run):
    cli.main(["test", str(run), "--trainer.precision=bf16-mixed"])
    again = scores_of(run, "test_metrics_ldm.json")["ldm"]
    assert again == pytest.approx(scores_of(run, "test_metrics.json")["ldm"], abs=1e-6)


def test_saved_folders_and_cards_have_the_thresholds(run, tmp_path):
    checkpoint = read_checkpoint(run)
    save(checkpoint, tmp_path / "saved")
    assert read_checkpoint(tmp_path / "saved").thresholds == checkpoint.thresholds
    card = model_card(checkpoint, "x", None)
    assert f"{checkpoint.thresholds.pixel:.2f} for pixels" in card
    assert f"{checkpoint.thresholds.image['top']:.2f} for images" in card


@pytest.mark.parametrize(
    "thresholds",
    [
        {"pixel": 1.5, "image": {}},
        {"pixel": None, "image": {"top": -0.1}},
        {"pixel": "0.5", "image": {}},
        {"pixel": float("nan"), "image": {}},
        {"pixel": True, "image": {}},
        {"pixel": 0.5, "image": [0.5]},
        {"pixel": 0.5},
        {"pixel": 0.5, "image": {"other": 0.5}},
        {"pixel": 0.5, "image": {}, "floor": 1.5},
        {"pixel": 0.5, "image": {}, "floor": "0.5"},
        {},
        [0.5],
        "0.5",
    ],
)
def test_thresholds_that_are_none_are_refused(run, tmp_path, thresholds):
    save(read_checkpoint(run), tmp_path / "saved")
    file = tmp_path / "saved/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"thresholds": thresholds}))
    with pytest.raises(UserError, match="its description is damaged"):
        read_checkpoint(tmp_path / "saved")


def fit(clip, data, folder, **options):
    """Train in a plain Trainer and return what the last checkpoint says of thresholds."""
    task = LocalizationTask(str(clip), "layer1", "linear", 64)
    trainer = L.Trainer(**QUIET, default_root_dir=folder, enable_model_summary=False, **options)
    trainer.fit(task, data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return task, read_checkpoint(folder / "last.ckpt").thresholds


def data_of(root, **options):
    return LocalizationDataModule(str(root), "ldm", batch_size=4, num_workers=0, **options)


def test_thresholds_belong_to_the_weights_that_they_were_chosen_for(clip, tree, tmp_path):
    """Not to those of an epoch later that was not validated."""
    every = {"max_epochs": 2, "enable_checkpointing": False}
    assert fit(clip, data_of(tree), tmp_path, **every, check_val_every_n_epoch=2)[1]
    every["max_epochs"] = 3
    assert fit(clip, data_of(tree), tmp_path, **every, check_val_every_n_epoch=2)[1] is None


@pytest.mark.parametrize(
    ("options", "trainer"),
    [({"perturbation": "jpeg"}, {}), ({}, {"limit_val_batches": 0})],
    ids=["photos that were changed", "no validation"],
)
def test_without_validation_photos_as_they_are_there_are_none(
    clip, tree, tmp_path, options, trainer
):
    options = {"data": data_of(tree, **options), "max_epochs": 1, "enable_checkpointing": False}
    assert fit(clip, folder=tmp_path, **options, **trainer)[1] is None


def test_validating_elsewhere_changes_no_threshold(clip, tree, tmp_path):
    task, kept = fit(clip, data_of(tree), tmp_path, max_epochs=1, enable_checkpointing=False)
    other = make_tree(tmp_path / "other", ("ldm",), {"train": 1, "valid": 2, "test": 2})
    L.Trainer(**QUIET).validate(task, data_of(other), verbose=False)
    assert task.thresholds == kept


def test_without_reals_there_is_a_pixel_threshold_alone(clip, tmp_path):
    root = make_tree(tmp_path / "data", ("ldm",), {"train": 4, "valid": 2, "test": 2})
    shutil.rmtree(root / "real/valid")
    kept = fit(clip, data_of(root), tmp_path, max_epochs=1, enable_checkpointing=False)[1]
    assert kept.floor is None
    assert kept.pixel in THRESHOLDS and set(kept.image.values()) == {None}


SCORES = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=30)


@given(SCORES, st.lists(st.integers(0, 5), min_size=49, max_size=49))
def test_the_choice_is_the_lowest_of_the_best(photos, curve):
    scores = torch.tensor([score / 20 for score, _ in photos])
    labels = torch.tensor([int(fake) for _, fake in photos])
    chosen = choose_thresholds(torch.tensor(curve) / 5.0, {"top": scores}, labels)
    assert curve[THRESHOLDS.index(chosen.pixel)] == max(curve)
    assert max(curve) not in curve[: THRESHOLDS.index(chosen.pixel)]
    if len(set(labels.tolist())) == 1:
        assert chosen.image == {"top": None}
        return
    right = [int(((scores > t) == labels.bool()).sum()) for t in np.linspace(0, 1, 401)]
    assert int(((scores > chosen.image["top"]) == labels.bool()).sum()) == max(right)


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(1, 6))
def test_batches_do_not_matter(fakes, size):
    torch.manual_seed(len(fakes))
    maps, masks = torch.rand(len(fakes), 1, 6, 6), torch.rand(len(fakes), 6, 6) > 0.5
    masks &= torch.tensor(fakes)[:, None, None]
    scores, labels = {"mean": maps.mean((1, 2, 3))}, torch.tensor(fakes).float()
    found = []
    for step in (size, len(fakes)):
        choice = ThresholdChoice(["mean"])
        for start in range(0, len(fakes), step):
            part = slice(start, start + step)
            pooled = {"mean": scores["mean"][part]}
            choice.update(maps[part], list(masks[part]), pooled, labels[part])
        found.append(choice.choose())
    chosen = labels.bool()
    iou = untouched = None
    if chosen.any():
        iou = threshold_curves(maps[chosen, 0], masks[chosen])["iou"].double().mean(0)
    if not chosen.all():
        areas, over = floor_areas(maps[~chosen, 0]).double(), (maps[~chosen] > 0.5).double()
        marked = 100 * (areas > 0).double().mean(0)
        fixed = 100 * float(over.mean()), 100 * float(over.amax((1, 2, 3)).mean())
        untouched = Untouched(areas.mean(0), marked, *fixed)
    assert found[0] == found[1] == choose_thresholds(iou, scores, labels, untouched)
    assert (found[0].floor is None) == (untouched is None)
    assert found[0].pixel is not None or not any(fakes)


def test_a_floor_is_of_all_untouched_photos_whatever_the_batch():
    """Of 40, three have a mark of 2 %: as many photos may have one."""
    maps = torch.full((40, 1, 20, 20), 0.001)
    maps[::14, :, 3, :8] = 0.45
    floors = set()
    for step in (1, 16, 40):
        choice = ThresholdChoice([])
        for batch in maps.split(step):
            masks = list(torch.zeros(len(batch), 20, 20, dtype=torch.bool))
            choice.update(batch, masks, {}, torch.zeros(len(batch)))
        floors.add(choice.choose().floor)
    assert floors == {0.01}  # the lowest that leaves the others unmarked


def test_a_curve_of_other_thresholds_is_refused():
    with pytest.raises(ValueError, match="an IoU for each of THRESHOLDS"):
        choose_thresholds(torch.rand(3), {}, torch.ones(0))
    few, all_ = torch.rand(3), torch.rand(101)
    for shares in ((few, few), (few, all_), (all_, few)):
        with pytest.raises(ValueError, match="shares for each of FLOORS"):
            choose_thresholds(None, {}, torch.ones(0), Untouched(*shares, 0.0, 0.0))


def test_nothing_to_choose_by_gives_none():
    assert choose_thresholds(None, {"top": torch.ones(0)}, torch.ones(0)) == Thresholds(
        None, {"top": None}
    )


@pytest.fixture
def other_activation(clip, tmp_path):
    """An encoder of the same name and weights that computes with another activation."""
    folder = shutil.copytree(clip, tmp_path / "other" / clip.name)
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden_act"] == "quick_gelu"
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    return folder


def test_another_activation_is_another_encoder(run, tree, other_activation, error_of):
    saved = torch.load(run / BEST, weights_only=True)
    saved["declip_pl"]["encoder"] = str(other_activation)
    saved["declip_pl"]["identity"]["source"] = "a folder that is gone"
    torch.save(saved, run / BEST)
    reason = "with hidden_act gelu in place of quick_gelu"
    assert reason in error_of("test", str(run), f"--data={tree}", "--generator=lama",
                              f"--model.encoder={other_activation}")  # fmt: skip
    assert reason in error_of("evaluate", str(run), f"--data={tree}")
    with pytest.raises(UserError, match=reason):
        Localizer.from_pretrained(run)


def test_models_of_two_activations_are_scored_each_by_its_own(run, tree, other_activation):
    """They share the weights' hash, but no features."""
    saved = torch.load(run / BEST, weights_only=True)
    saved["declip_pl"]["encoder"] = str(other_activation)
    saved["declip_pl"]["identity"]["arithmetic"]["hidden_act"] = "gelu"
    (run.parent / "other/checkpoints").mkdir(parents=True)
    torch.save(saved, run.parent / "other" / BEST)
    cli.main(["evaluate", str(run), str(run.parent / "other"), f"--data={tree}", "--name=x"])
    table = read_matrix(Path("outputs/cross_eval/x")).matrix["ap"]
    assert len(table) == 2
    assert len({row["ldm"].value for row in table.values()}) == 2
