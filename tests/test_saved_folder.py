"""What is saved is what is read, with the scores on record; all else is refused by name."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from localizer_example import checkpoint_of, content_of, write_run

from declip_pl.cross_eval.matrix import Data, Made, Matrix, Score, write_matrix
from declip_pl.cross_eval.scored_model import ChosenThresholds, ScoredModel
from declip_pl.errors import UserError
from declip_pl.files import sha256
from declip_pl.inference import localizer, saved_folder
from declip_pl.inference.localizer import Localizer
from declip_pl.inference.model_card import model_card
from declip_pl.inference.recorded_scores import RecordedScores, ScoredOn, recorded_scores
from declip_pl.metrics import Thresholds
from declip_pl.model import checkpoint as checkpoints
from declip_pl.model import weights
from declip_pl.model.checkpoint import Checkpoint, read_checkpoint
from declip_pl.model.description import Description, ForgedPhotos, TrainedOn
from declip_pl.model.features import Identity
from declip_pl.training.task import LocalizationTask

CHECKPOINT = Checkpoint(
    encoder="org/clip",
    layer="layer1",
    decoder={"class_path": "linear", "init_args": {}},
    image_size=224,
    identity=Identity("clip", "layer1", "nowhere", "0" * 64, {"hidden_act": "quick_gelu"}),
    trained_on=TrainedOn(("ldm",), "full", "f" * 64, "dolos"),
    weights={"fc.0.weight": torch.randn(1, 4), "fc.0.bias": torch.randn(1)},
)

SCORES = RecordedScores(
    notice=None,
    scores={"ldm": {"iou": 61.25, "iou_n": 200, "f1_fixed": 70.0, "image_threshold": 0.4321}},
    baselines={"ldm": {"all fake": {"iou": 12.34}, "all real": {"iou": 0.0}}},
    data=ScoredOn("dolos"),
)

FIRST_VERSION = {
    "format": 1,
    "encoder": {"name": "clip", "layer": "layer1", "source": "nowhere", "sha256": "0" * 64},
    "decoder": "linear",
    "image_size": 224,
    "hyper_parameters": {"encoder": "org/clip", "layer": "layer1", "pooling": "mean"},
    "DolosDataModule": {"generators": ["ldm"], "supervision": "full", "files_sha256": "f" * 64},
    "results": {
        "notice": "made of nothing",
        "scores": SCORES.scores,
        "baselines": SCORES.baselines,
        "data": {"root": "dolos", "generators": ["ldm"], "files_sha256": "f" * 64},
        "date": "2026-01-01",
        "cross_evaluation": None,
    },
}
"""A ``config.json`` of version 0.1."""


def test_a_saved_localizer_is_read_as_it_was(tmp_path):
    saved_folder.save(CHECKPOINT, tmp_path / "model")
    found = read_checkpoint(tmp_path / "model")
    for field in fields(Description):
        assert getattr(found, field.name) == getattr(CHECKPOINT, field.name)
    assert found.weights.keys() == CHECKPOINT.weights.keys()
    for name, weight in CHECKPOINT.weights.items():
        assert torch.equal(found.weights[name], weight)
    assert (found.name, found.path) == ("model", tmp_path / "model")
    assert recorded_scores(found) is None


def test_scores_are_passed_on(tmp_path):
    saved_folder.save(CHECKPOINT, tmp_path / "one", SCORES)
    found = read_checkpoint(tmp_path / "one")
    assert recorded_scores(found) == SCORES
    saved_folder.save(found, tmp_path / "two", recorded_scores(found), "someone/localizer")
    assert recorded_scores(read_checkpoint(tmp_path / "two")) == SCORES
    assert "| IoU | 61.2 | 12.3 | 0.0 |" in (tmp_path / "two/README.md").read_text()


def test_a_folder_of_the_first_version_is_saved_again(tmp_path):
    saved_folder.save(CHECKPOINT, tmp_path / "old")
    (tmp_path / "old/config.json").write_text(json.dumps(FIRST_VERSION))
    found = read_checkpoint(tmp_path / "old")
    scores = recorded_scores(found)
    assert scores.scores == SCORES.scores and scores.notice == "made of nothing"
    saved_folder.save(found, tmp_path / "new", scores)
    assert recorded_scores(read_checkpoint(tmp_path / "new")) == scores
    card = (tmp_path / "new/README.md").read_text()
    assert "`ldm` of `dolos`, with masks" in card and "`mean` of the map" in card


@pytest.mark.parametrize("file", ["README.md", "config.json", "model.safetensors"])
def test_nothing_is_overwritten(tmp_path, file):
    (tmp_path / file).write_text("mine")
    with pytest.raises(UserError, match=rf"a {file} stands in .*; name another folder"):
        saved_folder.save(CHECKPOINT, tmp_path)
    assert (tmp_path / file).read_text() == "mine"


@pytest.mark.parametrize("damage", ["weights", "config", "no weights", "another config"])
def test_damaged_folders_are_named(tmp_path, damage):
    saved_folder.save(CHECKPOINT, tmp_path)
    if damage == "weights":
        content = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif damage == "no weights":
        (tmp_path / "model.safetensors").unlink()
    else:
        text = "{" if damage == "config" else json.dumps({"model_type": "clip"})
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=str(tmp_path)):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("damaged", [5, {"scores": {}}, SCORES.scores])
def test_damaged_scores_are_named_and_stop_no_one_from_loading(tmp_path, damaged):
    saved_folder.save(CHECKPOINT, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"results": damaged}))
    found = read_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"config\.json: its scores are damaged"):
        recorded_scores(found)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/model", "/nowhere/model.ckpt"])
def test_a_localizer_that_is_nowhere(name):
    with pytest.raises(UserError, match=r"there is no localizer at .*nowhere"):
        read_checkpoint(name)


def test_an_empty_folder_is_no_localizer(tmp_path):
    with pytest.raises(UserError, match="expected a run's folder, a checkpoint, a saved folder"):
        read_checkpoint(tmp_path)


def test_the_hub_is_asked_for_an_id(tmp_path, monkeypatch):
    asked = []

    def snapshot(repository, *files):
        asked.append((repository, *files))
        return tmp_path

    saved_folder.save(CHECKPOINT, tmp_path)
    monkeypatch.setattr(checkpoints, "snapshot", snapshot)
    assert read_checkpoint("someone/localizer").name == "someone/localizer"
    assert asked == [("someone/localizer", "config.json", "model.safetensors")]


def test_a_mistyped_path_is_named_as_a_path_too():
    with pytest.raises(UserError, match=r"at outputs/rum, and cannot reach .* for outputs/rum"):
        read_checkpoint("outputs/rum")


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The hub's cache, out of reach of the hub; return where it has someone's localizer."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--localizer"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    return repository / "snapshots" / ("0" * 40)


def test_out_of_reach_the_hubs_cache_will_do(hub_cache, monkeypatch):
    monkeypatch.setattr(weights, "download", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="cannot reach the Hugging Face hub for someone/local"):
        read_checkpoint("someone/localizer")
    saved_folder.save(CHECKPOINT, hub_cache)
    assert read_checkpoint("someone/localizer").image_size == 224
    assert read_checkpoint(f"someone/localizer@{'0' * 40}").image_size == 224
    with pytest.raises(UserError, match="cannot reach the Hugging Face hub for someone/local"):
        read_checkpoint(f"someone/localizer@{'1' * 40}")


def test_the_hubs_latest_comes_before_its_cache(hub_cache, tmp_path, monkeypatch):
    saved_folder.save(CHECKPOINT, hub_cache)
    saved_folder.save(replace(CHECKPOINT, image_size=336), tmp_path / "latest")
    monkeypatch.setattr(weights, "hub_reachable", lambda: True)
    monkeypatch.setattr(weights, "download", lambda _, file, *__: tmp_path / "latest" / file)
    assert read_checkpoint("someone/localizer").image_size == 336


def test_a_checkpoint_that_lacks_something_is_named(tmp_path):
    torch.save({"encoder": {}, "state_dict": {}}, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"model\.ckpt: its description is damaged"):
        read_checkpoint(tmp_path / "model.ckpt")


# The card


def _card(scores: RecordedScores | None = SCORES, **changes) -> str:
    return model_card(replace(CHECKPOINT, **changes), "someone/localizer", scores)


def test_the_card_has_the_hubs_header():
    _, header, text = _card().split("---\n", 2)
    found = yaml.safe_load(header)
    assert found["license"] == "apache-2.0" and found["library_name"] == "declip-pl"
    assert found["pipeline_tag"] == "image-segmentation" and "declip" in found["tags"]
    assert 'Localizer.from_pretrained("someone/localizer")' in text
    assert "`org/clip`, layer1" in text and "nowhere; SHA-256 `0000" in text
    assert "`ldm` of `dolos`, with masks" in text
    assert "0.5; best on validation photos: 0.43 for images" in text
    assert "None" not in text and "DECLIP_PARTS" not in text


def test_the_card_says_where_a_map_is_cut():
    chosen = Thresholds(0.41, {"top": 0.38}, floor=0.725)
    card = _card(thresholds=chosen)
    assert "| threshold | each photo's own: of all thresholds the one with the highest" in card
    assert "less than 2% of its pixels reach 0.72, the floor" in card
    assert "best on validation photos: 0.41 for pixels, 0.38 for images" in card
    card = _card(thresholds=replace(chosen, floor=None))
    assert "| threshold | 0.5; best on validation photos: 0.41 for pixels" in card


def test_the_card_has_constant_answers_beside_the_scores():
    lines = _card().splitlines()
    assert "|  | this model | all fake | all real |" in lines
    assert "| IoU | 61.2 | 12.3 | 0.0 |" in lines
    assert "| F1 without border | 70.0 |  |  |" in lines  # not scored
    assert "**made of nothing.**" in _card(replace(SCORES, notice="made of nothing"))
    changed = replace(SCORES, data=ScoredOn("dolos", "jpeg"))
    assert "The test photos were changed before: `jpeg`." in _card(changed)


def test_the_card_of_an_imported_localizer_claims_nothing():
    named = TrainedOn(("ldm", "lama"), "full", "", "as named at import")
    for trained_on, said in (
        (None, "not on record"),
        (named, "`ldm`, `lama` (as named at import)"),
    ):
        card = _card(None, trained_on=trained_on)
        assert "license: other" in card and "the licence of where they came from" in card
        assert f"| trained on | {said} |" in card and "None are on record." in card


FORGED = ForgedPhotos(
    "ab" * 32, {"a|b": 12, "real": 3}, 4, ("autoencoder-8", "own", "everywhere:blur")
)


def test_the_card_says_what_was_forged():
    data = TrainedOn(("forgeries",), "full", "f" * 64, "none", "", FORGED, 7)
    card = _card(None, trained_on=data)
    lines = card.splitlines()
    assert "| trained on | forgeries alone, no generator's photos, with masks; files'" in card
    sources = "12 photos of <code>a&#124;b</code>, 3 photos of the data set, 4 times each"
    assert any(line.startswith(f"| forged | {sources}; manifest's") for line in lines)
    assert "| forged regions went through | `autoencoder-8`, `own` (own, near, far and" in card
    assert "| whole photos went through | `blur` |" in lines
    kinds = "untouched ones, and forgeries without a forged region"
    assert f"| training photos without a fake pixel | 7: {kinds} |" in lines
    both = replace(data, generators=("ldm",), data="dolos", untouched=0)
    card = _card(None, trained_on=both)
    assert "| trained on | `ldm` of `dolos`, with masks" in card and f"| forged | {sources}" in card
    assert "| training photos without a fake pixel | none |" in card
    untested = RecordedScores({}, {}, ScoredOn("none"))  # there was no data set
    assert "## Scores\n\nNone are on record.\n\n## Limits" in _card(untested, trained_on=data)
    card = _card(trained_on=TrainedOn(("ldm",), "full", "f" * 64, "dolos"))
    assert "forged" not in card and "without a fake pixel" not in card


def test_the_card_has_its_makers_words():
    card = model_card(CHECKPOINT, "x", SCORES, "## Photos\n\nTwelve, CC0.\n")
    assert "\n\n## Photos\n\nTwelve, CC0.\n\n## Scores\n\n" in card
    assert model_card(CHECKPOINT, "x", SCORES, " \n") == model_card(CHECKPOINT, "x", SCORES)


# The scores of runs


def _cell(value: float, **changes) -> Score:
    return replace(Score(value, value - 1, value + 2, 200), **changes)


def _run(root: Path, name: str = "run") -> Path:
    """Write a run that was tested."""
    best = write_run(CHECKPOINT, root / "train" / name / "checkpoints/best.ckpt")
    results = {
        "format": 2,
        "notice": SCORES.notice,
        "scores": SCORES.scores,
        "baselines": SCORES.baselines,
        "data": {"root": "/home/me/dolos", "generators": ["ldm"], "perturbation": "none"},
        "checkpoint": {"path": "best.ckpt", "sha256": sha256(best)},
        "model": {},
        "encoder": {},
        "made": {},
    }
    (best.parents[1] / "test_metrics.json").write_text(json.dumps(results))
    return best


def _matrix(
    root: Path, name: str, *models: tuple[str, str], value=50.0, perturbation="none", data=""
):
    """Write a matrix of models, each a row and its checkpoint's hash."""
    chosen, text = ChosenThresholds(pixel=0.6, image=None), {}
    for field in fields(ScoredModel):
        text[field.name] = ""
    text |= {"trained_on": ("ldm",), "seed": 0, "image_size": 224, "thresholds": chosen}
    text |= {"maps": None}
    scored = [ScoredModel(**text | {"row": r, "checkpoint_sha256": sha}) for r, sha in models]
    empty = {"curves": {}, "reliability": {}, "panels": {}, "summary": {}, "in_domain": {}}
    found = Matrix(
        **{**empty, "name": name, "notice": None, "perturbation": perturbation, "failed": ()},
        **{"format": 2, "pooling": "top", "columns": ("lama", "ldm"), "leave_one_out": ()},
        data=Data(f"hash of {data}", data, {}),
        made=Made("", 0.0, "", "", None, "", {}),
        models=tuple(scored),
        rows=tuple(dict.fromkeys(row for row, _ in models)),
        seeds=(0,),
        metrics=("iou", "image_auroc"),
        matrix={
            "iou": {row: {"lama": _cell(value), "ldm": _cell(60)} for row, _ in models},
            "image_auroc": {row: {"ldm": _cell(90, low=None)} for row, _ in models},
            "untouched_area": {row: {"ldm": _cell(3, n=50)} for row, _ in models},
        },
    )
    write_matrix(root / "cross_eval" / name, found)


