"""Lists of runs, and what training and cross-evaluation say while they run."""

import json
import re
import shutil
from pathlib import Path

import pytest

from declip_pl import cli
from declip_pl.cross_eval import progress
from declip_pl.cross_eval.progress import Countdown
from declip_pl.model.checkpoint import read_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def printed(place, fit_arguments, tmp_path, monkeypatch, capsys) -> str:
    """What a training said; its run lies in outputs/train of the current folder."""
    monkeypatch.chdir(tmp_path)
    if not (place / "one").exists():
        further = {"run.name": "one", "run.root": place, "trainer.max_epochs": 3}
        cli.main(fit_arguments(**further))
        (place / "printed").write_text(capsys.readouterr().out)
    shutil.copytree(place / "one", "outputs/train/one")
    return (place / "printed").read_text()


def test_training_prints_a_line_an_epoch_and_names_the_best(printed, place):
    lines = re.findall(
        r"^epoch (\d)/3  loss ([\d.]+)  val/score ([\d.]+)( \*|  )  \d+ s$", printed, re.M
    )
    assert [line[0] for line in lines] == ["1", "2", "3"]
    best = 0.0
    for _, _, score, star in lines:
        assert (star == " *") == (float(score) > best) or float(score) == pytest.approx(best)
        best = max(best, float(score))
    winner = [line[0] for line in lines if line[3] == " *"][-1]
    assert f"best: epoch {winner}, val/score {best:.2f}\n" in printed
    with (place / "one/metrics.csv").open() as file:
        assert len(file.readlines()) == 4
    assert re.search(r"^training [\d,]+ of [\d,]+ weights on cpu$", printed, re.M)
    for noise in ("FLOPs", "Tip", "TPU", "GPU available"):
        assert noise not in printed


def test_a_resumed_run_remembers_its_best_epoch(printed, fit_arguments, capsys):
    first = re.search(r"^best: (.*)$", printed, re.M)[1]
    Path("outputs/train/one/test_metrics.json").unlink()
    further = {"run.name": "one", "run.root": "outputs/train", "trainer.max_epochs": 3}
    cli.main([*fit_arguments(**further), "--run.resume=true"])
    said = capsys.readouterr().out
    assert "epoch 1/3" not in said and f"best: {first}" in said


def test_a_run_may_close_with_one_line(printed, fit_arguments, capsys):
    Path("outputs/train/one/test_metrics.json").unlink()
    further = {"run.name": "one", "run.root": "outputs/train", "trainer.max_epochs": 3}
    cli.main([*fit_arguments(**further), "--run.resume=true", "--run.brief=true"])
    said = capsys.readouterr().out
    iou = json.loads(Path("outputs/train/one/test_metrics.json").read_text())["scores"]["ldm"][
        "iou"
    ]
    assert said.endswith(f"tested: IoU {iou:.1f} on ldm (outputs/train/one/test_metrics.json)\n")
    assert "this model" not in said


def test_runs_are_listed_with_their_scores(printed, capsys):
    results = json.loads(Path("outputs/train/one/test_metrics.json").read_text())
    results["notice"] = "a notice"
    Path("outputs/train/one/test_metrics.json").write_text(json.dumps(results))
    shutil.copytree("outputs/train/one", "outputs/train/unfinished")
    Path("outputs/train/unfinished/test_metrics.json").unlink()
    shutil.copytree("outputs/train/one", "outputs/train/damaged")
    Path("outputs/train/damaged/test_metrics.json").write_text("{")
    Path("outputs/train/no run").mkdir()
    cli.main(["runs"])
    head, damaged, one, unfinished, notice = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "run" and notice == "a notice"
    assert "damaged (" in damaged and "not finished" in unfinished
    scores = results["scores"]["ldm"]
    assert re.split(r"  +", one) == [
        "outputs/train/one",
        "ldm of dolos (masks)",
        "ldm of dolos",
        f"{scores['iou']:.1f}",
        f"{scores['image_auroc']:.1f}",
        f"{scores['untouched_marked_decided']:.1f}",
    ]


def test_of_several_runs_one_is_chosen_by_its_scores(printed, error_of):
    shutil.copytree("outputs/train/one", "outputs/train/two")
    scores = json.loads(Path("outputs/train/one/test_metrics.json").read_text())["scores"]["ldm"]
    message = error_of("predict", "photo.jpg", "--json")
    assert "no file or folder photo.jpg" in message
    Path("photo.jpg").touch()
    message = error_of("predict", "photo.jpg")
    expected = f"IoU {scores['iou']:.1f}, AUROC {scores['image_auroc']:.1f} on ldm of dolos"
    assert f"--model outputs/train/two  {expected}" in message


def test_without_a_run_there_is_no_list(tmp_path, monkeypatch, error_of):
    monkeypatch.chdir(tmp_path)
    assert "there is no run in outputs/train" in error_of("runs")


def test_a_part_of_dolos_that_is_none_is_refused(error_of):
    message = error_of("train", "--source=celeb")
    assert "--source is celeb; expected celebahq or ffhq" in message


@pytest.mark.parametrize(
    "command",
    [["train"], ["cross-eval"], ["test", "outputs/train/one"],
     ["predict", "photo.png", "--model=outputs/train/one"], ["demo", "--model=outputs/train/one"]],
    ids=lambda command: command[0],
)  # fmt: skip
def test_a_device_that_is_not_there_is_refused_everywhere(command, printed, tree, error_of):
    shutil.copy(tree / "real/test/0.png", "photo.png")
    further = [f"--data={tree}"] if command[0] in ("train", "cross-eval") else []
    message = error_of(*command, *further, "--device=cuda:99")
    assert "the device 'cuda:99' can't be used" in message and "\n" not in message.strip()


def test_a_test_runs_where_it_is_told(printed, capsys):
    before = read_checkpoint("outputs/train/one").sha256
    cli.main(["test", "outputs/train/one", "--device=cpu", "--overwrite", "--output=again"])
    assert Path("again/test_metrics_ldm.json").exists()
    assert read_checkpoint("outputs/train/one").sha256 == before


def test_a_countdown_says_how_far_it_is(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    countdown = Countdown(3)
    assert countdown.next("training a") == "training a (model 1 of 3)"
    now[0] = 150.0
    assert countdown.next("training b") == "training b (model 2 of 3, about 5 min left)"
    now[0] = 180.0
    assert countdown.next("training c") == "training c (model 3 of 3, about 2 min left)"
    assert Countdown(2).next("x") == "x (model 1 of 2)"
