"""The benchmark runs from end to end, and both sides do the same work."""

import json
import os
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from benchmarks import bench, costs, decoders, growth, left_out, matrix, quality, report, starts
from benchmarks.networks import Network
from benchmarks.ours import Ours
from benchmarks.published import StandIn
from benchmarks.settings import Settings, write_photos
from conftest import make_tree
from forgery_example import quick
from PIL import Image

from declip_pl.cross_eval.matrix import Data, Made, Matrix, Score, Summary, write_matrix
from declip_pl.cross_eval.scored_model import ChosenThresholds, ScoredModel
from declip_pl.data import datamodule
from declip_pl.data.forgeries import kept_autoencoders
from declip_pl.data.forgeries.autoencoders import KINDS
from declip_pl.data.layout import build_layout, samples
from declip_pl.errors import UserError
from declip_pl.model.encoder import build_encoder

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
}
NETWORK = Network("tiny linear", 1, "linear", TINY | {"patch_size": 56}, TINY)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    root = write_photos(tmp_path / "data", 2)
    return Settings(2, root, tmp_path, torch.device("cpu"), None)


@pytest.mark.slow  # trains several times
def test_bench_reports_every_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "NETWORKS", (NETWORK,))
    monkeypatch.setattr("sys.argv", ["bench", "--photos", "2"])
    monkeypatch.setenv("DECLIP_FEATURES", "")
    # These take minutes.
    monkeypatch.setattr(torch, "compile", lambda decoder: decoder)
    monkeypatch.setattr("benchmarks.machine.PATIENCE", 0)
    monkeypatch.setattr("benchmarks.settings.MAPS", 4)
    monkeypatch.setattr("benchmarks.published.WORKERS", 0)
    bench.main()
    folder = next((tmp_path / "outputs/bench").iterdir())
    assert {p.name for p in folder.iterdir()} == {"bench.md", "bench.json", "bench.png"}
    text = (folder / "bench.md").read_text()
    assert text in capsys.readouterr().out
    rows = {row["what"]: row for row in json.loads((folder / "bench.json").read_text())["rows"]}
    assert list(rows) == list(report.MEASURED)
    for what, row in rows.items():
        assert f"| tiny linear | {what} |" in text and row["ratio"] > 0
    assert "| a training step of the decoder | plain | bf16 |" in text
    saved = rows["best checkpoint"]
    assert saved["ratio"] == pytest.approx(saved["published"][0] / saved["ours"][0])


def test_both_sides_compute_the_same_maps(settings):
    """The stand-in is only a fair one if it has the same network, down to the probabilities."""
    encoder = NETWORK.save_tower(settings.temporary)
    ours = Ours(encoder, "layer1", "linear", settings.work)
    frozen = build_encoder(str(encoder), "layer1")
    theirs = StandIn(NETWORK.config, frozen, 1, "linear", settings.work)
    weights = frozen.model.state_dict()
    theirs.clip.vision_model.load_state_dict(weights, strict=False)  # it has the blocks beyond too
    theirs.decoder.load_state_dict(ours.network.decoder.state_dict())
    photos = [sample.image for sample in samples(build_layout("dolos", settings.root), "test", "a")]
    torch.testing.assert_close(theirs.predict(photos), ours.predict(photos), atol=1e-5, rtol=1e-5)


def test_quality_trains_by_both_schedules(settings, tmp_path, monkeypatch, capsys):
    recipe = yaml.safe_load(quality.QUICK.read_text())
    recipe["model"] |= {"encoder": str(NETWORK.save_tower(settings.temporary)), "layer": "layer1"}
    recipe["data"]["num_workers"] = 0
    recipe["trainer"]["max_epochs"] = 2
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(quality, "QUICK", tmp_path / "quick.yaml")
    monkeypatch.setattr(quality, "NETWORK", NETWORK)
    paper = quality.paper
    monkeypatch.setattr(quality, "paper", lambda *of: paper(*of)._replace(epochs=3))
    arguments = ["quality", "--data", str(settings.root), "--generators", "b"]
    monkeypatch.setattr("sys.argv", arguments)
    quality.main()
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("| b "))
    assert re.fullmatch(r"\| b \| [\d.]+ \| [123] \| [\d.]+ \| \d+ \| \d+ \| .+ \|", line)


