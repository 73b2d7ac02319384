"""Which epochs are kept: the best is the best, and it is tested; or the option is refused."""

import csv
import json

import pytest
import torch
from jsonargparse import Namespace
from PIL import Image

from declip_pl import cli
from declip_pl.errors import UserError
from declip_pl.training.kept_epochs import check_options, monitored
from declip_pl.training.lightning_cli import DeclipCLI


@pytest.mark.parametrize(
    ("option", "value", "instead"),
    [
        # Of the two callbacks' options a few; that none was forgotten, another test sees.
        ("best.save_top_k", 3, "leave it at 1"),
        ("best.filename", "{epoch}", "leave it at best"),
        ("best.every_n_epochs", 2, "leave it at null"),
        ("best.dirpath", "elsewhere", "leave it at null"),
        ("best.monitor", "val/typo", "choose one of val/score, "),
        ("best.monitor", "null", "choose one of val/score, "),
        ("best.monitor", "train/loss", "lower is better; add --best.mode min"),
        ("best.mode", "min", "higher is better; leave --best.mode at max"),
        ("last.save_top_k", 0, "leave it at 1"),
        ("last.filename", "mine", "leave it at last"),
        ("last.save_weights_only", "true", "leave it at false"),
        ("schedule.monitor", "val/typo", "choose one of val/score, "),
        ("schedule.monitor", "train/loss", "choose one that should rise"),
        ("trainer.val_check_interval", 0.25, "leave them at 1.0 and 1"),
        ("trainer.val_check_interval", 1, "leave them at 1.0 and 1"),
        ("trainer.check_val_every_n_epoch", "null", "leave them at 1.0 and 1"),
        ("trainer.check_val_every_n_epoch", 5, "give at most 2"),
        ("trainer.limit_val_batches", 0, "give a share such as 0.1"),
        ("trainer.limit_val_batches", 0.0, "give a share such as 0.1"),
        ("trainer.limit_test_batches", 0, "give a share such as 0.1"),
        ("trainer.max_epochs", 0, "give the number of epochs"),
        ("trainer.max_steps", 0, "give the number of steps"),
        ("trainer.enable_checkpointing", "false", "leave it out"),
        ("trainer.barebones", "true", "leave it out"),
        ("trainer.default_root_dir", "elsewhere", "--run.root"),
        ("optimizer", "SGD", "--model.learning_rate"),
    ],
)
def test_what_would_lose_the_best_epoch_is_refused_before_anything_is_written(
    fit_arguments, tmp_path, error_of, option, value, instead
):
    message = error_of(*fit_arguments(**{option: value}))
    assert f"--{option}" in message or "--trainer.val_check_interval" in message
    assert instead in message and "\n" not in message
    assert not (tmp_path / "outputs").exists()


def test_a_trainer_that_validates_nothing_ends_with_an_error(fit_arguments, tmp_path, error_of):
    """Steps are counted while training; then there is no best epoch to test."""
    message = error_of(*fit_arguments(**{"run.name": "x", "trainer.max_steps": 1}))
    assert "no best one to test; see --trainer.max_steps" in message
    assert not (tmp_path / "outputs/x/test_metrics.json").exists()


def parsed(fit_arguments, monkeypatch) -> Namespace:
    """Return all options of ``fit``, as its parser understands them."""
    found = []

    def stop(self):
        found.append(self.config.fit)
        raise SystemExit(0)

    monkeypatch.setattr(DeclipCLI, "before_instantiate_classes", stop)
    with pytest.raises(SystemExit):
        cli.main(fit_arguments())
    return found[0]


@pytest.mark.parametrize("section", ["best", "last"])
def test_no_option_of_the_two_callbacks_was_forgotten(fit_arguments, monkeypatch, section):
    """Of all that Lightning offers, now or in a later version, only these may be changed."""
    config = parsed(fit_arguments, monkeypatch)
    check_options(config)
    accepted = set()
    for name in config[section].as_dict():
        changed = config.clone()
        changed[section][name] = "something else"
        try:
            check_options(changed)
        except UserError as error:
            assert f"--{section}." in str(error)
        else:
            accepted.add(name)
    assert accepted == {"verbose"}
    assert {"save_top_k", "filename"} <= config[section].as_dict().keys()


