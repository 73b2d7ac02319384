import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from declip_pl.errors import UserError
from declip_pl.model.resnet import CLIPResNet, load_resnet

BLOCKS = (3, 4, 6, 3)
PARAMETERS = 23_527_264  # 38,316,896 in OpenAI's tower less 14,789,632 in its attention pool


def openai_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes in OpenAI's file below `visual.`, written down without the module."""
    convs = {"conv1": (32, 3, 3, 3), "conv2": (32, 32, 3, 3), "conv3": (64, 32, 3, 3)}
    norms = {"bn1": 32, "bn2": 32, "bn3": 64}
    before = 64
    for layer, blocks in enumerate(BLOCKS, start=1):
        width = 32 * 2**layer
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            convs[f"{name}.conv1"] = (width, before, 1, 1)
            convs[f"{name}.conv2"] = (width, width, 3, 3)
            convs[f"{name}.conv3"] = (4 * width, width, 1, 1)
            norms |= {f"{name}.bn1": width, f"{name}.bn2": width, f"{name}.bn3": 4 * width}
            if block == 0:
                convs[f"{name}.downsample.0"] = (4 * width, before, 1, 1)
                norms[f"{name}.downsample.1"] = 4 * width
            before = 4 * width
    kinds = ("weight", "bias", "running_mean", "running_var")
    shapes = {f"{name}.{kind}": (size,) for name, size in norms.items() for kind in kinds}
    return shapes | {f"{name}.weight": shape for name, shape in convs.items()}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random weights and batch-norm statistics that keep activations near 1."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in openai_shapes().items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 4:
            tensors[name] = noise * (2 / noise[0].numel()) ** 0.5
        elif name.endswith(("running_var", "weight")):
            tensors[name] = 0.5 + noise.abs() / 2
        else:
            tensors[name] = 0.2 * noise
    return tensors


def reference(state, x, last: int) -> torch.Tensor:
    """CLIP's RN50 straight from a state dict, with matrix products and means alone."""

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"].double()
        kernel = weight.shape[-1]
        patches = nn.functional.unfold(x, kernel, padding=kernel // 2, stride=stride)
        out = weight.flatten(1) @ patches
        return out.unflatten(2, (x.shape[2] // stride, x.shape[3] // stride))

    def norm(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{kind}"].double()[:, None, None]
            for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5) ** 0.5 * weight + bias

    def halve(x):
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4

    x = x.double()
    for index, stride in enumerate((2, 1, 1), start=1):
        x = norm(conv(x, f"conv{index}", stride), f"bn{index}").clamp(min=0)
    x = halve(x)
    for layer in range(1, last + 1):
        for block in range(BLOCKS[layer - 1]):
            name = f"layer{layer}.{block}"
            strided = layer > 1 and block == 0
            y = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").clamp(min=0)
            y = norm(conv(y, f"{name}.conv2"), f"{name}.bn2").clamp(min=0)
            y = norm(conv(halve(y) if strided else y, f"{name}.conv3"), f"{name}.bn3")
            x = halve(x) if strided else x
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0"), f"{name}.downsample.1")
            x = (x + y).clamp(min=0)
    return x


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("layer1", (1, 256, 56, 56)),
        ("layer2", (1, 512, 28, 28)),
        ("layer3", (1, 1024, 14, 14)),
        ("layer4", (1, 2048, 7, 7)),
    ],
)
def test_shapes_at_224_px_and_nothing_beyond_the_layer(layer, shape):
    model = CLIPResNet(layer).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224)).shape == shape
    built = {key.split(".")[0] for key in model.state_dict() if key.startswith("layer")}
    assert built == {f"layer{n}" for n in range(1, int(layer[-1]) + 1)}


def test_names_and_shapes_are_openais():
    own = {k: tuple(v.shape) for k, v in CLIPResNet("layer4").state_dict().items()}
    own = {k: v for k, v in own.items() if not k.endswith("num_batches_tracked")}
    assert own == openai_shapes()


def test_parameter_count():
    assert sum(p.numel() for p in CLIPResNet("layer4").parameters()) == PARAMETERS


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3", "layer4"])
def test_agrees_with_an_independent_implementation(layer, state, tmp_path):
    save_file(state, tmp_path / "rn50.safetensors")
    model = load_resnet(tmp_path / "rn50.safetensors", layer).double().eval()
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = model(pixels.double())
    expected = reference(state, pixels, int(layer[-1]))
    assert expected.std() > 0.1
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)


def whole_clip(state) -> dict[str, torch.Tensor]:
    """The image tower with its attention pool, and one key of each part of the text tower."""
    text = ("transformer.resblocks.0.ln_1.bias", "token_embedding.weight", "ln_final.weight")
    numbers = ("positional_embedding", "text_projection", "logit_scale", "vocab_size")
    other = dict.fromkeys(("visual.attnpool.q_proj.weight", *text, *numbers), torch.tensor(1.0))
    other = {key: value.clone() for key, value in other.items()}  # safetensors refuses sharing
    steps = {"visual.bn1.num_batches_tracked": torch.tensor(7)}
    return {f"visual.{key}": value for key, value in state.items()} | other | steps


@pytest.mark.parametrize("kind", ["safetensors", "pt", "nested"])
@pytest.mark.parametrize("prefix", [True, False])
def test_loads_every_kind_of_file_in_fp32(kind, prefix, state, tmp_path):
    half = {key: value.half() for key, value in state.items()}
    content = whole_clip(half) if prefix else half
    path = tmp_path / ("rn50.safetensors" if kind == "safetensors" else "rn50.pt")
    if kind == "safetensors":
        save_file(content, path)
    else:
        torch.save({"state_dict": content} if kind == "nested" else content, path)
    model = load_resnet(path, "layer2")
    loaded = model.state_dict()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    expected = [k for k in half if not k.startswith(("layer3.", "layer4."))]
    assert len(expected) > 50
    assert all(torch.equal(loaded[key], half[key].float()) for key in expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.3.conv3.weight"), "layer2.3.conv3.weight missing"),
        (lambda s: s.update({"layer1.3.bn1.bias": torch.ones(64)}), "layer1.3.bn1.bias not part"),
        (lambda s: s.update({"bn1.bias": torch.ones(40)}), "bn1.bias of another shape"),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith("layer1.0.")],
            r"(layer1\.0\.\S+, ){2}layer1\.0\.\S+ and 17 more missing",
        ),
    ],
)
def test_a_file_that_does_not_fit_names_itself_and_the_keys(change, message, state, tmp_path):
    wrong = dict(state)
    change(wrong)
    path = tmp_path / "wrong.safetensors"
    save_file(wrong, path)
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*" + message):
        load_resnet(path, "layer3")


def test_a_torchscript_archive_says_what_to_use_instead(tmp_path):
    path = tmp_path / "RN50.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(UserError, match=r"TorchScript.*open_clip_model\.safetensors"):
        load_resnet(path, "layer3")


@pytest.mark.parametrize("name", ["rn50.safetensors", "rn50.pt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all, only some text"])
def test_an_unreadable_file_is_named(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=f"{re.escape(str(path))}(: no checkpoint| is no safetensors file)"
    ):
        load_resnet(path, "layer3")


def test_a_pickle_without_weights_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        load_resnet(tmp_path / "list.pt", "layer3")


def test_a_pickle_with_code_is_not_run(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(UserError, match="objects other than tensors, which could run anything"):
        load_resnet(tmp_path / "module.pt", "layer3")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.safetensors: no such file"):
        load_resnet(tmp_path / "none.safetensors", "layer3")