def test_intervals_come_from_a_cross_evaluation_of_this_checkpoint(tmp_path):
    best = _run(tmp_path)
    checkpoint = read_checkpoint(best)
    _matrix(tmp_path, "other", ("ldm", "another checkpoint"))
    assert recorded_scores(checkpoint).cross_evaluations == ()
    _matrix(tmp_path, "seeds", ("ldm", sha256(best)), ("ldm", "another seed"))
    assert recorded_scores(checkpoint).cross_evaluations == ()
    _matrix(tmp_path, "perturbed", ("ldm", sha256(best)), perturbation="jpeg")
    assert recorded_scores(checkpoint).cross_evaluations == ()
    _matrix(tmp_path, "old", ("ldm", sha256(best)), value=40.0)
    os.utime(tmp_path / "cross_eval/old/matrix.json", (0, 0))
    _matrix(tmp_path, "new", ("lama", "another checkpoint"), ("ldm", sha256(best)))
    found = recorded_scores(checkpoint)
    card = model_card(checkpoint, "run", found)
    assert "| `lama` | 50.0 (49.0 to 52.0) |  |  |  |  |" in card
    assert "| `ldm` | 60.0 (59.0 to 62.0) |  |  |  | 90.0 |" in card
    assert "best on validation photos: 0.60 for pixels" in card
    assert "95 % bootstrap intervals" in card and "Intervals are unknown" not in card
    assert found.data.root == "dolos"  # not where it lay
    saved_folder.save(checkpoint, tmp_path / "saved", found)
    assert recorded_scores(read_checkpoint(tmp_path / "saved")) == found