def test_quality_gives_no_ratio_where_the_goal_was_missed():
    paper, reached = quality.Training(60.0, 10, 99.0), quality.Training(60.5, 3, 50.0)
    assert quality.row("a", paper, reached, 20.0) == "| a | 60.0 | 10 | 60.5 | 200 | 50 | 4 |"
    missed = quality.row("a", paper, reached._replace(best=59.9), 20.0)
    assert missed == "| a | 60.0 | 10 | 59.9 | 200 | 50 | not reached |"


RUNS = Path("unread")


def _matrix():
    """A cross-evaluation of one model, 60 % in and 40 % out of its domain."""
    thresholds = ChosenThresholds(None, None)
    model = ScoredModel(
        "m", "a", ("a",), 0, "clip", "", "layer1", "linear", "full", 224, "best.ckpt", "",
        thresholds,
    )  # fmt: skip
    inside, outside = (Score(value, value - 1, value + 2, 2) for value in (60.0, 40.0))
    parts = {field.name: {} for field in fields(Matrix)}
    parts |= {"name": "m", "notice": None, "perturbation": "none", "failed": (), "format": 2}
    parts |= {
        **dict.fromkeys(("inputs", "baselines", "rates", "bins")),
        "pooling": "top",
        "leave_one_out": (),
        "seeds": (0,),
        "metrics": ("iou",),
    }
    parts |= {"data": Data("", "", {}), "made": Made("", 0.0, "", "", None, "", {})}
    parts |= {"models": (model,), "rows": ("a",), "columns": ("a",), "in_domain": {"a": ("a",)}}
    parts |= {"matrix": {"iou": {"a": {"a": inside}}}}
    parts |= {"summary": {"iou": Summary({"a": outside}, {}, {})}}
    return Matrix(**parts)


def test_decoders_are_told_by_cost_and_iou(settings, tmp_path, monkeypatch, capsys):
    ours = Ours(NETWORK.save_tower(settings.temporary), "layer1", "linear", settings.work)
    checkpoint = tmp_path / "m/checkpoints/best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    ours.train(1, checkpoint)
    write_matrix(tmp_path, _matrix())
    monkeypatch.setattr("sys.argv", ["decoders", str(tmp_path), f"--runs={tmp_path}"])
    decoders.main()
    line = next(x for x in capsys.readouterr().out.splitlines() if "linear" in x)
    # 64 channels in each of 16 patches; with the bias 65 parameters
    assert line.startswith("| `linear` | 1e-06 G | 6.5e-05 M |")
    assert line.endswith("| 60.0 (59.0 to 62.0) | 40.0 (39.0 to 42.0) |")
    assert (tmp_path / "decoders.png").stat().st_size > 1000


def test_decoders_need_one_generator_and_its_score():
    matrix = _matrix()
    several = replace(matrix.models[0], trained_on=("a", "b"))
    with pytest.raises(UserError, match="m: expected one training generator, found a, b"):
        decoders.decoders(replace(matrix, models=(several,)), RUNS)
    with pytest.raises(UserError, match="a: the matrix holds no IoU with an interval"):
        decoders.decoders(replace(matrix, matrix={}), RUNS)


