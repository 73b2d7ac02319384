"""What W&B is told of a training and of later tests: runs of their own, and the best score."""

import csv
import json
import os
import sys
from itertools import pairwise

import pytest
from benchmarks.offline_run import records
from conftest import run_apart
from test_cli import read_wandb
from wandb.proto.wandb_internal_pb2 import Record

COMMANDS = """
import json, sys
from declip_pl import cli
for arguments in json.loads(sys.argv[1]):
    cli.main(arguments)
"""


@pytest.fixture(scope="module")
def logged(clip, tree, tmp_path_factory):
    """A folder in which a model was trained, tested on another generator, and trained on."""
    folder = tmp_path_factory.mktemp("logged")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    environment |= {k: os.environ[k] for k in ("DECLIP_FEATURES", "PYTHONPATH") if k in os.environ}
    fit = [
        "fit", "--run.name=run", f"--data.root={tree}", "--data.generator=ldm",
        "--data.batch_size=4", "--data.num_workers=0", f"--model.encoder={clip}",
        "--model.layer=layer1", "--model.decoder=linear", "--model.image_size=64",
        "--model.learning_rate=1.0",  # so that scores fall again
        "--trainer.max_epochs=4", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    test = ["test", "outputs/train/run", "--generator=lama", "--trainer.accelerator=cpu"]
    command = [sys.executable, "-c", COMMANDS, json.dumps([fit, test])]
    done = run_apart(command, folder, environment)
    assert done.returncode == 0, done.stderr
    assert "wandb:" not in done.stdout + done.stderr
    assert done.stdout.count("wandb leet") == done.stdout.count("wandb sync") == 2
    return folder / "outputs/train/run"


def only(folder):
    """Return the records of the one run that was logged in a folder."""
    (run,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return [Record.FromString(data) for data in records(run.read_bytes())]


def started(found):
    (run,) = (record.run for record in found if record.HasField("run"))
    return run


def test_a_test_is_a_run_of_its_own_in_the_group(logged):
    trained, tested = (started(only(folder)) for folder in (logged, logged / "evaluations"))
    assert trained.run_id != tested.run_id
    assert (trained.job_type, tested.job_type) == ("fit", "test")
    assert trained.run_group == tested.run_group == "dolos"
    assert (trained.display_name, tested.display_name) == ("run", "run on dolos/lama")


def test_the_run_holds_the_curves(logged, clip):
    (run,) = logged.glob("wandb/offline-run-*/run-*.wandb")
    keys, config = read_wandb(run)
    curves = {"train/loss_epoch", "val/iou", "val/score", "learning_rate", "panels"}
    assert keys >= curves and not any(key.startswith("test/") for key in keys)
    facts = {"layer": "layer1", "decoder": "linear", "generator": "ldm", "seed": 0}
    facts |= {"encoder": clip.name, "encoder_source": f"folder {clip.name}", "notice": ""}
    assert config | facts == config and config["model"]
    assert "seed-0" in started(only(logged)).tags


def summary_of(found):
    """Return the last value of each entry of a run's summary."""
    items = [item for record in found for item in record.summary.update]
    return {item.key: json.loads(item.value_json) for item in items if item.key}


def test_what_a_run_has_once_is_in_its_summary(logged):
    summary = summary_of(only(logged))
    results = json.loads((logged / "test_metrics.json").read_text())
    assert summary["test/ldm/iou"] == results["scores"]["ldm"]["iou"]
    with (logged / "metrics.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    best = max(epochs, key=lambda epoch: float(epoch["val/score"]))
    assert summary["best/epoch"] == float(best["epoch"])
    assert summary["best/iou"] == float(best["val/iou"])
    assert not any(key.endswith("_n") for key in summary)
    other = summary_of(only(logged / "evaluations"))
    assert other["test/lama/iou"] >= 0 and not any(key.startswith("best/") for key in other)


def figures(updates):
    """Return what was said of the score, in its order."""
    named = [item for item in updates if "val/score" in (item.key, *item.nested_key)]
    return [json.loads(item.value_json) for item in named]


def test_the_best_score_is_the_summarys(logged):
    found = only(logged)
    scores = figures(item for record in found for item in record.history.item)
    summaries = figures(item for record in found for item in record.summary.update)
    assert len(set(scores)) > 1 and any(b < a for a, b in pairwise(scores))
    assert summaries[-1] == {"max": max(scores)}
