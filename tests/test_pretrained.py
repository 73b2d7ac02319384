"""What is saved is what is read, and everything else is refused by name."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from declip_pl.errors import UserError
from declip_pl.files import sha256
from declip_pl.inference import pretrained
from declip_pl.inference.model_card import model_card
from declip_pl.model import weights
from declip_pl.training.task import DECODER_PREFIX

CHECKPOINT = {
    "encoder": {"name": "clip", "layer": "layer1", "source": "nowhere", "sha256": "0" * 64},
    "decoder": "linear",
    "image_size": 224,
    "hyper_parameters": {"encoder": "org/clip", "supervision": "full", "pooling": "top"},
    "DolosDataModule": {"generators": ["ldm"], "files_sha256": "f" * 64},
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
    with pytest.raises(UserError, match=r"a model\.safetensors stands in"):
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

    def snapshot(repository, *files):
        asked.append((repository, *files))
        return tmp_path

    pretrained.save(CHECKPOINT, tmp_path)
    monkeypatch.setattr(pretrained, "snapshot", snapshot)
    assert pretrained.read("someone/localizer")["decoder"] == "linear"
    assert asked == [("someone/localizer", "config.json", "model.safetensors")]


def test_a_mistyped_path_is_named_as_a_path_too():
    with pytest.raises(UserError, match=r"at outputs/rum, and cannot reach .* for outputs/rum"):
        pretrained.read("outputs/rum")


RESULTS = {
    "notice": None,
    "scores": {"ldm": {"iou": 61.25, "iou_n": 200, "f1_fixed": 70.0, "image_threshold": 0.4321}},
    "baselines": {"ldm": {"all fake": {"iou": 12.34}, "all real": {"iou": 0.0}}},
    "data": {"root": "dolos", "generators": ["ldm"]},
    "date": "2026-01-01",
    "cross_evaluation": None,
}


def _card(**changes) -> str:
    return model_card(CHECKPOINT | changes, "someone/localizer")


def test_the_card_has_the_hubs_header():
    _, header, text = _card(results=RESULTS).split("---\n", 2)
    found = yaml.safe_load(header)
    assert found["license"] == "apache-2.0" and found["library_name"] == "declip-pl"
    assert found["pipeline_tag"] == "image-segmentation" and "declip" in found["tags"]
    assert 'Localizer.from_pretrained("someone/localizer")' in text
    assert "`org/clip`, layer1" in text and "nowhere; SHA-256 `0000" in text
    assert "`ldm` of `dolos`, with masks" in text
    assert "0.5; best on validation photos: 0.43 for images" in text
    assert "None" not in text and "{" not in text


def test_the_card_has_constant_answers_beside_the_scores():
    lines = _card(results=RESULTS).splitlines()
    assert "|  | this model | all fake | all real |" in lines
    assert "| IoU | 61.2 | 12.3 | 0.0 |" in lines
    assert "| F1 | 70.0 |  |  |" in lines  # not scored
    assert "**made of nothing.**" in _card(results=RESULTS | {"notice": "made of nothing"})


def test_the_card_of_an_imported_localizer_claims_nothing():
    card = _card(DolosDataModule=None)
    assert "license: other" in card and "the licence of where they came from" in card
    assert "| trained on | not on record |" in card and "None are on record." in card


def _cell(value: float) -> dict:
    return {"value": value, "low": value - 1, "high": value + 2, "n": 200}


def _run(root: Path, name: str = "run") -> Path:
    """Write a run that was tested."""
    best = root / "train" / name / "checkpoints/best.ckpt"
    best.parent.mkdir(parents=True)
    torch.save(CHECKPOINT, best)
    results = {n: v for n, v in RESULTS.items() if n != "cross_evaluation"}
    results |= {"checkpoint": {"sha256": sha256(best)}, "data": {"root": "/home/me/dolos"}}
    (best.parents[1] / "test_metrics.json").write_text(json.dumps(results))
    return best


def _matrix(root: Path, name: str, *models: tuple[str, str], value: float = 50.0) -> None:
    """Write a matrix of models, each a row and its checkpoint's hash."""
    matrix = {
        "models": [
            {"row": row, "checkpoint_sha256": digest, "thresholds": {"pixel": 0.6, "image": None}}
            for row, digest in models
        ],
        "matrix": {
            "iou": {row: {"lama": _cell(value), "ldm": _cell(60)} for row, _ in models},
            "image_auroc": {row: {"ldm": _cell(90) | {"low": None}} for row, _ in models},
        },
    }
    path = root / "cross_eval" / name / "matrix.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(matrix))


def test_intervals_come_from_a_cross_evaluation_of_this_checkpoint(tmp_path):
    best = _run(tmp_path)
    _matrix(tmp_path, "other", ("ldm", "another checkpoint"))
    assert pretrained.read(best)["results"]["cross_evaluation"] is None
    _matrix(tmp_path, "seeds", ("ldm", sha256(best)), ("ldm", "another seed"))
    assert pretrained.read(best)["results"]["cross_evaluation"] is None
    _matrix(tmp_path, "old", ("ldm", sha256(best)), value=40.0)
    os.utime(tmp_path / "cross_eval/old/matrix.json", (0, 0))
    _matrix(tmp_path, "new", ("lama", "another checkpoint"), ("ldm", sha256(best)))
    found = pretrained.read(best)
    card = model_card(found, "run")
    assert "| `lama` | 50.0 (49.0 to 52.0) |  |  |  |" in card
    assert "| `ldm` | 60.0 (59.0 to 62.0) |  |  | 90.0 |" in card
    assert "best on validation photos: 0.60 for pixels" in card
    assert "95 % bootstrap intervals" in card and "Intervals are unknown" not in card
    assert found["results"]["data"]["root"] == "dolos"  # not where it lay


def test_scores_of_another_checkpoint_are_not_taken(tmp_path):
    best = _run(tmp_path)
    assert pretrained.read(best)["results"]["scores"] == RESULTS["scores"]
    torch.save(CHECKPOINT | {"decoder": "light"}, best.with_name("last.ckpt"))
    assert pretrained.read(best.with_name("last.ckpt"))["results"] is None
    assert pretrained.read(best.parents[1])["results"] is not None
    assert pretrained.name(best) == pretrained.name(best.parents[1]) == "run"


def test_a_checkpoint_that_lacks_something_is_named(tmp_path):
    torch.save({"encoder": {}, "state_dict": {}}, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"model\.ckpt is no localizer: it lacks decoder, hyper_p"):
        pretrained.read(tmp_path / "model.ckpt")


def test_out_of_reach_the_hubs_cache_will_do(tmp_path, monkeypatch):
    pretrained.save(CHECKPOINT, tmp_path)
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)
    monkeypatch.setattr(weights, "_cached", lambda _, file: tmp_path / file)
    assert pretrained.read("someone/localizer")["decoder"] == "linear"
    monkeypatch.setattr(weights, "_cached", lambda *_: None)
    with pytest.raises(UserError, match="cannot reach the Hugging Face hub for someone/local"):
        pretrained.read("someone/localizer")


def test_the_hubs_latest_comes_before_its_cache(tmp_path, monkeypatch):
    pretrained.save(CHECKPOINT, tmp_path)
    monkeypatch.setattr(weights, "hub_reachable", lambda: True)
    monkeypatch.setattr(weights, "download", lambda _, file: tmp_path / file)
    monkeypatch.setattr(weights, "_cached", lambda *_: pytest.fail("the cache was asked"))
    assert pretrained.read("someone/localizer")["decoder"] == "linear"
