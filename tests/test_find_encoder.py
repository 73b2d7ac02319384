"""A decoder finds its own encoder wherever that lies, and takes no other."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_clip
from huggingface_hub import constants
from localizer_example import checkpoint_of, write_run
from safetensors.torch import load_file, save_file

from declip_pl import Localizer, cli
from declip_pl.errors import UserError
from declip_pl.inference.model_card import model_card
from declip_pl.model import mirror
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.model.encoder import build_encoder
from declip_pl.model.find_encoder import find_encoder
from declip_pl.model.mirror import MIRROR_ADVICE, MIRROR_SOURCE, MIRRORED, mirror_folder
from declip_pl.training.task import LocalizationTask

ID = "someone/tiny-clip"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Caches of their own, and no package index."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("DECLIP_CACHE", str(tmp_path / "declip"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")


def in_hub_cache(repository: str, folder: Path, version: str = "0" * 40) -> Path:
    """Put an encoder into the hub's cache, as its client lays it out."""
    place = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs/main").write_text(version)
    return Path(shutil.copytree(folder, place / "snapshots" / version))


def trained_on(encoder: str, path: Path) -> Path:
    """Write a localizer that was trained on an encoder."""
    task = LocalizationTask(encoder, "layer1", decoder="linear", image_size=64)
    return write_run(checkpoint_of(task), path)


def rounded(folder: Path, original: Path) -> Path:
    """Write what a mirror holds: the linear layers of an original in int8, row by row."""
    shutil.copytree(original, folder)
    state = load_file(original / "model.safetensors")
    for name, weight in state.items():
        if weight.ndim == 2 and ("proj" in name or "fc" in name):
            array = weight.numpy()
            scale = np.abs(array).max(1, keepdims=True) / np.float32(127)
            int8 = np.rint(array / scale).astype(np.int8)
            state[name] = torch.from_numpy(int8.astype(np.float32) * scale)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def mirror_trained(clip, tmp_path):
    """A localizer trained on the mirror, while the hub's cache is empty."""
    rounded(mirror_folder(), clip)
    return trained_on(MIRRORED, tmp_path / "model.ckpt")


def source_of(localizer: Localizer) -> str:
    return localizer.network.encoder.source


def test_the_mirror_is_found_beside_the_original(mirror_trained, clip):
    in_hub_cache(MIRRORED, clip)
    assert build_encoder(MIRRORED, "layer1").source == f"hub {MIRRORED}"
    assert source_of(Localizer.from_pretrained(mirror_trained)) == MIRROR_SOURCE


def test_the_original_stands_in_for_the_mirror_bit_for_bit(mirror_trained, clip, capsys):
    before = Localizer.from_pretrained(mirror_trained)
    shutil.rmtree(mirror_folder())
    in_hub_cache(MIRRORED, clip)
    capsys.readouterr()
    found = Localizer.from_pretrained(mirror_trained)
    place = f"hub {MIRRORED}, rounded to int8 as the mirror is"
    assert source_of(found) == place
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and place in said and MIRROR_SOURCE in said
    photo = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.network(photo), before.network(photo))


def test_the_mirror_never_stands_in_for_the_original(clip, tmp_path):
    snapshot = in_hub_cache(MIRRORED, clip)
    model = trained_on(MIRRORED, tmp_path / "model.ckpt")
    shutil.rmtree(snapshot)
    rounded(mirror_folder(), clip)
    with pytest.raises(UserError, match="belongs to another encoder") as raised:
        Localizer.from_pretrained(model)
    message = str(raised.value)
    wanted, there = read_checkpoint(model).identity, build_encoder(MIRRORED, "layer1")
    assert wanted.sha256[:12] in message and there.sha256[:12] in message
    assert MIRROR_SOURCE in message and "--encoder" in message and "\n" not in message


def test_the_card_of_a_mirror_trained_decoder_says_what_others_need(mirror_trained):
    card = model_card(read_checkpoint(mirror_trained), "someone/localizer", None)
    assert "dequantised from int8" in card and MIRROR_ADVICE in card


def test_rows_of_zeros_stay(clip):
    model = build_encoder(str(clip), "layer1").read()
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.Linear))
    layer.weight.data[0] = 0
    mirror.round_as_mirror(model)
    assert layer.weight.isfinite().all() and not layer.weight[0].any()


