"""The decoders against the published sizes, names, and an implementation of their own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from declip_pl.errors import UserError
from declip_pl.model.decoder import DECODERS, ConvDecoder, build_decoder
from declip_pl.model.features import Features, FeatureShape
from declip_pl.model.network import DeCLIP

VIT, FUSION = FeatureShape(1024, 16), FeatureShape(2048, 16, always_resizes=True)


@pytest.mark.parametrize(
    ("name", "which", "millions"),
    [
        ("conv-4", VIT, 17.41), ("conv-12", VIT, 34.83), ("conv-20", VIT, 52.24),
        ("conv-4", FUSION, 30.52), ("conv-12", FUSION, 47.93), ("conv-20", FUSION, 65.35),
    ],
)  # fmt: skip
def test_parameter_counts_are_the_published_ones(name, which, millions):
    count = sum(p.numel() for p in build_decoder(name, which).parameters())
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("name", DECODERS.names())
@pytest.mark.parametrize(
    "which",
    [FeatureShape(64, side) for side in (4, 14, 16, 24)]
    + [FeatureShape(64, side, always_resizes=True) for side in (7, 28, 56)],
    ids=lambda shape: f"grid{shape.grid_size}",
)
def test_every_decoder_gives_one_logit_per_pixel_at_256(name, which, monkeypatch):
    monkeypatch.setattr("declip_pl.model.decoder.STAGES", (8, 8, 4, 4))
    grid = torch.randn(2, which.channels, which.grid_size, which.grid_size)
    logits = build_decoder(name, which)(Features(grid, torch.randn(2, which.channels)))
    assert logits.shape == (2, 1, 256, 256)


def published_layers(channels, per_stage, upsampled_stages, ends_resized):
    """The flat list of the public implementation, written down by index and kind."""
    kinds = []
    for stage, width in enumerate((512, 256, 128, 64)):
        for _ in range(per_stage):
            kinds += [("conv", channels, width), ("norm", width), ("relu",)]
            channels = width
        if stage in upsampled_stages:
            kinds.append(("double",))
    kinds += [("resize",)] if ends_resized else []
    return [*kinds, ("conv", 64, 1)]


CASES = {
    "ViT conv-4": (VIT, 4, published_layers(1024, 1, (0, 1, 2, 3), False)),
    "ViT conv-20": (VIT, 20, published_layers(1024, 5, (0, 1, 2, 3), False)),
    "ViT+RN50 conv-12": (FUSION, 12, published_layers(2048, 3, (0, 1, 2, 3), True)),
    "RN50 layer1": (FeatureShape(256, 56, True), 4, published_layers(256, 1, (2, 3), True)),
    "RN50 layer2": (FeatureShape(512, 28, True), 4, published_layers(512, 1, (1, 2, 3), True)),
    "RN50 layer3": (FeatureShape(1024, 14, True), 4, published_layers(1024, 1, (0, 1, 2, 3), True)),
    "RN50 layer4": (FeatureShape(2048, 7, True), 4, published_layers(2048, 1, (0, 1, 2, 3), True)),
}


@pytest.mark.parametrize("case", CASES)
def test_parameter_names_and_shapes_are_the_published_ones(case):
    which, depth, layers = CASES[case]
    expected = {}
    for index, (kind, *widths) in enumerate(layers):
        if kind == "conv":
            expected[f"fc.{index}.weight"] = (widths[1], widths[0], 5, 5)
            expected[f"fc.{index}.bias"] = (widths[1],)
        if kind == "norm":
            names = ("weight", "bias", "running_mean", "running_var")
            expected |= {f"fc.{index}.{name}": (widths[0],) for name in names}
            expected[f"fc.{index}.num_batches_tracked"] = ()
    state = build_decoder(f"conv-{depth}", which).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


@pytest.mark.parametrize("case", ["ViT conv-4", "RN50 layer2", "RN50 layer4"])
def test_convolutional_decoder_equals_an_independent_forward(case):
    """The same arithmetic written with functions, straight from the state dict."""
    which, depth, layers = CASES[case]
    decoder = build_decoder(f"conv-{depth}", which).eval()
    for layer in decoder.fc:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 2)
    grid = torch.randn(1, which.channels, which.grid_size, which.grid_size)
    state, x = decoder.state_dict(), grid
    for index, (kind, *_) in enumerate(layers):
        get = lambda name, i=index: state[f"fc.{i}.{name}"]  # noqa: E731
        if kind == "conv":
            x = F.conv2d(x, get("weight"), get("bias"), padding=2)
        elif kind == "norm":
            scale = get("weight") / (get("running_var") + 1e-5).sqrt()
            shift = get("bias") - get("running_mean") * scale
            x = x * scale[:, None, None] + shift[:, None, None]
        elif kind == "relu":
            x = x.clamp(min=0)
        else:
            size = (256, 256) if kind == "resize" else tuple(2 * s for s in x.shape[-2:])
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(decoder(Features(grid, None)), x, atol=1e-5, rtol=1e-4)


def test_linear_decoder_is_one_map_for_each_patch():
    decoder = build_decoder("linear", FeatureShape(8, 16))
    grid = torch.randn(2, 8, 16, 16)
    weight, bias = decoder.fc[0].weight, decoder.fc[0].bias
    patches = torch.einsum("bchw,oc->bohw", grid, weight) + bias
    expected = F.interpolate(patches, (256, 256), mode="bicubic")
    torch.testing.assert_close(decoder(Features(grid, None)), expected)


def test_light_decoder_equals_an_independent_forward():
    decoder = build_decoder("light", FeatureShape(8, 14)).eval()
    for norm in (m for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.5, 2)
    grid = torch.randn(2, 8, 14, 14)
    state, x = decoder.state_dict(), grid
    for index, channels, kernel in [
        (0, 128, 1),
        (3, 128, 3),
        (6, 128, 3),
        (10, 64, 3),
        (13, 64, 3),
    ]:
        x = F.conv2d(x, state[f"fc.{index}.weight"], padding=kernel // 2)
        get = lambda name, i=index + 1: state[f"fc.{i}.{name}"][:, None, None]  # noqa: E731
        x = (x - get("running_mean")) / (get("running_var") + 1e-5).sqrt()
        x = (x * get("weight") + get("bias")).clamp(min=0)
        assert x.shape[1] == channels
        if index in (6, 13):
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
    x = F.conv2d(x, state["fc.17.weight"], state["fc.17.bias"], padding=1)
    assert x.shape == (2, 1, 56, 56)
    expected = F.interpolate(x, (256, 256), mode="bilinear")
    torch.testing.assert_close(decoder(Features(grid, None)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("channels", "grid"), [(768, 14), (1024, 16), (256, 56), (2048, 7)])
def test_light_decoder_costs_a_tenth_of_conv_20_or_less(channels, grid):
    def multiply_adds(decoder):
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            features = Features(torch.zeros(1, channels, grid, grid), None)
            build_decoder(decoder, FeatureShape(channels, grid)).eval()(features)
        return counter.get_total_flops() / 2

    assert multiply_adds("light") < multiply_adds("conv-20") / 10


def attention_block(x, state, heads):
    """A pre-norm transformer block on ``[T, C]`` tokens, one head at a time."""

    def norm(name, v):
        return F.layer_norm(v, v.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    q, k, v = (norm("ln_1", x) @ state["attn.in_proj_weight"].T + state["attn.in_proj_bias"]).chunk(
        3, -1
    )
    width = x.shape[-1] // heads
    mixed = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        weights = (q[:, part] @ k[:, part].T / width**0.5).softmax(-1)
        mixed.append(weights @ v[:, part])
    x = x + torch.cat(mixed, -1) @ state["attn.out_proj.weight"].T + state["attn.out_proj.bias"]
    hidden = norm("ln_2", x) @ state["mlp.c_fc.weight"].T + state["mlp.c_fc.bias"]
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    return x + hidden @ state["mlp.c_proj.weight"].T + state["mlp.c_proj.bias"]


def test_attention_decoder_equals_an_independent_forward():
    decoder = build_decoder("attention", FeatureShape(128, 4)).eval()
    grid, cls = torch.randn(1, 128, 4, 4), torch.randn(1, 128)
    state = decoder.state_dict()
    tokens = torch.cat([cls, grid[0].flatten(1).T])
    for block in ("att1", "att2"):
        own = {k.removeprefix(f"{block}."): v for k, v in state.items() if k.startswith(block)}
        tokens = attention_block(tokens, own, heads=16)
    patches = tokens[1:] @ state["fc.0.weight"].T + state["fc.0.bias"]
    expected = F.interpolate(patches.T.reshape(1, 1, 4, 4), (256, 256), mode="bicubic")
    torch.testing.assert_close(decoder(Features(grid, cls)), expected, atol=1e-5, rtol=1e-4)


def test_attention_is_bidirectional_and_all_of_it_is_trained():
    decoder = build_decoder("attention", FeatureShape(64, 4))
    grid = torch.randn(1, 64, 4, 4)
    changed = grid.clone()
    changed[..., -1, -1] = torch.randn(1, 64)  # the last patch
    before, after = (decoder(Features(g, torch.zeros(1, 64))) for g in (grid, changed))
    assert not torch.equal(before[..., 0, 0], after[..., 0, 0])  # reaches the first
    after.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters() if p.dim() > 1)


def test_initialisation():
    decoder = ConvDecoder(FeatureShape(256, 16), depth=4)
    convolution, norm = decoder.fc[0], decoder.fc[1]
    assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert convolution.weight.mean().abs() < 1e-3
    assert (norm.weight == 1).all()  # the public code draws these from N(0, 0.02) too


def test_unknown_decoder():
    with pytest.raises(UserError, match=r"conv-5.*choose one of light, linear, attention"):
        build_decoder("conv-5", VIT)


class Threefold(nn.Module):
    """A user's decoder that returns three maps."""

    def __init__(self, shape):
        super().__init__()
        self.fc = nn.Conv2d(shape.channels, 3, 1)

    def forward(self, features):
        return self.fc(features.grid)