def test_every_figure_has_one_direction():
    figures = monitored()
    assert {"val/score", "val/iou", "val/image_ap", "train/loss"} <= figures.keys()
    assert {name for name, mode in figures.items() if mode == "min"} == {"train/loss"}


def test_a_metric_of_ones_own_is_monitored_in_its_own_direction(own_metric):
    own_metric("false_alarms")
    assert monitored()["val/false_alarms"] == "min"


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("monitor", "mode"), [("val/f1_fixed", "max"), ("train/loss", "min")])
def test_the_best_is_the_best_by_the_figure_that_is_named(fit_arguments, tmp_path, monitor, mode):
    """It is tested, and the pictures are of its epoch."""
    options = {"best.monitor": monitor, "best.mode": mode, "model.learning_rate": 0.3}
    cli.main(fit_arguments(**options, **{"run.name": "x", "trainer.max_epochs": 4}))
    folder = tmp_path / "outputs/x"
    figures = [float(row[monitor]) for row in rows(folder)]
    best = figures.index({"max": max, "min": min}[mode](figures))
    assert torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["epoch"] == best
    assert json.loads((folder / "test_metrics.json").read_text())["scores"]["ldm"]
    cli.main(fit_arguments(**options, **{"run.name": "until", "trainer.max_epochs": best + 1}))
    pictures = [Image.open(tmp_path / f"outputs/{name}/panels/00_0.png") for name in ("x", "until")]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_epochs_that_were_not_validated_have_no_validation_figures(fit_arguments, tmp_path):
    options = {"trainer.check_val_every_n_epoch": 2, "run.name": "x"}
    cli.main(fit_arguments(**options, **{"trainer.max_epochs": 5}))
    folder = tmp_path / "outputs/x"
    found = rows(folder)
    assert [bool(row["val/score"]) for row in found] == [False, True, False, True, False]
    scores = {i: float(row["val/score"]) for i, row in enumerate(found) if row["val/score"]}
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["epoch"]
    assert best == max(scores, key=scores.get)


def test_a_trial_keeps_nothing_and_touches_nothing(fit_arguments, tmp_path, capsys):
    trial = {"trainer.fast_dev_run": "true", "run.name": "x"}
    cli.main(fit_arguments(**trial))
    assert "nothing is kept or tested" in capsys.readouterr().out
    assert not (tmp_path / "outputs").exists()
    cli.main(fit_arguments(**{"run.name": "x"}))
    folder = tmp_path / "outputs/x"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    cli.main(fit_arguments(**trial, **{"run.overwrite": "true"}))
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_more_epochs_are_kept_by_a_callback_of_ones_own(fit_arguments, tmp_path):
    own = (
        "[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: "
        f"{tmp_path / 'mine'}, filename: '{{epoch}}', monitor: val/score, mode: max, "
        "save_top_k: -1, save_on_train_epoch_end: true}}]"
    )
    cli.main([*fit_arguments(**{"run.name": "x"}), f"--trainer.callbacks={own}"])
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {"epoch=0.ckpt", "epoch=1.ckpt"}
    assert (tmp_path / "outputs/x/test_metrics.json").exists()


@pytest.mark.parametrize("command", ["fit", "test"])
def test_the_config_of_an_older_run_still_works(fit_arguments, tmp_path, command):
    """It names the folders that the run wrote to."""
    cli.main(fit_arguments(**{"run.name": "x"}))
    folder = tmp_path / "outputs/x"
    config = folder / "config.yaml"
    text = config.read_text()
    assert "default_root_dir: null" in text and text.count("dirpath: null") == 2
    text = text.replace("default_root_dir: null", f"default_root_dir: {folder}")
    text = text.replace("dirpath: null", f"dirpath: {folder / 'checkpoints'}")
    config.write_text(text.replace("panels:\n", "panels:\n  monitor: val/score\n"))
    if command == "fit":
        cli.main(["fit", f"--config={config}", "--run.name=again"])
        assert (tmp_path / "outputs/again/checkpoints/best.ckpt").exists()
    else:
        cli.main(["test", str(folder), "--generator=lama"])
        assert list(folder.glob("test_metrics_*lama*.json"))
