"""Pieces of a cross-evaluation in processes apart, and what of them is read and refused."""

import json
import os
import subprocess
import sys

import pytest
from conftest import make_clip, make_tree

RECIPE = """
model: {{encoder: {folder}/tiny-clip, layer: layer1, decoder: linear, image_size: 64}}
data: {{root: x, generator: x, batch_size: 4, num_workers: 0}}
trainer: {{max_epochs: 2, accelerator: cpu, enable_progress_bar: false, logger: false}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, an encoder and a recipe, where a serial cross-evaluation was done."""
    folder = tmp_path_factory.mktemp("place")
    make_tree(folder / "dolos")
    make_clip(folder / "tiny-clip")
    (folder / "tiny.yaml").write_text(RECIPE.format(folder=folder))
    (folder / "serial").mkdir()
    command(folder, folder / "serial")
    return folder


def command(place, here, *options, check=True):
    """Run ``cross-eval`` in a folder, with features of its own."""
    words = [sys.executable, "-m", "declip_pl", "cross-eval", f"--data={place}/dolos"]
    environment = os.environ | {"DECLIP_FEATURES": str(here / "features")}
    return subprocess.run(
        [*words, f"--config={place}/tiny.yaml", *options], check=check, cwd=here, text=True,
        capture_output=True, env=environment,
    )  # fmt: skip


def matrix(here):
    """Return the content of the only matrix in a folder."""
    (file,) = (here / "outputs/cross_eval").glob("*/matrix.json")
    return json.loads(file.read_text())


FIGURES = ("rows", "columns", "in_domain", "matrix", "summary", "curves", "rates", "failed")


def figures(here):
    return {name: matrix(here)[name] for name in FIGURES}


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")}


@pytest.mark.slow  # eighteen processes, of which each imports torch
def test_pieces_give_the_matrix_of_one_process_whatever_failed_before(place, tmp_path):
    good, bad = (f"tiny-clip-layer1-linear-{generator}" for generator in ("ldm", "lama"))
    obstacle = tmp_path / "outputs/train" / bad
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("no folder")
    done = command(place, tmp_path, "--on=local:2", check=False)
    assert done.returncode == 1
    for piece in ("encode 1 of 1", f"train {good}", f"score {good}"):
        assert f"{piece}: done" in done.stdout
    message = done.stderr[done.stderr.index("error: these parts of the cross-evaluation failed") :]
    for piece in (f"train {bad}", f"score {bad}", "report"):
        assert f"{piece}: failed" in done.stdout
        (line,) = [line for line in message.splitlines() if line.startswith(f"  {piece}: ")]
        assert (tmp_path / line.rpartition("(log: ")[2].rstrip(")")).is_file()
    assert f"score {bad}: {bad} can't be scored: it is not trained" in message
    assert matrix(tmp_path)["rows"] == ["ldm"]

    obstacle.unlink()
    before = stamps(tmp_path)
    assert len(before) == 2
    done = command(place, tmp_path, "--on=local:2")
    assert "report.html" in done.stdout and "submitit" not in done.stdout
    assert good not in done.stdout.partition("report: done")[0]
    assert figures(tmp_path) == figures(place / "serial")
    assert {path: found for path, found in stamps(tmp_path).items() if path in before} == before

    done = command(place, tmp_path, "--on=local:2", "--dry-run")
    assert "0 are to be trained, 0 to be scored" in done.stdout
