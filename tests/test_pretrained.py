"""What is saved is what is read, and everything else is refused by name."""

import json

import pytest
import torch

from declip_pl import pretrained
from declip_pl.errors import UserError
from declip_pl.task import DECODER_PREFIX

CHECKPOINT = {
    "encoder": {"name": "clip", "layer": "layer1", "source": "nowhere", "sha256": "0" * 64},
    "decoder": "linear",
    "image_size": 224,
    "hyper_parameters": {"encoder": "org/clip", "decoder": "linear", "learning_rate": 1e-3},
    "DolosDataModule": {"generators": ["ldm"]},
    "results": None,
    "state_dict": {
        f"{DECODER_PREFIX}fc.0.weight": torch.randn(1, 4),
        f"{DECODER_PREFIX}fc.0.bias": torch.randn(1),
    },
}


def test_a_saved_localizer_is_read_as_it_was(tmp_path):
    pretrained.save(CHECKPOINT, tmp_path / "model")
    found = pretrained.read(tmp_path / "model")
    state = found.pop("state_dict")
    assert found.pop("format") == pretrained.FORMAT
    assert found == {name: CHECKPOINT[name] for name in pretrained.SAVED}
    assert state.keys() == CHECKPOINT["state_dict"].keys()
    for name, weight in CHECKPOINT["state_dict"].items():
        assert torch.equal(state[name], weight)


def test_nothing_is_overwritten(tmp_path):
    pretrained.save(CHECKPOINT, tmp_path)
    with pytest.raises(UserError, match="a model stands in"):
        pretrained.save(CHECKPOINT, tmp_path)


@pytest.mark.parametrize("damage", ["weights", "config", "no weights", "another config"])
def test_damaged_folders_are_named(tmp_path, damage):
    pretrained.save(CHECKPOINT, tmp_path)
    if damage == "weights":
        content = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif damage == "no weights":
        (tmp_path / "model.safetensors").unlink()
    else:
        text = "{" if damage == "config" else json.dumps({"model_type": "clip"})
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=str(tmp_path)):
        pretrained.read(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/model", "/nowhere/model.ckpt"])
def test_a_localizer_that_is_nowhere(name):
    with pytest.raises(UserError, match=r"there is no localizer at .*nowhere"):
        pretrained.read(name)


def test_an_empty_folder_is_no_localizer(tmp_path):
    with pytest.raises(UserError, match="expected a run's folder, a checkpoint, a saved folder"):
        pretrained.read(tmp_path)


def test_the_hub_is_asked_for_an_id(tmp_path, monkeypatch):
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return tmp_path / file

    pretrained.save(CHECKPOINT, tmp_path)
    monkeypatch.setattr(pretrained, "download", download)
    assert pretrained.read("someone/localizer")["decoder"] == "linear"
    assert asked == [("someone/localizer", f) for f in ("model.safetensors", "config.json")]
