"""SIGTERM, as a cluster sends it before its time limit: one line says what is kept."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from conftest import PATIENCE, make_clip, make_tree, wait_until

from declip_pl import cli

RECIPE = """
model: {{encoder: {folder}/tiny-clip, layer: layer1, decoder: linear, image_size: 64}}
data: {{root: x, generator: x, batch_size: 4, num_workers: 0}}
trainer: {{max_epochs: {epochs}, accelerator: cpu, enable_progress_bar: false, logger: false}}
"""

LINE = "ended by SIGTERM; finished models and cells are kept: the same command goes on from there\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with data, an encoder, a recipe and a question; SIGTERM is then what it was."""
    make_tree(tmp_path / "dolos")
    make_clip(tmp_path / "tiny-clip")
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(folder=tmp_path, epochs=10_000))
    (tmp_path / "mine.yaml").write_text(
        "question: Which?\nrecipe: tiny.yaml\ngrid: {model.decoder: [linear, light]}\n"
    )
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


class Training:
    """A training during which the command that started it is ended.

    Args:
        listens: Whether it ends when it is told to.
    """

    def __init__(self, listens: bool) -> None:
        self.listens = listens
        self.told: list[object] = []

    def wait(self, timeout=None):
        """Have the command ended, or end."""
        if not self.told:
            os.kill(os.getpid(), signal.SIGTERM)
        elif timeout and not self.listens:
            raise subprocess.TimeoutExpired("train", timeout)

    def send_signal(self, number):
        self.told.append(number)

    def kill(self):
        self.told.append("killed")


@pytest.mark.parametrize(
    ("words", "listens"),
    [
        (["cross-eval", "--config=tiny.yaml"], True),
        (["cross-eval", "--config=tiny.yaml"], False),
        (["ablate", "mine.yaml"], True),
        (["robustness", "--config=tiny.yaml"], True),
    ],
)
def test_a_command_ends_its_training_and_says_what_is_kept(
    here, monkeypatch, capsys, words, listens
):
    training = Training(listens)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: training)
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--data=dolos"])
    assert stop.value.code == 143
    assert training.told == [signal.SIGTERM, *(() if listens else ("killed",))]
    assert capsys.readouterr().err == LINE


def test_a_second_one_does_not_end_what_is_done_then(here, monkeypatch, capsys):
    """A cluster may send it to every process of a job, and the first passes it on as well."""
    training = Training(listens=True)

    def twice(number):
        training.told.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    training.send_signal = twice
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: training)
    with pytest.raises(SystemExit) as stop:
        cli.main(["cross-eval", "--config=tiny.yaml", "--data=dolos"])
    assert stop.value.code == 143 and capsys.readouterr().err == LINE


@pytest.mark.slow  # the command and a training in processes
def test_the_command_and_its_training_end(here):
    words = ["cross-eval", "--config=tiny.yaml", "--data=dolos"]
    command = [sys.executable, "-m", "declip_pl", *words]
    with (here / "err").open("w") as err:
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err)
        wait_until(lambda: any(here.glob("outputs/train/*/metrics.csv")), run)
        (training,) = psutil.Process(run.pid).children()
        run.send_signal(signal.SIGTERM)
        assert run.wait(PATIENCE) == 143
    assert not training.is_running()
    told = [line for line in (here / "err").read_text().splitlines() if line.startswith("ended")]
    assert told[-1] == LINE.strip()  # the training may have said its own before