def test_multiply_adds_are_counted():
    linear = torch.nn.Linear(10, 20)
    assert costs.multiply_adds(lambda: linear(torch.zeros(3, 10))) == 3 * 10 * 20
    convolution = torch.nn.Conv2d(4, 8, kernel_size=3, padding=1)
    pixels = torch.zeros(1, 4, 5, 5)
    assert costs.multiply_adds(lambda: convolution(pixels)) == 5 * 5 * 9 * 4 * 8
    q = torch.zeros(1, 2, 7, 16)
    attention = lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)  # noqa: E731
    assert costs.multiply_adds(attention) == 2 * (2 * 7 * 7 * 16)
    block = torch.nn.MultiheadAttention(16, 2, batch_first=True).requires_grad_(False).eval()
    tokens = torch.zeros(1, 7, 16)
    projections = 4 * 7 * 16 * 16
    assert (
        costs.multiply_adds(lambda: block(tokens, tokens, tokens)) == projections + 2 * 7 * 7 * 16
    )
    # The backward pass to the weights alone: the input needs no gradient.
    assert costs.multiply_adds(lambda: convolution(pixels).sum().backward()) == 2 * 7200


def test_the_matrix_benchmark_reports_time_and_memory(tmp_path, capsys):
    matrix.write(tmp_path, 30)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4 * 5
    matrix.build(tmp_path, 30)
    row = capsys.readouterr().out.strip()
    assert re.fullmatch(r"\| 30 (\| [\d.]+ ){4}\|", row)
    assert row.count("|") == matrix.HEADER.splitlines()[0].count("|")


@pytest.mark.parametrize("step", growth.STEPS)
def test_growth_measures_every_piece_of_work(step, tmp_path, monkeypatch, capsys):
    for name in ("DECLIP_CACHE", "DECLIP_FEATURES"):
        monkeypatch.setenv(name, "")
    prepare, do = growth.STEPS[step]
    prepare(tmp_path, 60)
    assert not capsys.readouterr().out
    do(tmp_path, 60)
    row = capsys.readouterr().out.strip()
    assert re.fullmatch(rf"\| {step} \| 60 (\| [\d.]+ ){{3}}\|", row)
    assert row.count("|") == growth.HEADER.splitlines()[0].count("|")


def test_starts_measures_two_starts_on_the_same_files(tmp_path, monkeypatch, capsys):
    for name in ("DECLIP_CACHE", "DECLIP_FEATURES"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(datamodule, "PRELOADED_SHARE", datamodule.PRELOADED_SHARE)
    starts.write(tmp_path, 30)
    written = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert len(written) == 30
    for path in written:
        os.utime(path, ns=(0, 1))
    for _ in range(2):
        starts.start(tmp_path, 30)
    rows = [[float(part) for part in line.split()] for line in capsys.readouterr().out.splitlines()]
    assert [len(row) for row in rows] == [3, 3] and all(row[2] > 0 for row in rows)
    (index,) = (tmp_path / "index").glob("data-*.jsonl")
    assert len(index.read_text().splitlines()) == 2 + 22  # training sees no untouched photos


def test_forgeries_to_choose_a_recipe_on(tmp_path, monkeypatch):
    """No photo for testing is any other's; those of ``whole`` went through one autoencoder more."""
    quick(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(kept_autoencoders, "KINDS", KINDS)
    root = make_tree(tmp_path / "dolos", counts={"train": 4, "valid": 8, "test": 2})
    left_out.main(root, "ldm", tmp_path / "made")
    fakes = tmp_path / "made/fake"
    groups = {folder.name: pictures(folder / "images/test") for folder in fakes.iterdir()}
    masks = {name: pictures(fakes / name / "masks/test") for name in left_out.LEFT_OUT}
    assert groups.keys() == {"ldm", *left_out.LEFT_OUT} and all(groups.values())
    theirs = {split: pictures(root / "fake/ldm/images" / split) for split in ("train", "valid")}
    tested, kept = groups["ldm"], pictures(fakes / "ldm/images/valid")
    assert tested | kept == theirs["valid"] and not tested.keys() & kept.keys()
    assert pictures(fakes / "ldm/images/train") == theirs["train"]
    assert all(groups[name].keys() == masks[name].keys() for name in masks)
    assert masks["whole"] == masks["autoencoders"]
    assert all(groups["whole"][name] != groups["autoencoders"][name] for name in masks["whole"])


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: Image.open(path).tobytes() for path in folder.iterdir()}
