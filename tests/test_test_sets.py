"""Evaluation needs test photos alone: no training layout, no name that another data set has."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_tree

from declip_pl import cli
from declip_pl.cross_eval.matrix import read_matrix
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.model.checkpoint import BEST, read_checkpoint, save
from declip_pl.training.results import results_path

FEW = {"train": 4, "valid": 2, "test": 2}
ONLY_TEST = {"test": 3}


def fit(root, clip, *options):
    cli.main([
        "fit", f"--data.root={root}", "--data.generator=ldm", "--data.batch_size=4",
        "--data.num_workers=0", f"--model.encoder={clip}", "--model.layer=layer1",
        "--model.decoder=linear", "--model.image_size=64", "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
        "--trainer.logger=false", *options,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def trained(clip, tmp_path_factory):
    """A run that was trained on a data set called home."""
    folder = tmp_path_factory.mktemp("trained")
    root = make_tree(folder / "home", ("ldm",), FEW)
    fit(root, clip, f"--run.root={folder}/outputs/train", "--run.name=run")
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch, blank_plots):
    shutil.copytree(trained / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    return Path("outputs/train/run")


@pytest.fixture(params=["with reals", "without reals"])
def bench(request, tmp_path):
    """A benchmark: test photos of a generator that nothing was trained on."""
    root = make_tree(tmp_path / "bench", ("telea",), ONLY_TEST)
    if request.param == "without reals":
        shutil.rmtree(root / "real")
    return root


def results_of(path):
    return json.loads(Path(path).read_text())


def test_a_set_of_test_photos_can_be_tested_on(run, bench, capsys):
    cli.main(["test", str(run), f"--data={bench}", "--generator=telea"])
    results = results_of(run / "test_metrics_bench_telea.json")
    scores, kept = results["scores"]["telea"], read_checkpoint(run).thresholds
    assert scores["iou_n"] == 3 and scores["pixel_threshold"] == kept.pixel
    assert ("image_ap" in scores) == ("image_accuracy_tuned" in scores) == (bench / "real").is_dir()
    assert results["baselines"]["telea"]["mean train mask"] == {}
    assert results["baselines"]["telea"]["all fake"]["iou"] > 0
    printed = capsys.readouterr().out
    assert "mean train mask: undefined, no training masks" in printed
    assert "6 files decoded" in printed or "9 files decoded" in printed


def test_a_set_of_test_photos_has_its_row_in_the_matrix(run, bench):
    cli.main(["evaluate", str(run), f"--data={bench}", "--name=x"])
    matrix = read_matrix(Path("outputs/cross_eval/x"))
    kept = read_checkpoint(run).thresholds
    assert not matrix.failed and "iou_tuned" in matrix.metrics
    assert matrix.models[0].thresholds.pixel == kept.pixel
    assert ("image_accuracy_tuned" in matrix.metrics) == (bench / "real").is_dir()


@pytest.mark.parametrize("generator", ["telea", "ldm"])
def test_without_any_threshold_it_has_its_row_as_well(run, tmp_path, generator):
    """As imported checkpoints are; also where the generator has the training's name."""
    saved = torch.load(run / BEST, weights_only=True)
    saved["declip_pl"]["thresholds"] = None
    torch.save(saved, run / BEST)
    root = make_tree(tmp_path / "bench", (generator,), ONLY_TEST)
    cli.main(["evaluate", str(run), f"--data={root}", "--name=x"])
    matrix = read_matrix(Path("outputs/cross_eval/x"))
    assert not matrix.failed and matrix.matrix["iou"]["ldm"][generator].n == 3
    assert not any("tuned" in name for name in matrix.metrics)


def test_data_check_takes_a_set_of_test_photos(bench, capsys):
    cli.main(["data", "check", str(bench)])
    printed = capsys.readouterr().out
    for split in ("train", "valid"):
        assert f"no {split} photo of telea: it can be tested on, not trained on" in printed
    assert "error" not in printed


def test_data_check_still_refuses_a_generator_without_photos(bench, error_of):
    (bench / "fake/empty/images/test").mkdir(parents=True)
    assert "no test photo of empty" in error_of("data", "check", str(bench))


def test_data_check_says_what_cannot_be_tested_on(tmp_path, capsys):
    cli.main(["data", "check", str(make_tree(tmp_path / "x", ("ldm",), {"train": 2, "valid": 2}))])
    printed = capsys.readouterr().out
    assert "no test photo of ldm: it can't be tested on" in printed and "trained on" not in printed