def test_the_card_has_the_latest_cross_evaluation_of_each_data_set(tmp_path):
    best = _run(tmp_path)
    checkpoint, ours = read_checkpoint(best), ("ldm", sha256(best))
    _matrix(tmp_path, "z", ours, data="phones", value=20.0)
    _matrix(tmp_path, "old", ours, data="scans", value=40.0)
    os.utime(tmp_path / "cross_eval/old/matrix.json", (0, 0))
    _matrix(tmp_path, "new", ours, data="scans", value=30.0)
    _matrix(tmp_path, "other", ("ldm", "another checkpoint"), data="faces")
    found = recorded_scores(checkpoint)
    assert [row.data for row in found.cross_evaluations] == ["phones", "scans"]
    card = model_card(checkpoint, "run", found)
    phones, scans = (card.index(f"On each generator of `{name}`") for name in ("phones", "scans"))
    assert phones < card.index("20.0 (19.0 to 22.0)") < scans < card.index("30.0 (29.0 to 32.0)")
    assert "40.0" not in card and "faces" not in card
    assert "| 60.0 (59.0 to 62.0) |  |  |  | 90.0 | 200 |" in card
    assert "On the 50 untouched test photos of `scans`" in card
    assert "| Untouched: area at 0.5 | 3.0 (2.0 to 5.0) |" in card
    saved_folder.save(checkpoint, tmp_path / "saved", found)
    assert recorded_scores(read_checkpoint(tmp_path / "saved")) == found