def test_a_decoder_of_ones_own_is_used_and_its_output_checked(tmp_path, monkeypatch):
    body = """
import torch
from torch import nn
class Constant(nn.Module):
    def __init__(self, shape, value=1.0):
        super().__init__()
        self.shape, self.value = shape, value
    def forward(self, features):
        return torch.full((len(features.grid), 1, 256, 256), self.value)
def not_a_class(shape): ...
"""
    (tmp_path / "own_decoder.py").write_text(body)
    monkeypatch.setenv("DECLIP_PARTS", str(tmp_path / "own_decoder.py"))
    spec = {"class_path": "own_decoder.Constant", "init_args": {"value": 3.0}}
    decoder = build_decoder(spec, FeatureShape(8, 4))
    assert decoder.shape == FeatureShape(8, 4)
    pixels = Features(torch.zeros(2, 8, 4, 4), None)
    assert (DeCLIP(None, decoder)(pixels) == 3).all()
    with pytest.raises(UserError, match=r"returns \[B, 1, 256, 256\] logits; Threefold returned"):
        DeCLIP(None, Threefold(FeatureShape(8, 4)))(pixels)
    with pytest.raises(UserError, match="own_decoder has no class not_a_class"):
        build_decoder("own_decoder.not_a_class", FeatureShape(8, 4))


def test_attention_needs_channels_for_its_heads():
    with pytest.raises(UserError, match="attention needs a multiple of 16 channels, found 24"):
        build_decoder("attention", FeatureShape(24, 4))