def test_an_older_version_in_the_cache_is_found(clip, tmp_path):
    in_hub_cache(ID, clip)
    model = trained_on(ID, tmp_path / "model.ckpt")
    in_hub_cache(ID, make_clip(tmp_path / "newer", seed=1), "1" * 40)
    assert build_encoder(ID, "layer1").sha256 != read_checkpoint(model).identity.sha256
    Localizer.from_pretrained(model)


def test_a_folder_that_has_gone_is_found_in_the_hubs_cache(clip, tmp_path, capsys):
    gone = Path(shutil.copytree(clip, tmp_path / "tiny-clip"))
    model = trained_on(str(gone), tmp_path / "model.ckpt")
    gone.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"{gone} is neither a folder .*\(--encoder"):
        Localizer.from_pretrained(model)
    in_hub_cache(ID, clip)
    assert source_of(Localizer.from_pretrained(model)) == f"hub {ID}"
    assert f"comes from hub {ID}" in capsys.readouterr().out


def test_a_relative_name_is_found_from_another_folder(clip, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    shutil.copytree(clip, tmp_path / "here/models")
    monkeypatch.chdir(tmp_path / "here")
    model = trained_on("models", tmp_path / "model.ckpt")
    monkeypatch.chdir(tmp_path)
    Localizer.from_pretrained(model)


def test_the_user_names_another_place(clip, tmp_path, capsys):
    gone = Path(shutil.copytree(clip, tmp_path / "first"))
    model = trained_on(str(gone), tmp_path / "model.ckpt")
    moved = gone.rename(tmp_path / "moved")
    assert source_of(Localizer.from_pretrained(model, encoder=str(moved))) == f"folder {moved}"
    other = make_clip(tmp_path / "other", seed=1)
    moved.rename(gone)  # the place on record, which the user did not ask for
    with pytest.raises(UserError, match=f"belongs to another encoder.*folder {other}, SHA-256"):
        Localizer.from_pretrained(model, encoder=str(other))


def test_a_hub_id_that_the_user_names_is_what_others_get(clip, tmp_path):
    gone = Path(shutil.copytree(clip, tmp_path / "first"))
    model = trained_on(str(gone), tmp_path / "model.ckpt")
    shutil.rmtree(gone)
    in_hub_cache(ID, clip)
    Localizer.from_pretrained(model, encoder=ID).save_pretrained(tmp_path / "saved")
    said = (tmp_path / "saved/config.json").read_text()
    assert json.loads(said)["encoder"] == ID and str(tmp_path) not in said


@pytest.mark.parametrize("wrong", [{"sha256": "f" * 64}, {"arithmetic": {"hidden_act": "gelu"}}])
def test_what_differs_at_all_is_refused(wrong, clip):
    identity = build_encoder(str(clip), "layer1").identity
    with pytest.raises(UserError, match="belongs to another encoder"):
        find_encoder(str(clip), "layer1", 64, replace(identity, **wrong))


def test_commands_take_the_encoders_place(clip, tree, tmp_path, monkeypatch, capsys):
    """``predict`` and ``test``; where the name on record has gone, and with ``--encoder``."""
    monkeypatch.chdir(tmp_path)
    gone = Path(shutil.copytree(clip, tmp_path / "first"))
    model = trained_on(str(gone), tmp_path / "runs/one/checkpoints/best.ckpt")
    moved = gone.rename(tmp_path / "moved")
    photo = next(tree.glob("real/test/*.png"))
    cli.main(["predict", str(photo), f"--model={model}", "--json", f"--encoder={moved}"])
    assert json.loads(capsys.readouterr().out)["name"] == photo.name
    options = [f"--data={tree}", "--generator=ldm", "--trainer.logger=false", f"--encoder={moved}"]
    cli.main(["test", str(model), *options])
    results = json.loads(next((tmp_path / "runs/one").glob("test_metrics*.json")).read_text())
    assert results["encoder"]["source"] == f"folder {moved}"
    with pytest.raises(SystemExit):
        cli.main(["test", str(model), *options[:-1], "--overwrite"])


def test_a_run_is_resumed_once_the_hubs_cache_has_the_original(clip, fit_arguments, tmp_path):
    rounded(mirror_folder(), clip)
    options = {"model__encoder": MIRRORED, "run__name": "one"}
    cli.main(fit_arguments(**options, trainer__max_epochs=1))
    run = tmp_path / "outputs/one"
    (run / "test_metrics.json").unlink()
    in_hub_cache(MIRRORED, clip)
    cli.main(fit_arguments(**options, trainer__max_epochs=2, run__resume="true"))
    results = json.loads((run / "test_metrics.json").read_text())
    assert results["encoder"]["source"] == MIRROR_SOURCE
