"""Published checkpoints give the same logits here, and everything else is refused by name.

The public network is written down a second time, as plain functions of a published state dict.
"""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_clip, make_photo
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from test_resnet import openai_shapes
from test_resnet import reference as encode_resnet
from torch import nn
from transformers import CLIPVisionModel

from declip_pl import cli
from declip_pl.data.transforms import build_transform
from declip_pl.errors import UserError
from declip_pl.inference.import_published import VIT, import_published
from declip_pl.inference.recorded_scores import recorded_scores
from declip_pl.model.checkpoint import load_decoder, load_network, read_checkpoint
from declip_pl.model.description import TrainedOn
from declip_pl.model.encoder import build_encoder
from declip_pl.model.features import Features, Preprocessing
from declip_pl.training.task import LocalizationTask

TOLERANCE = 1e-4
WIDTH, BLOCKS, HEADS, PATCH = 1024, 2, 16, 14  # ViT-L/14 but for its depth

# The public network, independently


def flat_layers(decoder: str, backbone: str, layer: str) -> list[tuple]:
    """What stands at each index of a published decoder's ``fc``."""
    if decoder == "linear":
        return [("linear", WIDTH, 1)]
    resnet = {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}
    channels = {"ViT": 1024, "ViT+RN50": 2048}.get(backbone) or resnet[layer]
    skipped = {"layer1": 2, "layer2": 1}.get(layer, 0) if backbone != "ViT" else 0
    flat = []
    for stage, width in enumerate((512, 256, 128, 64)):
        for _ in range(int(decoder.removeprefix("conv-")) // 4):
            flat += [("convolution", channels, width), ("norm", width), ("relu",)]
            channels = width
        flat += [("double",)] if stage >= skipped else []
    flat += [("resize",)] if backbone != "ViT" else []
    return [*flat, ("convolution", 64, 1)]


def decoder_weights(decoder: str, backbone: str, layer: str) -> dict[str, torch.Tensor]:
    """Random weights; batch-norm statistics are still those of activations near 1.

    Biases let most activations pass: the more of them a ReLU cuts off, the more do random layers
    enlarge what rounding differs in, a thousandfold in twenty.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    weights = {}
    for index, (kind, *sizes) in enumerate(flat_layers(decoder, backbone, layer)):
        if kind in ("convolution", "linear"):
            before, width = sizes
            shape = (width, before, 5, 5) if kind == "convolution" else (width, before)
            weight = noise(*shape)
            weights[f"fc.{index}.weight"] = weight * (2 / weight[0].numel()) ** 0.5
            weights[f"fc.{index}.bias"] = 0.1 * noise(width)
        elif kind == "norm":
            weights[f"fc.{index}.weight"] = 0.7 + 0.3 * noise(*sizes)
            weights[f"fc.{index}.bias"] = 1 + 0.2 * noise(*sizes)
            weights[f"fc.{index}.running_mean"] = 0.2 * noise(*sizes)
            weights[f"fc.{index}.running_var"] = 0.5 + noise(*sizes).abs()
            weights[f"fc.{index}.num_batches_tracked"] = torch.tensor(1234)
    return weights


def decode(
    features, weights, decoder: str, backbone: str, layer: str, settle: bool = True
) -> torch.Tensor:
    """``[1, C, h, w]`` features to ``[1, 1, 256, 256]`` logits.

    ``settle`` moves batch-norm statistics on the way to where training leaves them, near those of
    what comes in: otherwise twenty random layers make the same of every photo.
    """
    x = features
    for index, (kind, *_) in enumerate(flat_layers(decoder, backbone, layer)):
        w = {k.split(".")[2]: v for k, v in weights.items() if k.startswith(f"fc.{index}.")}
        if kind == "convolution":
            x = F.conv2d(x, w["weight"], w["bias"], padding=2)
        elif kind == "norm":
            if settle:
                std, mean = torch.std_mean(x, dim=(0, 2, 3))
                w["running_mean"].mul_(std).add_(mean)
                w["running_var"].mul_(std**2)
            x = F.batch_norm(x, w["running_mean"], w["running_var"], w["weight"], w["bias"])
        elif kind == "relu":
            x = x.clamp(min=0)
        elif kind == "double":
            size = (2 * x.shape[2], 2 * x.shape[3])
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        elif kind == "resize":
            x = F.interpolate(x, (256, 256), mode="bilinear", align_corners=False)
        else:
            x = torch.einsum("bchw,oc->bohw", x, w["weight"]) + w["bias"]
            x = F.interpolate(x, (256, 256), mode="bicubic", align_corners=False)
    return x


def encode_vit(w, pixels, layer: str) -> torch.Tensor:
    """Blocks 0 to N of a ViT from OpenAI's weights: ``[1, 3, 224, 224]`` to ``[1, C, 16, 16]``."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name, dot="."):
        return x @ w[f"{name}{dot}weight"].T + w[f"{name}{dot}bias"]

    x = F.conv2d(pixels, w["visual.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([w["visual.class_embedding"].expand(1, 1, -1), x], dim=1)
    x = norm(x + w["visual.positional_embedding"], "visual.ln_pre")
    for number in range(int(layer.removeprefix("layer")) + 1):
        block = f"visual.transformer.resblocks.{number}"
        stacked = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.in_proj", dot="_")
        q, k, v = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in stacked.chunk(3, dim=2)
        )
        attention = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(attention.transpose(1, 2).flatten(2), f"{block}.attn.out_proj")
        hidden = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{block}.mlp.c_proj")
    return x[:, 1:].transpose(1, 2).unflatten(2, (16, 16))


def published_pixels(photo: np.ndarray) -> torch.Tensor:
    small = np.asarray(Image.fromarray(photo).resize((224, 224), Image.Resampling.BILINEAR))
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    return torch.from_numpy((small / 255 - mean) / std).float().permute(2, 0, 1)[None]


# What the checkpoints hold


class Encoders(NamedTuple):
    folder: str  # of the ViT, as our encoder reads it
    vit: dict[str, torch.Tensor]  # the same weights and the rest of CLIP, with OpenAI's names
    file: str  # of RN50
    rn50: dict[str, torch.Tensor]


def perturb(folder):
    """Give a model's biases and layer norms values that are not 0 and 1."""
    model = CLIPVisionModel.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model.state_dict()


def openai_vit(state) -> dict[str, torch.Tensor]:
    """A HuggingFace vision tower's weights under the names of OpenAI's CLIP."""
    w = {key.removeprefix("vision_model."): value for key, value in state.items()}
    named = {
        "class_embedding": w["embeddings.class_embedding"],
        "positional_embedding": w["embeddings.position_embedding.weight"],
        "conv1.weight": w["embeddings.patch_embedding.weight"],
        "proj": torch.ones(WIDTH, 8),
    }
    for kind in ("weight", "bias"):
        named[f"ln_pre.{kind}"] = w[f"pre_layrnorm.{kind}"]
        named[f"ln_post.{kind}"] = w[f"post_layernorm.{kind}"]
        for n in range(BLOCKS):
            ours, theirs = f"encoder.layers.{n}", f"transformer.resblocks.{n}"
            parts = [w[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            named[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(parts)
            named[f"{theirs}.attn.out_proj.{kind}"] = w[f"{ours}.self_attn.out_proj.{kind}"]
            named[f"{theirs}.ln_1.{kind}"] = w[f"{ours}.layer_norm1.{kind}"]
            named[f"{theirs}.ln_2.{kind}"] = w[f"{ours}.layer_norm2.{kind}"]
            named[f"{theirs}.mlp.c_fc.{kind}"] = w[f"{ours}.mlp.fc1.{kind}"]
            named[f"{theirs}.mlp.c_proj.{kind}"] = w[f"{ours}.mlp.fc2.{kind}"]
    return {f"visual.{name}": weight for name, weight in named.items()} | text_tower()


def openai_resnet() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name, shape in openai_shapes().items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 4:
            weights[name] = noise * (2 / noise[0].numel()) ** 0.5
        elif name.endswith(("running_var", "weight")):
            weights[name] = 0.5 + noise.abs() / 2
        else:
            weights[name] = 0.2 * noise
        if name.endswith("running_var"):
            weights[name.replace("running_var", "num_batches_tracked")] = torch.tensor(9)
    weights["attnpool.q_proj.weight"] = torch.ones(2, 2)
    return {f"visual.{name}": weight for name, weight in weights.items()} | text_tower()


def text_tower() -> dict[str, torch.Tensor]:
    names = ("transformer.resblocks.0.ln_1.bias", "token_embedding.weight", "ln_final.weight")
    names += ("positional_embedding", "text_projection", "logit_scale")
    return {name: torch.ones(2) for name in names}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> Encoders:
    root = tmp_path_factory.mktemp("encoders")
    options = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": BLOCKS}
    options |= {"num_attention_heads": HEADS, "image_size": 224, "patch_size": PATCH}
    folder = make_clip(root / "shallow-vit-large-patch14", **options)
    vit, rn50 = openai_vit(perturb(folder)), openai_resnet()
    file = root / "rn50.safetensors"
    save_file({k: v for k, v in rn50.items() if k.startswith("visual.")}, file)
    return Encoders(str(folder), vit, str(file), rn50)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = make_photo(rng, 400)[:270].astype(int)
    return (smooth + rng.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def features_of(encoders, photo):
    """The public encoders' features of the photo, each computed once."""
    known = {}

    def compute(backbone, layer):
        pixels = published_pixels(photo)
        if backbone == "ViT":
            return encode_vit(encoders.vit, pixels, layer)
        if backbone == "RN50":
            state = {k.removeprefix("visual."): v for k, v in encoders.rn50.items()}
            return encode_resnet(state, pixels, int(layer[-1])).float()
        resnet = features("RN50", "layer3")
        resnet = F.interpolate(resnet, (16, 16), mode="bilinear", align_corners=False)
        return torch.cat([features("ViT", layer), resnet], dim=1)

    def features(backbone, layer):
        if (backbone, layer) not in known:
            known[backbone, layer] = compute(backbone, layer)
        return known[backbone, layer]

    return features


def write(path, weights, decoder="linear", layer="layer0", **changes):
    """Save a checkpoint as the public implementation does."""
    content = {
        "model": weights,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-5}]},
        "total_steps": 12345,
        "feature_layer": layer,
        "decoder_type": decoder,
    }
    torch.save(content | changes, path)
    return path


def with_encoder(decoder: dict, encoder: dict) -> dict[str, torch.Tensor]:
    return {f"model.{name}": weight for name, weight in encoder.items()} | decoder


def linear() -> dict[str, torch.Tensor]:
    return decoder_weights("linear", "ViT", "layer0")


def blank(decoder: str, backbone: str, layer: str) -> dict[str, torch.Tensor]:
    """A decoder's weights as zeros that take no space in a file."""
    weights = {}
    with torch.device("meta"):
        for index, (kind, *sizes) in enumerate(flat_layers(decoder, backbone, layer)):
            module = {
                "convolution": lambda a, b: nn.Conv2d(a, b, 5, padding=2),
                "norm": nn.BatchNorm2d,
            }.get(kind, nn.Identity)(*sizes)
            weights |= {f"fc.{index}.{k}": v.shape for k, v in module.state_dict().items()}
    return {name: torch.zeros(()).expand(shape) for name, shape in weights.items()}


# The same logits


@pytest.mark.parametrize(
    ("decoder", "backbone", "layer"),
    [
        ("linear", "ViT", "layer0"),
        ("conv-4", "ViT+RN50", "layer0"),
        ("conv-12", "RN50", "layer3"),
        # Each backbone is among those above; all of these take most of a minute.
        pytest.param("conv-20", "ViT", "layer1", marks=pytest.mark.slow),
        pytest.param("conv-4", "RN50", "layer1", marks=pytest.mark.slow),
        pytest.param("conv-4", "RN50", "layer2", marks=pytest.mark.slow),
        pytest.param("conv-4", "ViT", "layer1", marks=pytest.mark.slow),
        pytest.param("conv-12", "ViT", "layer0", marks=pytest.mark.slow),
        pytest.param("conv-12", "ViT+RN50", "layer0", marks=pytest.mark.slow),
        pytest.param("conv-20", "ViT+RN50", "layer0", marks=pytest.mark.slow),
        pytest.param("conv-20", "RN50", "layer4", marks=pytest.mark.slow),
    ],
)
def test_logits_are_those_of_the_public_network(
    decoder, backbone, layer, encoders, photo, features_of, tmp_path, capsys
):
    weights = decoder_weights(decoder, backbone, layer)
    expected = decode(features_of(backbone, layer), weights, decoder, backbone, layer)
    assert expected.shape == (1, 1, 256, 256)
    assert expected.std() > 0.1

    # Saved with its encoder, but for fusions; an RN50 counts on, so that no file has its like.
    options = {
        "ViT": ["--encoder", encoders.folder],
        "RN50": [],
        "ViT+RN50": ["--encoder", encoders.folder, "--rn50", encoders.file],
    }[backbone]
    beside = {"ViT": encoders.vit, "RN50": encoders.rn50, "ViT+RN50": {}}[backbone]
    file = write(tmp_path / "best.pth", with_encoder(weights, beside), decoder, layer)
    output = tmp_path / "model"
    cli.main(["import", str(file), *options, "--output", str(output)])
    said = capsys.readouterr().out
    assert f"{decoder} on" in said
    assert f"{layer}, 12,345 training steps" in said
    assert f"declip-pl predict PHOTO --model {output}" in said

    checkpoint = read_checkpoint(output)
    network = load_network(checkpoint)
    with torch.no_grad():
        found = network(build_transform(Preprocessing(224))(image=photo)["image"][None])
    difference = (found - expected).abs().max().item()
    print(f"{decoder} {backbone} {layer}: {difference:.1e} of {expected.std():.2f}")
    assert difference < TOLERANCE


@pytest.mark.parametrize(
    ("decoder", "backbone", "layer"), [("linear", "ViT", "layer0"), ("conv-4", "RN50", "layer4")]
)
def test_nothing_but_rounding_differs(decoder, backbone, layer, encoders, features_of, tmp_path):
    weights = decoder_weights(decoder, backbone, layer)
    features = features_of(backbone, layer)
    decode(features, weights, decoder, backbone, layer)  # settles the statistics
    file = write(tmp_path / "best.pth", weights, decoder, layer)
    encoder, rn50 = (encoders.folder, None) if backbone == "ViT" else ("RN50", Path(encoders.file))
    import_published(file, encoder, rn50, tmp_path / "model")
    checkpoint = read_checkpoint(tmp_path / "model")
    frozen = build_encoder(checkpoint.encoder, layer, 224)
    found = load_decoder(checkpoint, frozen).double()(Features(features.double(), None))
    exact = {name: weight.double() for name, weight in weights.items()}
    expected = decode(features.double(), exact, decoder, backbone, layer, settle=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_what_is_saved_is_a_task_of_this_package(encoders, tmp_path):
    file = write(tmp_path / "best.pth", with_encoder(linear(), encoders.vit))
    import_published(file, encoders.folder, output=tmp_path / "model")
    checkpoint = read_checkpoint(tmp_path / "model")
    assert checkpoint.pooling == "mean"  # of the paper's evaluation
    assert checkpoint.trained_on is None
    assert recorded_scores(checkpoint) is None
    task = LocalizationTask(encoders.folder, "layer0", "linear", 224)
    task.load_weights(checkpoint)  # refuses another encoder, decoder or input size
    assert torch.equal(task.network.decoder.fc[0].weight, linear()["fc.0.weight"])


@pytest.mark.parametrize(("named", "expected"), [("ldm", ("ldm",)), ("ldm+lama", ("ldm", "lama"))])
def test_what_it_was_trained_on_is_what_the_user_says(named, expected, encoders, tmp_path):
    file, output = write(tmp_path / "best.pth", linear()), tmp_path / "model"
    options = ["--encoder", encoders.folder, "--output", str(output), "--generator", named]
    cli.main(["import", str(file), *options])
    found = read_checkpoint(output).trained_on
    assert found == TrainedOn(expected, "full", "", "as named at import")
    generators = ", ".join(f"`{name}`" for name in expected)
    card = (output / "README.md").read_text()
    assert f"| trained on | {generators} (as named at import) |" in card


def test_a_vits_folder_may_be_called_anything(encoders, tmp_path):
    vit = shutil.copytree(encoders.folder, tmp_path / "my+RN50_vit")
    file = write(tmp_path / "best.pth", with_encoder(linear(), encoders.vit))
    import_published(file, str(vit), output=tmp_path / "model")
    assert load_network(read_checkpoint(tmp_path / "model")).encoder.name == "my+RN50_vit"


def test_the_folder_is_named_after_the_file(encoders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import_published(write(tmp_path / "ViT_layer2_linear_ldm.pth", linear()), encoders.folder)
    assert read_checkpoint("outputs/imported/ViT_layer2_linear_ldm").decoder == "linear"


def test_an_encoder_that_is_not_in_the_checkpoint_is_on_trust(encoders, tmp_path, capsys):
    file = write(tmp_path / "best.pth", linear(), total_steps=None)
    import_published(file, encoders.folder, output=tmp_path / "model")
    said = capsys.readouterr().out
    assert "on trust" in said
    assert "an unknown number of training steps" in said


@pytest.mark.parametrize("kind", ["half", "other"])
def test_a_vit_may_be_rounded_but_not_another(kind, encoders, tmp_path):
    vit = {k: v.half() for k, v in encoders.vit.items()} if kind == "half" else encoders.vit
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    if kind == "other":
        vit = vit | {name: vit[name] + 0.01}
    file = write(tmp_path / "best.pth", with_encoder(linear(), vit))
    if kind == "half":
        import_published(file, encoders.folder, output=tmp_path / "model")
    else:
        with pytest.raises(
            UserError, match=rf"best\.pth was .*another encoder .*model\.{name} dif"
        ):
            import_published(file, encoders.folder, output=tmp_path / "model")


def test_weights_beyond_the_layer_do_not_matter(encoders, tmp_path):
    vit = encoders.vit | {"visual.transformer.resblocks.1.ln_1.bias": torch.zeros(1)}
    file = write(tmp_path / "best.pth", with_encoder(linear(), vit))
    import_published(file, encoders.folder, output=tmp_path / "model")
    assert read_checkpoint(tmp_path / "model").identity.layer == "layer0"


def test_rn50_and_the_fusion_look_the_same_at_layer4(encoders, tmp_path):
    weights = blank("conv-4", "RN50", "layer4")
    file = write(tmp_path / "best.pth", weights, "conv-4", "layer4")
    with pytest.raises(
        UserError, match="looks the same for ViT\\+RN50 and RN50: say --encoder RN50"
    ):
        import_published(file, output=tmp_path / "model")
    import_published(file, "RN50", Path(encoders.file), output=tmp_path / "model")
    assert read_checkpoint(tmp_path / "model").identity.name == "rn50"


# Everything else is refused


def not_tensors(path):
    torch.save({"model": nn.Linear(2, 2)}, path)


def truncated(path):
    content = write(path, linear()).read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda p: None, "there is no checkpoint {path}"),
        (lambda p: p.mkdir(), "there is no checkpoint {path}"),
        (lambda p: p.write_text("no weights"), "{path}: no checkpoint, or"),
        (lambda p: p.write_bytes(b""), "{path}: no checkpoint, or"),
        (truncated, "{path}: no checkpoint, or a damaged one"),
        (not_tensors, "{path}: .*pickled objects other than tensors"),
        (lambda p: torch.save([1], p), "{path}: no checkpoint of the public implementation"),
        (
            lambda p: torch.save({"model": linear(), "decoder_type": "linear"}, p),
            "{path}: no checkpoint of the public .* dict with model, feature_layer, decoder_type",
        ),
        (
            lambda p: torch.save({"encoder": {}, "state_dict": {}}, p),
            "{path} is a checkpoint of declip-pl already: declip-pl predict PHOTO --model {path}",
        ),
        (lambda p: write(p, linear(), scaler={}), "{path}: unknown entries scaler"),
        (lambda p: write(p, [1, 2]), "{path}: its entry 'model' is no state dict"),
        (lambda p: write(p, {"fc.0.weight": 1.0}), "{path}: its entry 'model' is no state dict"),
        (
            lambda p: write(p, linear() | {"head.weight": torch.ones(1)}),
            "{path}: head.weight belong to no decoder and no encoder",
        ),
        (
            lambda p: write(p, linear() | {"fc.1.weight": torch.ones(1)}),
            "{path}: linear on layer0: no decoder for ViT, fc.1.weight left over",
        ),
        (
            lambda p: write(p, {"fc.0.weight": torch.ones(1, WIDTH)}),
            "{path}: linear on layer0: no decoder for ViT, fc.0.bias missing",
        ),
        (
            lambda p: write(p, {"fc.0.weight": torch.ones(1, 768), "fc.0.bias": torch.ones(1)}),
            "{path}: linear on layer0: no decoder for ViT, fc.0.weight of another shape",
        ),
        (
            lambda p: write(p, blank("conv-4", "ViT", "layer0"), "conv-12"),
            "{path}: conv-12 on layer0: no decoder for .* missing",
        ),
        (
            # The public implementation skips upsamplings by the name of the layer, also the ViT's.
            lambda p: write(p, blank("conv-4", "ViT+RN50", "layer1"), "conv-4", "layer1"),
            "{path}: conv-4 on layer1: no decoder for ViT\\+RN50, fc.",
        ),
        (
            lambda p: write(p, linear() | {"att1.ln_1.bias": torch.ones(1)}, "attention"),
            "{path}: attention decoders are not imported: .* never trained",
        ),
        (
            lambda p: write(p, linear(), "conv-8"),
            "{path}: decoder 'conv-8', expected one of linear",
        ),
        (lambda p: write(p, linear(), ["linear"]), "{path}: decoder \\['linear'\\], expected"),
        (lambda p: write(p, linear(), layer=None), "{path}: feature layer None, expected layer0"),
        (lambda p: write(p, linear(), layer="xceptionnet"), "{path}: feature layer 'xceptionnet'"),
        (
            lambda p: write(p, linear(), layer="layer24"),
            "{path}: linear on layer24 of .* not exist",
        ),
        (
            lambda p: write(p, linear(), layer="layer9"),
            "no 'layer9'; choose one of layer0 to layer1",
        ),
        (
            lambda p: write(p, linear() | {"model.block1.rep.0.weight": torch.ones(1)}),
            "{path}: its encoder is neither .*model.block1.rep.0.weight",
        ),
    ],
)
def test_what_is_no_such_checkpoint(content, message, encoders, tmp_path):
    path = tmp_path / "best.pth"
    content(path)
    with pytest.raises(UserError, match=message.replace("{path}", re.escape(str(path)))):
        import_published(path, encoders.folder, output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def change(weights, name, to=None):
    changed = {k: v for k, v in weights.items() if k != name}
    return changed if to is None else changed | {name: to}


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("visual.ln_pre.bias", None, "visual.ln_pre.bias missing"),
        ("visual.ln_mid.bias", torch.ones(1), "visual.ln_mid.bias left over"),
        ("visual.conv1.weight", torch.ones(1), "visual.conv1.weight of another shape"),
    ],
)
def test_every_weight_of_a_vit_is_accounted_for(name, to, message, encoders, tmp_path):
    vit = change(encoders.vit, name, to)
    file = write(tmp_path / "best.pth", with_encoder(linear(), vit))
    with pytest.raises(UserError, match=rf"best\.pth: its encoder up to layer0 is not .*{message}"):
        import_published(file, encoders.folder, output=tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("visual.layer2.3.conv3.weight", None, "visual.layer2.3.conv3.weight missing"),
        ("visual.layer2.4.conv1.weight", torch.ones(1), "visual.layer2.4.conv1.weight left over"),
        ("visual.bn1.bias", torch.ones(1), "visual.bn1.bias of another shape"),
        ("logit_bias", torch.ones(1), "logit_bias left over"),
    ],
)
def test_every_weight_of_an_rn50_is_accounted_for(name, to, message, encoders, tmp_path):
    weights = with_encoder(blank("conv-4", "RN50", "layer2"), change(encoders.rn50, name, to))
    file = write(tmp_path / "best.pth", weights, "conv-4", "layer2")
    with pytest.raises(UserError, match=rf"best\.pth: its encoder up to layer2 is not .*{message}"):
        import_published(file, output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_another_encoder(encoders, clip, tmp_path):
    def imported(weights, encoder=None, rn50=None, **saved):
        file = write(tmp_path / "best.pth", weights, **saved)
        import_published(file, encoder, rn50, tmp_path / "model")

    with pytest.raises(UserError, match=r"best\.pth was .*1024 channels, 16 x 16, not on 64, 14"):
        imported(linear(), str(clip))
    with pytest.raises(UserError, match=r"best\.pth: linear on layer0 of RN50 does not exist"):
        imported(linear(), "RN50")
    with pytest.raises(
        UserError, match=r"linear on layer0 of RN50 .*; the checkpoint holds a RN50"
    ):
        imported(with_encoder(linear(), encoders.rn50))
    with pytest.raises(UserError, match=r"best\.pth: conv-4 on layer2: no decoder for RN50, "):
        imported(blank("conv-4", "ViT", "layer2"), "RN50", decoder="conv-4", layer="layer2")
    with pytest.raises(UserError, match=r"best\.pth has no use for --rn50: .* on a ViT alone"):
        imported(linear(), encoders.folder, Path(encoders.file))
    with pytest.raises(UserError, match=r"best\.pth has no use for --rn50: it holds its own RN50"):
        weights = with_encoder(blank("conv-4", "RN50", "layer2"), encoders.rn50)
        imported(weights, None, Path(encoders.file), decoder="conv-4", layer="layer2")
    for name in (f"{encoders.folder}+RN50", f"RN50:{encoders.file}"):
        with pytest.raises(UserError, match="give the ViT or RN50 alone; RN50's file is --rn50"):
            imported(linear(), name)


def test_weights_that_cannot_be_reached(tmp_path, monkeypatch, error_of):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file = write(tmp_path / "best.pth", linear())
    error = error_of("import", str(file), "--output", str(tmp_path / "model"))
    assert f"cannot reach the Hugging Face hub for {VIT}: connect, or pass a local folder" in error


@pytest.mark.parametrize("name", ["config.json", "rn50.safetensors", "notes.txt"])
def test_nothing_is_overwritten(name, encoders, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_text("mine")
    file = write(tmp_path / "best.pth", linear())
    with pytest.raises(UserError, match=r"model holds something already; .*--output"):
        import_published(file, encoders.folder, output=tmp_path / "model")
    assert (tmp_path / "model" / name).read_text() == "mine"
