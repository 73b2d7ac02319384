"""Vision towers of every family against transformers' own run of the same weights."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers as tf
from conftest import make_clip

from declip_pl.errors import UserError
from declip_pl.model.encoder import build_encoder
from declip_pl.model.features import CLIP_MEAN, CLIP_STD, FeatureShape
from declip_pl.model.frozen import fingerprint

WIDE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
}
NAFLEX = {key: value for key, value in WIDE.items() if key != "image_size"} | {"num_patches": 16}
MAE = WIDE | {
    "mask_ratio": 0.0,
    "decoder_num_hidden_layers": 1,
    "decoder_hidden_size": 32,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}
DINO = {key: value for key, value in WIDE.items() if key != "intermediate_size"}
STAGES = {"hidden_sizes": [8, 12, 16, 32], "depths": [1, 2, 1, 1], "image_size": 64}

HALF, IMAGENET = [(0.5,) * 3] * 2, [(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)]
CLIP = [CLIP_MEAN, CLIP_STD]

FAMILIES = {
    "clip": (tf.CLIPVisionModel, tf.CLIPVisionConfig(**WIDE), 1, CLIP),
    "siglip": (tf.SiglipVisionModel, tf.SiglipVisionConfig(**WIDE), 0, HALF),
    "siglip2": (tf.Siglip2VisionModel, tf.Siglip2VisionConfig(**NAFLEX), 0, HALF),
    "dinov2": (tf.Dinov2Model, tf.Dinov2Config(**DINO), 1, IMAGENET),
    "dinov2-registers": (
        tf.Dinov2WithRegistersModel,
        tf.Dinov2WithRegistersConfig(**DINO, num_register_tokens=4),
        5,
        IMAGENET,
    ),
    "dinov3": (tf.DINOv3ViTModel, tf.DINOv3ViTConfig(**WIDE, num_register_tokens=4), 5, IMAGENET),
    "vit": (tf.ViTModel, tf.ViTConfig(**WIDE), 1, HALF),
    "mae": (tf.ViTMAEForPreTraining, tf.ViTMAEConfig(**MAE), 1, IMAGENET),
    "convnext": (tf.ConvNextModel, tf.ConvNextConfig(**STAGES), 0, IMAGENET),
}
"""A family's class, a small configuration, the tokens before the patches, and mean and std."""