@pytest.mark.parametrize("split", ["train", "valid"])
def test_training_still_needs_its_splits(clip, tmp_path, split, error_of):
    root = make_tree(tmp_path / "x", ("ldm",), {k: v for k, v in FEW.items() if k != split})
    message = error_of("fit", f"--data.root={root}", "--data.generator=ldm", "--model.layer=layer1",
                       f"--model.encoder={clip}", "--model.image_size=64",
                       f"--run.root={tmp_path}/outputs")  # fmt: skip
    assert f"no {split} photo of ldm" in message and not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("splits", [["test"], ["valid", "test"], ["valid"], ["train"]])
def test_reals_may_lack_splits(clip, tmp_path, monkeypatch, splits):
    root = make_tree(tmp_path / "x", ("ldm",), FEW)
    for split in {"train", "valid", "test"} - set(splits):
        shutil.rmtree(root / "real" / split)
    monkeypatch.chdir(tmp_path)
    fit(root, clip, "--run.name=r")
    scores = results_of("outputs/train/r/test_metrics.json")["scores"]["ldm"]
    assert ("image_ap" in scores) == ("test" in splits)
    assert ("image_accuracy_tuned" in scores) == ({"valid", "test"} <= set(splits))


def test_labels_cannot_be_trained_on_without_reals(clip, tmp_path, error_of):
    root = make_tree(tmp_path / "x", ("ldm",), FEW)
    shutil.rmtree(root / "real/train")
    message = error_of("fit", f"--data.root={root}", "--data.generator=ldm", "--model.layer=layer1",
                       f"--model.encoder={clip}", "--model.supervision=weak",
                       "--model.image_size=64", f"--run.root={tmp_path}/outputs")  # fmt: skip
    assert "no train photo of real" in message and not (tmp_path / "outputs").exists()


def test_results_go_where_they_are_wanted(run, tmp_path):
    before = sorted(run.iterdir())
    cli.main(["test", str(run), "--output", str(tmp_path / "a/b")])
    assert (tmp_path / "a/b/test_metrics_ldm.json").is_file() and sorted(run.iterdir()) == before
    save(read_checkpoint(run), Path("saved"))
    data = f"--data={json.loads((run / 'test_metrics.json').read_text())['data']['root']}"
    quiet = ["--data.num_workers=0", "--trainer.logger=false"]
    cli.main(["test", "saved", data, "--output=here", *quiet])
    assert Path("here/test_metrics_ldm.json").is_file() and not Path("outputs/test").exists()


def test_data_sets_that_share_names_have_results_of_their_own(run, tmp_path, error_of):
    """The same generator elsewhere, and a whole data set of the same name elsewhere."""
    for count, root in enumerate(("other", "a/other", "home"), 1):
        make_tree(tmp_path / root, ("ldm",), {"test": count})
        cli.main(["test", str(run), f"--data={tmp_path / root}"])
    found = {path.name: results_of(path) for path in run.glob("test_metrics_*.json")}
    counts = {name: results["scores"]["ldm"]["iou_n"] for name, results in found.items()}
    assert sorted(counts.values()) == [1, 2, 3]
    assert counts["test_metrics_other_ldm.json"] == 1 and counts["test_metrics_ldm.json"] == 3
    again = error_of("test", str(run), f"--data={tmp_path}/a/other")
    assert "exists; replace it" in again and "test_metrics_other_ldm_" in again


def test_matrices_of_data_sets_that_share_a_name_lie_apart(run, tmp_path):
    for folder in ("a", "b", "a"):
        make_tree(tmp_path / folder / "same", ("ldm",), ONLY_TEST)
        cli.main(["evaluate", str(run), f"--data={tmp_path / folder}/same"])
    matrices = [
        read_matrix(path.parent) for path in Path("outputs/cross_eval").glob("*/matrix.json")
    ]
    assert len({matrix.data.root for matrix in matrices}) == 2
    assert len(matrices) == 2
    assert "same-run" in min((matrix.name for matrix in matrices), key=len)


def test_a_perturbed_test_is_named_after_the_perturbation(run):
    cli.main(["test", str(run), "--perturbation=jpeg"])
    (path,) = run.glob("test_metrics_*.json")
    assert path.name.startswith("test_metrics_ldm_perturbed-")
    assert results_of(path)["data"]["perturbation"] == "jpeg"


def test_damaged_results_do_not_change_a_name(run, tmp_path):
    data = LocalizationDataModule(str(make_tree(tmp_path / "home", ("ldm",), ONLY_TEST)), "ldm")
    plain = run / "test_metrics_ldm.json"
    trained_on = read_checkpoint(run).trained_on
    for content in (b"", b"{", b"[]", b"\xff", b'{"format": 2}'):
        plain.write_bytes(content)
        assert results_path(run, data, trained_on) == plain