def test_the_one_cross_evaluation_of_the_first_version_is_kept(tmp_path):
    saved_folder.save(CHECKPOINT, tmp_path / "old")
    one = {
        "thresholds": {"pixel": 0.6, "image": None},
        "scores": {"iou": {"ldm": {"value": 60.0, "low": 59.0, "high": 61.0, "n": 200}}},
    }
    old = FIRST_VERSION | {"results": FIRST_VERSION["results"] | {"cross_evaluation": one}}
    (tmp_path / "old/config.json").write_text(json.dumps(old))
    checkpoint = read_checkpoint(tmp_path / "old")
    (found,) = recorded_scores(checkpoint).cross_evaluations
    assert found.scores["iou"]["ldm"] == Score(60.0, 59.0, 61.0, 200) and found.data == ""
    card = model_card(checkpoint, "x", recorded_scores(checkpoint))
    assert "On each generator, percent" in card and "60.0 (59.0 to 61.0)" in card


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"models": 3}', '{"models": [{"row": "ldm"}]}'])
def test_a_damaged_matrix_is_passed_over(tmp_path, text):
    best = _run(tmp_path)
    _matrix(tmp_path, "whole", ("ldm", sha256(best)))
    os.utime(tmp_path / "cross_eval/whole/matrix.json", (0, 0))
    _matrix(tmp_path, "damaged")
    (tmp_path / "cross_eval/damaged/matrix.json").write_text(text)
    (found,) = recorded_scores(read_checkpoint(best)).cross_evaluations
    assert found.scores["iou"]["lama"] == _cell(50.0)