TRANSFORMERS = [name for name in FAMILIES if name != "convnext"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save a family's small model, every weight of which matters, and return its folder."""
    made = {}

    def save(family):
        if family not in made:
            torch.manual_seed(0)
            tower, config, *_ = FAMILIES[family]
            model = tower(config).eval()
            for weight in model.parameters():
                weight.data += 0.1 * torch.randn_like(weight)
            made[family] = tmp_path_factory.mktemp("towers") / f"tiny-{family}"
            model.save_pretrained(made[family])
        return made[family]

    return save


def as_rows(pixels, patch=16):
    """SigLIP 2's input, one patch at a time."""
    rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
    flat = [
        pixels[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        .movedim(1, -1)
        .flatten(1)
        for row in range(rows)
        for column in range(columns)
    ]
    return {
        "pixel_values": torch.stack(flat, dim=1),
        "pixel_attention_mask": torch.ones(len(pixels), rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * len(pixels)),
    }


def states(family, folder, pixels):
    """Run the whole model and return every block's output, the last one before the final norm."""
    model = FAMILIES[family][0].from_pretrained(folder).eval()
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    last = []
    blocks[-1].register_forward_hook(lambda *call: last.append(call[-1]))
    inputs = as_rows(pixels) if family == "siglip2" else {"pixel_values": pixels}
    if family == "mae":  # in order, none masked
        inputs["noise"] = torch.arange(16.0).expand(len(pixels), -1)
    with torch.no_grad():
        found = list(model(**inputs, output_hidden_states=True).hidden_states)
    assert len(found) == len(blocks) + 1
    return [*found[:-1], last[0][0] if isinstance(last[0], tuple) else last[0]]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("family", TRANSFORMERS)
def test_features_are_the_hidden_states_of_the_whole_model(folder, family, number):
    pixels = torch.randn(2, 3, 64, 64)
    expected = states(family, folder(family), pixels)
    encoder = build_encoder(str(folder(family)), f"layer{number}", 64)
    features, before = encoder(pixels), FAMILIES[family][2]
    assert expected[number + 1].shape[1] == before + 16
    assert encoder.shape == FeatureShape(32, 4) and features.grid.shape == (2, 32, 4, 4)
    for row, column in [(0, 0), (0, 3), (1, 2), (3, 3)]:
        theirs = expected[number + 1][:, before + 4 * row + column]
        torch.testing.assert_close(features.grid[:, :, row, column], theirs, atol=1e-4, rtol=1e-4)
    if before:
        cls = expected[number + 1][:, 0]
        torch.testing.assert_close(features.cls, cls, atol=1e-4, rtol=1e-4)
    else:
        assert features.cls is None
    assert not torch.allclose(expected[number + 1], expected[number], atol=1e-2)


@pytest.mark.parametrize("layers", [(0, 2), (2, 0, 1), (1, 0)])
@pytest.mark.parametrize("family", TRANSFORMERS)
def test_features_of_several_layers_are_those_of_each_bit_for_bit(folder, family, layers):
    pixels, spec = torch.randn(2, 3, 64, 64), str(folder(family))
    encoder = build_encoder(spec, "+".join(f"layer{number}" for number in layers), 64)
    passes = []
    encoder.model.register_forward_hook(lambda *call: passes.append(call))
    found = encoder(pixels)
    assert len(passes) == 1
    each = [build_encoder(spec, f"layer{number}", 64) for number in layers]
    assert torch.equal(found.grid, torch.cat([one(pixels).grid for one in each], dim=1))
    if FAMILIES[family][2]:
        assert torch.equal(found.cls, torch.cat([one(pixels).cls for one in each], dim=1))
    else:
        assert found.cls is None
    assert encoder.shape == FeatureShape(32 * len(layers), 4)
    deepest = each[layers.index(max(layers))]
    assert encoder.sha256 == deepest.sha256  # nothing beyond it is there
    assert encoder.arithmetic == deepest.arithmetic


@pytest.mark.parametrize("layer", ["layer0+layer1", "layer3+layer1+layer2"])
def test_maps_of_different_sizes_are_refused(folder, layer):
    with pytest.raises(UserError, match=rf"maps of {re.escape(layer)} differ in size") as raised:
        build_encoder(str(folder("convnext")), layer, 64)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("number", range(4))
def test_features_are_the_stages_of_a_convnext(folder, number):
    pixels = torch.randn(2, 3, 64, 64)
    expected = states("convnext", folder("convnext"), pixels)[number + 1]
    encoder = build_encoder(str(folder("convnext")), f"layer{number}", 64)
    features = encoder(pixels)
    assert features.cls is None
    assert encoder.shape == FeatureShape(STAGES["hidden_sizes"][number], 16 // 2**number)
    torch.testing.assert_close(features.grid, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_changed_patches_stand_where_the_photo_changed(folder, family):
    """Before the first block mixes them, hence by how much each one changes."""
    encoder = build_encoder(str(folder(family)), "layer0", 64)
    photo = torch.zeros(1, 3, 64, 64)
    corner = photo.clone()
    corner[..., :16, 48:] = 3 * torch.randn(3, 16, 16)
    change = (encoder(corner).grid - encoder(photo).grid).norm(dim=1)[0]
    side = change.shape[-1]
    row, column = divmod(int(change.argmax()), side)
    assert row < side // 4 and column >= 3 * side // 4


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_and_std_are_the_familys_or_the_models_own(folder, family, tmp_path):
    encoder = build_encoder(str(folder(family)), "layer0", 64)
    assert [encoder.preprocessing.mean, encoder.preprocessing.std] == FAMILIES[family][3]
    shutil.copytree(folder(family), own := tmp_path / "own")
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": 999}
    (own / "preprocessor_config.json").write_text(json.dumps(said))
    encoder = build_encoder(str(own), "layer0")
    assert encoder.preprocessing.mean == (0.1, 0.2, 0.3)
    assert encoder.preprocessing.std == (0.4, 0.5, 0.6)


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_a_damaged_preprocessor_config_is_named(clip, tmp_path, content):
    shutil.copytree(clip, own := tmp_path / "own")
    (own / "preprocessor_config.json").write_text(content)
    with pytest.raises(UserError, match=r"own/preprocessor_config\.json is damaged"):
        build_encoder(str(own), "layer0")


def test_a_family_without_known_statistics_needs_its_own(tmp_path):
    options = {key: value for key, value in WIDE.items() if key != "num_hidden_layers"}
    model = tf.DeiTModel(tf.DeiTConfig(**options, num_hidden_layers=2))
    model.save_pretrained(tmp_path / "deit")
    with pytest.raises(UserError, match=r"no mean and std are known for deit; put one there"):
        build_encoder(str(tmp_path / "deit"), "layer0")


@pytest.mark.parametrize("family", FAMILIES)
def test_photos_come_in_at_the_models_own_size(folder, family):
    assert build_encoder(str(folder(family)), "layer0").preprocessing.image_size == 64


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "convnext"])
def test_other_sizes(folder, family):
    encoder = build_encoder(str(folder(family)), "layer1", 96)
    assert encoder.shape == FeatureShape(32, 6)
    grid = encoder(torch.randn(2, 3, 96, 96)).grid
    assert grid.shape == (2, 32, 6, 6) and grid.isfinite().all()
    with pytest.raises(UserError, match="no multiple of the 16 px patches"):
        build_encoder(str(folder(family)), "layer1", 100)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_start_has_the_same_architecture_and_is_the_same_twice(folder, family):
    spec = {
        "class_path": "transformers",
        "init_args": {"name": str(folder(family)), "init": "random"},
    }
    trained = build_encoder(str(folder(family)), "layer1", 64)
    before = torch.random.get_rng_state()
    first, second = (build_encoder(spec, "layer1", 64) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)  # of the run's own draws none is taken
    assert first.sha256 == second.sha256 != trained.sha256
    shapes = [{k: v.shape for k, v in e.state_dict().items()} for e in (first, trained)]
    assert shapes[0] == shapes[1] and first.shape == trained.shape
    assert first.arithmetic == trained.arithmetic
    assert first.preprocessing == trained.preprocessing
    assert first.name == f"tiny-{family}-random" and "random start" in first.source
    pixels = torch.randn(1, 3, 64, 64)
    grid = first(pixels).grid
    assert not torch.allclose(grid, trained(pixels).grid, atol=1e-2)
    first.offload()
    assert torch.equal(first(pixels).grid, grid)


def test_init_is_one_of_two_words(clip):
    spec = {"class_path": "transformers", "init_args": {"name": str(clip), "init": "zero"}}
    with pytest.raises(UserError, match="init is pretrained or random, not 'zero'"):
        build_encoder(spec, "layer1", 64)


def test_a_whole_siglip_loads(tmp_path):
    """What the hub holds is image and text tower together."""
    text = {key: WIDE[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")}
    text |= {"num_hidden_layers": 1, "vocab_size": 50, "projection_size": 32}
    config = tf.SiglipConfig(text_config=text, vision_config=WIDE)
    whole = tf.SiglipModel(config).eval()
    whole.save_pretrained(tmp_path / "siglip")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        states_ = whole.vision_model(pixels, output_hidden_states=True).hidden_states
    for init in ("pretrained", "random"):
        spec = {"class_path": "transformers", "init_args": {"name": str(tmp_path / "siglip")}}
        spec["init_args"]["init"] = init
        encoder = build_encoder(spec, "layer1")
        assert encoder.preprocessing.image_size == 64 and encoder.shape == FeatureShape(32, 4)
        same = torch.allclose(encoder(pixels).grid.flatten(2).mT, states_[2], atol=1e-4, rtol=1e-4)
        assert same == (init == "pretrained")


def test_gelu_in_place_of_quick_gelu_is_another_encoder(clip, tmp_path):
    shutil.copytree(clip, other := tmp_path / clip.name)
    config = json.loads((other / "config.json").read_text())
    assert config["hidden_act"] == "quick_gelu"
    (other / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    ours, theirs = (build_encoder(str(path), "layer1", 64) for path in (clip, other))
    assert ours.sha256 == theirs.sha256 == fingerprint(theirs)
    ours.identity.check(build_encoder(str(clip), "layer1", 64).identity)  # fits
    message = r"another encoder.* here is .* with hidden_act gelu in place of quick_gelu"
    with pytest.raises(UserError, match=message):
        ours.identity.check(theirs.identity)


def test_other_weights_are_another_encoder(clip, tmp_path):
    other = build_encoder(str(make_clip(tmp_path / "other", seed=1)), "layer1", 64)
    ours = build_encoder(str(clip), "layer1", 64)
    with pytest.raises(UserError, match=r"trained on tiny-clip layer1 .*, here is other layer1"):
        ours.identity.check(other.identity)


def test_models_without_blocks_and_without_descriptions_are_named(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text('{"model_type": "no-such-model"}')
    (tmp_path / "none" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="none describes no model of transformers"):
        build_encoder(str(tmp_path / "none"), "layer0")


def unshuffled(pixels):
    """The pixels of each 16 x 16 patch, channel by channel, row by row."""
    photo = pixels.numpy()
    count, _, height, width = photo.shape
    out = np.zeros((count, 768, height // 16, width // 16), np.float32)
    for row in range(height // 16):
        for column in range(width // 16):
            patch = photo[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            out[:, :, row, column] = patch.reshape(count, -1)
    return torch.from_numpy(out)


def test_pixels_are_a_photos_own(tmp_path):
    pixels = torch.randn(2, 3, 64, 96)
    encoder = build_encoder("pixels", "none", 64)
    features = encoder(pixels[..., :64])
    assert torch.equal(features.grid, unshuffled(pixels[..., :64])) and features.cls is None
    assert encoder.shape == FeatureShape(768, 4) and encoder.name == "pixels"
    assert build_encoder("pixels", "none").preprocessing.image_size == 224
    with pytest.raises(UserError, match="has no 'layer3'; say layer: none"):
        build_encoder("pixels", "layer3")


OWN = """
import torch
from torch import nn
from declip_pl.model.features import Features

class Tiny(nn.Module):
    mean = (0.1, 0.2, 0.3)
    std = [0.4, 0.5, 0.6]
    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 8, 8)
        self.drop = nn.Dropout(0.5)
    def forward(self, pixels):
        grid = self.drop(self.conv(pixels))
        return Features(grid, grid.mean((2, 3)))

class Plain(nn.Module):
    def forward(self, pixels):
        return pixels[:, :, ::4, ::4]

class Flat(nn.Module):
    def forward(self, pixels):
        return pixels.flatten(1)

class NoModule: ...
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_encoders.py").write_text(OWN)
    return tmp_path / "own_encoders.py"


def test_an_encoder_of_ones_own(own, monkeypatch):
    spec = {"class_path": "own_encoders.Tiny", "init_args": {"width": 16}}
    with pytest.raises(UserError, match=r"own_encoders\.Tiny is code outside.*DECLIP_PARTS"):
        build_encoder(spec, "none", 64)
    monkeypatch.setenv("DECLIP_PARTS", str(own))
    encoder = build_encoder(spec, "none", 64)
    assert (encoder.shape, encoder.name) == (FeatureShape(16, 8), "tiny")
    assert (encoder.preprocessing.mean, encoder.preprocessing.std) == (
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
    )
    assert not encoder.model.drop.training and not any(
        p.requires_grad for p in encoder.parameters()
    )
    pixels = torch.randn(2, 3, 64, 64)
    features = encoder.train()(pixels)
    conv = encoder.model.conv
    torch.testing.assert_close(
        features.grid, torch.nn.functional.conv2d(pixels, conv.weight, conv.bias, 8)
    )
    torch.testing.assert_close(features.cls, features.grid.mean((2, 3)))
    again = build_encoder(spec, "none", 64)
    again.identity.check(encoder.identity)
    encoder.offload()
    torch.testing.assert_close(encoder(pixels).grid, features.grid)
    narrow = build_encoder("own_encoders.Tiny", "none", 64)
    assert narrow.shape == FeatureShape(8, 8)
    with pytest.raises(UserError, match="belongs to another encoder"):
        narrow.identity.check(encoder.identity)
    assert build_encoder("own_encoders.Plain", "none", 64).preprocessing.mean == CLIP_MEAN
    with pytest.raises(UserError, match=r"flat: expected \[B, C, h, h\]"):
        build_encoder({"class_path": "own_encoders.Flat"}, "none", 64)
    with pytest.raises(UserError, match=r"own_encoders\.NoModule is no torch\.nn\.Module"):
        build_encoder({"class_path": "own_encoders.NoModule"}, "none", 64)


@pytest.mark.parametrize("name", ["RN50_mine", "a+RN50", "a+RN50:b/tower", "RN50", "RN50:x"])
def test_a_folder_is_a_folder_whatever_it_is_called(clip, tmp_path, name, monkeypatch):
    shutil.copytree(clip, tmp_path / name)
    pixels = torch.randn(1, 3, 64, 64)
    expected = build_encoder(str(clip), "layer1", 64)(pixels).grid
    encoder = build_encoder(str(tmp_path / name), "layer1", 64)
    assert encoder.name == name.rpartition("/")[2]
    torch.testing.assert_close(encoder(pixels).grid, expected)
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(build_encoder(name, "layer1", 64)(pixels).grid, expected)
