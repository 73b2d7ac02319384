"""The benchmark runs from end to end, and both sides do the same work."""

import json

import pytest
import torch
from benchmarks import bench
from benchmarks.ours import Ours
from benchmarks.published import StandIn

from declip_pl.data.layout import samples
from declip_pl.encoder import build_encoder

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
}
NETWORK = bench.Network("tiny linear", 1, "linear", TINY | {"patch_size": 56}, TINY)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    root = bench._write_photos(tmp_path / "data", 2)
    return bench.Settings(2, root, tmp_path, torch.device("cpu"), None)


def test_bench_reports_every_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "NETWORKS", (NETWORK,))
    monkeypatch.setattr("sys.argv", ["bench", "--photos", "2"])
    monkeypatch.setenv("DECLIP_FEATURES", "")
    monkeypatch.setattr(torch, "compile", lambda decoder: decoder)  # it takes minutes
    bench.main()
    folder = next((tmp_path / "outputs/bench").iterdir())
    assert {p.name for p in folder.iterdir()} == {"bench.md", "bench.json", "bench.png"}
    report = (folder / "bench.md").read_text()
    assert report in capsys.readouterr().out
    rows = {row["what"]: row for row in json.loads((folder / "bench.json").read_text())["rows"]}
    assert list(rows) == list(bench.MEASURED)
    for what, row in rows.items():
        assert f"| tiny linear | {what} |" in report and row["ratio"] > 0
    assert "| a training step of the decoder | plain | bf16 |" in report
    saved = rows["best checkpoint"]
    assert saved["ratio"] == pytest.approx(saved["published"][0] / saved["ours"][0])


def test_both_sides_compute_the_same_maps(settings):
    """The stand-in is only a fair one if it has the same network, down to the probabilities."""
    encoder = bench._encoder(NETWORK, settings)
    ours = Ours(encoder, "layer1", "linear", *settings.arguments)
    frozen = build_encoder(str(encoder), "layer1")
    theirs = StandIn(NETWORK.config, frozen, 1, "linear", *settings.arguments)
    weights = frozen.model.state_dict()
    theirs.clip.vision_model.load_state_dict(weights, strict=False)  # it has the blocks beyond too
    theirs.decoder.load_state_dict(ours.network.decoder.state_dict())
    photos = [sample.image for sample in samples(settings.root, "a", "test")]
    torch.testing.assert_close(theirs.predict(photos), ours.predict(photos), atol=1e-5, rtol=1e-5)


def test_multiply_adds_are_counted():
    linear = torch.nn.Linear(10, 20)
    assert bench.multiply_adds(lambda: linear(torch.zeros(3, 10))) == 3 * 10 * 20
    convolution = torch.nn.Conv2d(4, 8, kernel_size=3, padding=1)
    pixels = torch.zeros(1, 4, 5, 5)
    assert bench.multiply_adds(lambda: convolution(pixels)) == 5 * 5 * 9 * 4 * 8
    q = torch.zeros(1, 2, 7, 16)
    attention = lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)  # noqa: E731
    assert bench.multiply_adds(attention) == 2 * (2 * 7 * 7 * 16)
    # The backward pass to the weights alone: the input needs no gradient.
    assert bench.multiply_adds(lambda: convolution(pixels).sum().backward()) == 2 * 7200