def test_scores_of_another_checkpoint_are_not_taken(tmp_path):
    best = _run(tmp_path)
    assert recorded_scores(read_checkpoint(best)) == SCORES
    write_run(replace(CHECKPOINT, pooling="max"), best.with_name("last.ckpt"))
    assert recorded_scores(read_checkpoint(best.with_name("last.ckpt"))) is None
    assert recorded_scores(read_checkpoint(best.parents[1])) == SCORES
    assert read_checkpoint(best).name == read_checkpoint(best.parents[1]).name == "run"


def test_a_file_outside_a_run_has_no_scores(tmp_path):
    torch.save(content_of(CHECKPOINT), tmp_path / "model.ckpt")
    assert recorded_scores(read_checkpoint(tmp_path / "model.ckpt")) is None


def test_damaged_results_of_a_test_are_named(tmp_path):
    best = _run(tmp_path)
    (best.parents[1] / "test_metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"test_metrics\.json holds no results"):
        recorded_scores(read_checkpoint(best))


def test_loading_looks_for_no_scores(fit_arguments, tmp_path, monkeypatch):
    """A run's scores were once read, and its checkpoint hashed, whenever it was loaded."""
    from declip_pl import cli

    cli.main(fit_arguments(**{"run.name": "run", "run.root": tmp_path / "outputs/train"}))
    damaged = tmp_path / "outputs/cross_eval/damaged/matrix.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    run = tmp_path / "outputs/train/run"
    Localizer.from_pretrained(run).save_pretrained(tmp_path / "saved")
    (run / "test_metrics.json").write_text("{")
    monkeypatch.setattr(localizer, "recorded_scores", lambda _: pytest.fail("scores were read"))
    monkeypatch.setattr(checkpoints, "sha256", lambda _: pytest.fail("a file was hashed"))
    Localizer.from_pretrained(run)
    Localizer.from_pretrained(tmp_path / "saved")


def test_a_saved_localizer_says_nothing_of_a_place_where_its_encoder_always_was(
    clip, tmp_path, capsys
):
    task = LocalizationTask(str(clip), "layer1", "linear", image_size=64)
    saved_folder.save(checkpoint_of(task), tmp_path / "saved")
    assert read_checkpoint(tmp_path / "saved").identity.source == f"folder {clip.name}"
    Localizer.from_pretrained(tmp_path / "saved")
    assert "the encoder comes from" not in capsys.readouterr().out
