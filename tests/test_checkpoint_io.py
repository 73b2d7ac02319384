"""Checkpoints are whole, whenever their writer is killed, in runs and in scripts of one's own."""

import csv
import json
import os
import signal
import subprocess
import sys

import lightning as L
import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from declip_pl import cli
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.model.checkpoint import load_lightning
from declip_pl.training.checkpoint_io import WholeCheckpoints
from declip_pl.training.task import LocalizationTask

KILLER = """
import os
import resource
import signal

from lightning.pytorch.callbacks import Callback


class Killer(Callback):
    '''End the process at the second last.ckpt (best.ckpt holds weights alone and is not asked).'''

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        kill = os.environ.get("KILL") if trainer.current_epoch == 1 else None
        if kill == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if kill == "within":  # the system ends whoever writes a file beyond so many bytes
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""


@pytest.fixture
def killable(fit_arguments, tmp_path, monkeypatch):
    """Arguments of a run that is killed where the environment's KILL says so."""
    (tmp_path / "killer_of_runs.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)

    def arguments(name: str, **changes) -> list[str]:
        options = {"run.name": name, "trainer.max_epochs": 3, "data.augmentation": "jpeg"}
        callbacks = "--trainer.callbacks=[{class_path: killer_of_runs.Killer}]"
        return [*fit_arguments(**options | changes), callbacks]

    return arguments


@pytest.mark.parametrize(
    ("where", "status"),
    [
        # Where writing leaves a half, not having begun leaves nothing.
        pytest.param("before", -signal.SIGKILL, marks=pytest.mark.slow),
        ("within", -signal.SIGXFSZ),
    ],
)
def test_a_killed_run_keeps_the_old_checkpoint_and_goes_on(killable, tmp_path, where, status):
    """The best epoch is written already, the last one is not, or only half."""
    search = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "declip_pl", *killable("x")],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"KILL": where, "PYTHONPATH": search},
    )
    assert done.returncode == status, done.stderr
    folder = tmp_path / "outputs/x"
    last = folder / "checkpoints/last.ckpt"
    assert load_lightning(last)["epoch"] == 0
    half = [path for path in last.parent.iterdir() if path.name.startswith(".")]
    assert [path.stat().st_size for path in half] == ([4096] if where == "within" else [])
    cli.main(killable("x", **{"run.resume": "true"}))
    assert not any(path.exists() for path in half)
    cli.main(killable("straight"))
    assert everything(folder) == everything(tmp_path / "outputs/straight")


def everything(folder):
    """Return all that a run found out, weights included."""
    weights = [load_lightning(folder / f"checkpoints/{name}.ckpt") for name in ("best", "last")]
    with (folder / "metrics.csv").open() as file:
        epochs = list(csv.DictReader(file))
    return (
        [content["epoch"] for content in weights],
        [{k: v.tolist() for k, v in content["state_dict"].items()} for content in weights],
        epochs,
        json.loads((folder / "test_metrics.json").read_text())["scores"],
    )


class Unwritable:
    """An object at which saving fails, after a part of the file may have been written."""

    def __reduce__(self):
        raise OSError("no more space")


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "new/last.ckpt"
    WholeCheckpoints().save_checkpoint({"state_dict": {}, "epoch": 1}, path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="no more space"):
        WholeCheckpoints().save_checkpoint({"state_dict": {}, "bad": Unwritable()}, path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "last.ckpt", []
    path.write_text("old")

    def fsync(handle):
        seen.append((path.read_text(), os.fstat(handle).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    WholeCheckpoints().save_checkpoint({"state_dict": {}}, path)
    assert seen == [("old", path.stat().st_size)]


class OwnWriter(TorchCheckpointIO):
    """A user's own way to write checkpoints."""


@pytest.mark.parametrize("own", [False, True])
def test_a_script_of_ones_own_writes_whole_checkpoints(clip, tree, tmp_path, own):
    """Whatever callbacks write them; a writer that the user names stays."""
    task = LocalizationTask(str(clip), "layer1", "linear", 64)
    data = LocalizationDataModule(str(tree), "ldm", batch_size=4, num_workers=0, check=False)
    writer = OwnWriter() if own else None
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, plugins=writer,
        callbacks=[ModelCheckpoint(tmp_path / "mine", "mine", monitor="val/iou", mode="max")],
    )  # fmt: skip
    trainer.fit(task, data)
    assert type(trainer.strategy.checkpoint_io) is (OwnWriter if own else WholeCheckpoints)
    assert torch.load(tmp_path / "mine/mine.ckpt", weights_only=True)["epoch"] == 0
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["mine.ckpt"]
