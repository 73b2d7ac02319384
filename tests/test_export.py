"""An exported graph answers as torch does on any photos, says what it is, and needs no torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import make_clip, make_photo
from localizer_example import checkpoint_of
from PIL import Image
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

import declip_pl
from declip_pl import Localizer, cli
from declip_pl.data.transforms import build_transform
from declip_pl.errors import UserError
from declip_pl.inference import export, saved_folder
from declip_pl.metrics import Thresholds
from declip_pl.model.encoder import Encoder
from declip_pl.model.resnet import CLIPResNet
from declip_pl.training.task import LocalizationTask

RUN_ONNX = Path(__file__).parents[1] / "docs" / "run_onnx.py"
SIZE, FLOOR = 64, 0.5

ALONE = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "declip_pl", "transformers", "lightning", "onnx"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*{name.split(".")[0] for name in sys.modules})
"""
"""Runs a script where torch and everything around it can't be imported, and says what was."""


def make_dinov2(folder: Path) -> Path:
    """Save a random DINOv2, whose mean and std are not CLIP's."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, tuple[str, str, int]]:
    """Name, layer and image size of one encoder of each kind."""
    folder = tmp_path_factory.mktemp("encoders")
    vit = make_clip(folder / "tiny-clip")
    torch.manual_seed(0)
    network = CLIPResNet("layer3")
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    save_file(network.state_dict(), folder / "rn50.safetensors")
    resnet = f"RN50:{folder / 'rn50.safetensors'}"
    return {
        "vit": (str(vit), "layer1", SIZE),
        "interpolated": (str(vit), "layer0", 96),
        "rn50": (resnet, "layer1", SIZE),
        "fusion": (f"{vit}+{resnet}", "layer1", SIZE),
        "dinov2": (str(make_dinov2(folder / "dinov2")), "layer1", SIZE),
        "layers": (str(vit), "layer2+layer0+layer3", SIZE),
    }


@pytest.fixture(scope="module")
def saved(encoders, tmp_path_factory):
    """Save a localizer whose probabilities cover most of [0, 1]."""

    def save(kind: str, decoder: str, floor: float | None = None) -> Path:
        encoder, layer, size = encoders[kind]
        task = LocalizationTask(encoder, layer, decoder, image_size=size).eval()
        with torch.no_grad():
            logits = task(preprocessed(photos(3, 150, 70), task.network.encoder))
            last, scale = list(task.network.decoder.modules())[-1], 2 / logits.std()
            last.weight *= scale
            last.bias.copy_((last.bias - logits.mean()) * scale)
        folder = tmp_path_factory.mktemp("models") / f"{kind}-{decoder}"
        thresholds = Thresholds(None, {}, floor)
        saved_folder.save(checkpoint_of(task, thresholds=thresholds), folder)
        return folder

    return save


@pytest.fixture(scope="module")
def model(saved) -> Path:
    return saved("vit", "linear", FLOOR)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    cli.main(["export", str(model), "--format", "onnx", "--output", str(path)])
    return path


def facts_of(graph: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in graph.metadata_props}


def photos(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    squares = [Image.fromarray(make_photo(rng)) for _ in range(count)]
    return np.stack([np.asarray(square.resize((width, height))) for square in squares])


def preprocessed(batch: np.ndarray, encoder: Encoder) -> torch.Tensor:
    """Resize with PIL, along the rows first, and normalise."""
    transform, bilinear = build_transform(encoder.preprocessing), Image.Resampling.BILINEAR
    size = encoder.preprocessing.image_size
    rows = [Image.fromarray(p).resize((size, p.shape[0]), bilinear) for p in batch]
    return torch.stack([transform(image=np.asarray(row))["image"] for row in rows])


def assert_answers_like_torch(path: Path, model: Path) -> None:
    session, localizer = onnxruntime.InferenceSession(path), Localizer.from_pretrained(model, "cpu")
    encoder = localizer.network.encoder
    for batch in (photos(1, SIZE, SIZE), photos(3, 150, 70), photos(2, 30, 40), photos(1, 1, 1)):
        with torch.no_grad():
            expected = localizer.network(preprocessed(batch, encoder))[:, 0].sigmoid().numpy()
        (found,) = session.run(["probabilities"], {"pixels": batch})
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert expected.std() > 0.1 or batch.shape[1] == 1


def test_the_command_writes_a_graph_that_answers_like_torch(exported, model):
    assert_answers_like_torch(exported, model)


@pytest.mark.parametrize(
    ("kind", "decoder"),
    [
        ("interpolated", "attention"),
        # Together they take most of a minute.
        pytest.param("rn50", "conv-4", marks=pytest.mark.slow),
        pytest.param("dinov2", "linear", marks=pytest.mark.slow),
        pytest.param("layers", "relative", marks=pytest.mark.slow),
        pytest.param("layers", "attention", marks=pytest.mark.slow),
        pytest.param("fusion", "light", marks=pytest.mark.slow),
    ],
)
def test_all_encoders_and_decoders(kind, decoder, saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("declip_pl.model.decoder.STAGES", (8, 8, 4, 4))
    model = saved(kind, decoder)
    export.export(str(model), output=tmp_path / "model.onnx")
    assert_answers_like_torch(tmp_path / "model.onnx", model)
    printed = capsys.readouterr().out.split("from torch's: ")[1]
    assert 0 < float(printed) < export.TOLERANCE
    graph = onnx.load(tmp_path / "model.onnx")
    assert "floor" not in facts_of(graph) and graph.doc_string.endswith("fake above 0.5.")


@pytest.mark.parametrize(
    "size", [(224, 224), (256, 256), (448, 448), (480, 640), (150, 100), (1, 1), (1, 999), (2, 2)]
)
def test_the_resize_is_pils(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = np.asarray(Image.fromarray(noise).resize((224, 224), Image.Resampling.BILINEAR))
    levels = torch.from_numpy(noise)[None].permute(0, 3, 1, 2).double()
    found = export.resize(levels, 224)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, expected)


def test_the_file_says_what_it_is(exported, model):
    graph = onnx.load(exported)
    facts = facts_of(graph)
    identity = Localizer.from_pretrained(model, "cpu").checkpoint.identity
    licence = facts.pop("licence")
    assert "Apache-2.0" in licence
    assert facts == {
        "name": "vit-linear",
        "encoder": "tiny-clip",
        "encoder_source": identity.source,
        "encoder_sha256": identity.sha256,
        "layer": "layer1",
        "decoder": "linear",
        "image_size": "64",
        "threshold": "0.5",
        "floor": str(FLOOR),
        "pooling": "top",
        "trained_on": "not on record",
        "tested_on": "not on record",
    }
    assert "uint8 RGB [B, H, W, 3]" in graph.doc_string
    assert "nothing where under 2% of the photo reach 0.5" in graph.doc_string
    session = onnxruntime.InferenceSession(exported)
    (pixels,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (pixels.name, pixels.type, pixels.shape) == (
        "pixels",
        "tensor(uint8)",
        ["B", "H", "W", 3],
    )
    assert (probabilities.name, probabilities.shape) == ("probabilities", ["B", 256, 256])


def test_the_file_does_not_tell_where_the_package_lies(exported):
    assert str(Path(declip_pl.__file__).parent).encode() not in exported.read_bytes()


def run_alone(exported: Path, folder: Path, floor: float | None) -> tuple[np.ndarray, str]:
    """Run the documented script on a graph with this floor and on a photo, without torch.

    Return the mask and what it printed.
    """
    graph = onnx.load(exported)
    facts = facts_of(graph) | {"floor": str(floor)}
    if floor is None:
        del facts["floor"]
    onnx.helper.set_model_props(graph, facts)
    onnx.save(graph, folder / "model.onnx")
    Image.fromarray(photos(1, 150, 200)[0]).save(folder / "photo.png")
    command = [sys.executable, "-c", ALONE, RUN_ONNX, "model.onnx", "photo.png", "mask.png"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    told, modules = done.stdout.strip().split("\n")
    assert "onnxruntime" in modules.split()
    assert not {"torch", "declip_pl", "transformers", "lightning"} & set(modules.split())
    return np.asarray(Image.open(folder / "mask.png")), told


def test_it_runs_without_torch(exported, model, tmp_path):
    mask, told = run_alone(exported, tmp_path, None)
    expected = Localizer.from_pretrained(model, "cpu")(tmp_path / "photo.png", threshold=0.5).mask
    assert 0.1 < expected.mean() < 0.9
    assert (mask == expected).mean() > 0.999
    assert told == f"{100 * mask.mean():.1f} % of photo.png is fake (above 0.500)"


def test_with_a_floor_it_decides_as_the_localizer_does(exported, model, tmp_path):
    mask, told = run_alone(exported, tmp_path, FLOOR)
    found = Localizer.from_pretrained(model, "cpu")(tmp_path / "photo.png")
    assert found.threshold < 0.49 and 0.1 < found.mask.mean() < 0.9
    assert (mask == found.mask).mean() > 0.999
    assert float(told.split("above ")[1].rstrip(")")) == pytest.approx(found.threshold, abs=2e-3)
    peak = np.quantile(found.heatmap, 0.98)
    assert np.array_equal(run_alone(exported, tmp_path, peak - 0.01)[0], mask)
    mask, told = run_alone(exported, tmp_path, peak + 0.01)
    assert not mask.any() and told == "0.0 % of photo.png is fake (above 1.000)"


def test_an_existing_file_is_kept(model, tmp_path, monkeypatch, error_of):
    monkeypatch.chdir(tmp_path)
    Path("vit-linear.onnx").write_text("mine")
    assert "vit-linear.onnx exists; name another file" in error_of("export", str(model))
    assert Path("vit-linear.onnx").read_text() == "mine"


@pytest.mark.parametrize("value", [2.0, np.nan])
def test_a_graph_that_answers_otherwise_is_not_kept(value, exported, model, tmp_path, monkeypatch):
    graph = onnx.load(exported)
    bias = next(i for i in graph.graph.initializer if i.name.endswith("decoder.fc.0.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([value], np.float32), bias.name))
    monkeypatch.setattr(export, "build_graph", lambda localizer: graph)
    with pytest.raises(UserError, match=r"differ by up to .*nothing was written"):
        export.export(str(model), output=tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_int8(exported, model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "build_graph", lambda localizer: onnx.load(exported))
    path = tmp_path / "int8.onnx"
    cli.main(["export", str(model), "--output", str(path), "--int8"])
    graph = onnx.load(path)
    operators = [node.op_type for node in graph.graph.node]
    assert operators.count("MatMulInteger") == 13  # six in each of two blocks, the decoder
    assert "ConvInteger" not in operators
    assert {entry.key for entry in graph.metadata_props} >= {"name", "encoder", "licence"}
    batch = photos(3, 150, 70)
    fp32, int8 = (
        onnxruntime.InferenceSession(file).run(None, {"pixels": batch})[0]
        for file in (exported, path)
    )
    assert 0 < np.abs(fp32 - int8).mean() < 0.02


def test_int8_is_for_matrices(saved, tmp_path, error_of):
    model, path = saved("rn50", "light"), tmp_path / "int8.onnx"
    error = error_of("export", str(model), "--output", str(path), "--int8")
    assert "int8 is for matrices, and the encoder rn50 has none" in error


def test_too_large_for_one_file(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"vit-linear has .* GiB of weights"):
        export.export(str(model), output=tmp_path / "model.onnx")


def test_without_onnxruntime_the_extra_is_named(monkeypatch, error_of):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'declip-pl[export]'" in error_of("export", "anything")


def test_the_documented_lines_are_the_tested_ones():
    lines = RUN_ONNX.read_text().split('"""\n\n', 1)[1]
    assert lines in (RUN_ONNX.parent / "use" / "onnx.md").read_text()
