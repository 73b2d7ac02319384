"""The frozen encoders: the paper's layer numbers, and that nothing ever changes them."""

import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import make_clip
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from declip_pl.errors import UserError
from declip_pl.model.encoder import build_encoder
from declip_pl.model.features import FeatureShape
from declip_pl.model.frozen import fingerprint
from declip_pl.model.network import POOLINGS, DeCLIP, image_logit, image_score
from declip_pl.model.resnet import CLIPResNet


@pytest.fixture(scope="module")
def rn50(tmp_path_factory):
    """A file of random RN50 weights with OpenAI's names."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("rn50") / "rn50.safetensors"
    state = {f"visual.{name}": value for name, value in CLIPResNet("layer4").state_dict().items()}
    save_file(state, path)
    return path


@pytest.mark.parametrize("number", range(4))
def test_layer_n_is_hidden_state_n_plus_one(clip, number):
    pixels = torch.randn(2, 3, 64, 64)
    full = CLIPVisionModel.from_pretrained(clip).eval()
    with torch.no_grad():
        expected = full(pixels, output_hidden_states=True).hidden_states[number + 1]
    features = build_encoder(str(clip), f"layer{number}", 64)(pixels)
    assert features.grid.shape == (2, 64, 4, 4)
    torch.testing.assert_close(features.cls, expected[:, 0])
    torch.testing.assert_close(features.grid.flatten(2).transpose(1, 2), expected[:, 1:])


def test_last_layer_is_taken_before_the_final_norm(clip):
    """The hidden state and not the normed output, which is what users of CLIP usually read."""
    encoder = build_encoder(str(clip), "layer3", 64)
    assert encoder.shape == FeatureShape(64, 4)
    full = CLIPVisionModel.from_pretrained(clip).eval()
    torch.nn.init.constant_(full.post_layernorm.weight, 7.0)  # would show if it were applied
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = full(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(pixels).cls, expected)


def test_patches_keep_their_place(clip):
    """Changing the photo's top right corner changes the top right patch most."""
    encoder = build_encoder(str(clip), "layer0", 64)
    photo = torch.zeros(1, 3, 64, 64)
    corner = photo.clone()
    corner[..., :16, 48:] = torch.randn(16, 16)
    change = (encoder(corner).grid - encoder(photo).grid).norm(dim=1)[0]
    assert divmod(int(change.argmax()), 4) == (0, 3)


def test_the_hubs_whole_clip_models_load(tmp_path):
    """What the hub holds is image and text tower together, under other names."""
    vision = CLIPVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                              num_attention_heads=2, image_size=64, patch_size=16)  # fmt: skip
    text = CLIPTextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                          num_attention_heads=2, vocab_size=100)  # fmt: skip
    whole = CLIPModel(CLIPConfig(vision_config=vision.to_dict(), text_config=text.to_dict()))
    whole.eval().save_pretrained(tmp_path / "clip")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = whole.vision_model(pixels, output_hidden_states=True).hidden_states[1][:, 0]
    torch.testing.assert_close(
        build_encoder(str(tmp_path / "clip"), "layer0", 64)(pixels).cls, expected
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [({"x": torch.zeros(2)}, "69 weights are missing"), (None, "can't be loaded")],
)
def test_weights_that_do_not_fit_are_never_filled_in(clip, tmp_path, content, message):
    folder = shutil.copytree(clip, tmp_path / "bad")
    if content:
        save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match=message):
        build_encoder(str(folder), "layer0", 64)


def test_no_block_beyond_the_layer_is_built(clip):
    assert len(build_encoder(str(clip), "layer1", 64).model.encoder.layers) == 2


def test_other_input_sizes_interpolate_position_embeddings(clip):
    assert build_encoder(str(clip), "layer1", 96)(torch.randn(1, 3, 96, 96)).grid.shape[-1] == 6
    with pytest.raises(UserError, match="no multiple of the 16 px patches"):
        build_encoder(str(clip), "layer1", 100)


@pytest.mark.parametrize("layer", ["layer4", "layer-1", "20", "layers", ""])
def test_layers_that_do_not_exist(clip, layer):
    with pytest.raises(UserError, match="choose one of layer0 to layer3"):
        build_encoder(str(clip), layer, 64)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("layer1+layer4", "has no 'layer4'; choose one of layer0 to layer3"),
        ("layer1+", "has no ''"),
        ("+layer1", "has no ''"),
        ("layer1+2", "has no '2'"),
        ("layer1,layer2", "has no 'layer1,layer2'"),
        ("layer1 + layer2", "has no 'layer1 '"),
        ("layer1+layer2+layer1", "names a layer twice"),
        ("layer1+layer01", "names a layer twice"),
    ],
)
def test_several_layers_that_do_not_exist(clip, layer, message):
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        build_encoder(str(clip), layer, 64)
    assert "\n" not in str(raised.value)


def test_encoders_of_one_layer_refuse_several(rn50):
    with pytest.raises(UserError, match=r"RN50 has no 'layer1\+layer2'; choose one of"):
        build_encoder(f"RN50:{rn50}", "layer1+layer2", 64)
    with pytest.raises(UserError, match=r"pixels has no 'none\+none'; say layer: none"):
        build_encoder("pixels", "none+none", 64)


def test_frozen_whatever_is_called(clip, rn50):
    network = DeCLIP.build(f"{clip}+RN50:{rn50}", "layer1", "linear", 64)
    before = {k: v.clone() for k, v in network.encoder.state_dict().items()}
    network.train()
    assert network.training and network.decoder.training
    assert not any(module.training for module in network.encoder.modules())
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        network(torch.randn(2, 3, 64, 64)).square().mean().backward()
        optimiser.step()
    after = network.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in network.encoder.parameters())


def test_resnet_encoder(rn50):
    encoder = build_encoder(f"RN50:{rn50}", "layer3", 64)
    features = encoder(torch.randn(1, 3, 64, 64))
    assert features.grid.shape == (1, 1024, 4, 4) and features.cls is None
    assert (encoder.shape, encoder.name) == (FeatureShape(1024, 4, always_resizes=True), "rn50")
    with pytest.raises(UserError, match="choose one of layer1"):
        build_encoder(f"RN50:{rn50}", "layer20", 64)


def test_fusion_concatenates_vit_and_resized_resnet(clip, rn50):
    pixels = torch.randn(1, 3, 64, 64)
    fused = build_encoder(f"{clip}+RN50:{rn50}", "layer1", 64)(pixels).grid
    vit = build_encoder(str(clip), "layer1", 64)(pixels).grid
    resnet = build_encoder(f"RN50:{rn50}", "layer3", 64)(pixels).grid
    assert fused.shape == (1, 64 + 1024, 4, 4)
    torch.testing.assert_close(fused, torch.cat([vit, resnet], 1))


def test_the_fusion_takes_several_layers_of_the_vit(clip, rn50):
    pixels, several = torch.randn(1, 3, 64, 64), "layer2+layer0"
    encoder = build_encoder(f"{clip}+RN50:{rn50}", several, 64)
    vit = build_encoder(str(clip), several, 64)(pixels).grid
    resnet = build_encoder(f"RN50:{rn50}", "layer3", 64)(pixels).grid
    torch.testing.assert_close(encoder(pixels).grid, torch.cat([vit, resnet], 1))
    assert encoder.shape == FeatureShape(2 * 64 + 1024, 4, always_resizes=True)


def test_two_threads_share_an_encoder_of_several_layers(clip):
    """Each waits for the other before each layer."""
    encoder, meet = build_encoder(str(clip), "layer0+layer1", 64), threading.Barrier(2)
    photos = [torch.randn(1, 3, 64, 64) for _ in range(2)]
    expected = [encoder(photo).grid for photo in photos]

    def wait(*_):
        meet.wait(30)

    for layer in encoder.model.encoder.layers:
        layer.register_forward_pre_hook(wait)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda photo: encoder(photo).grid, photos))
    assert all(map(torch.equal, found, expected))


def test_layers_tell_encoders_of_the_same_weights_apart(clip):
    names = ["layer2", "layer0+layer2", "layer1+layer2", "layer2+layer1"]
    identities = [build_encoder(str(clip), name, 64).identity for name in names]
    assert len({identity.sha256 for identity in identities}) == 1
    for ours in identities:
        for theirs in identities:
            if ours is theirs:
                ours.check(theirs)
                continue
            message = (
                rf"trained on .* {re.escape(ours.layer)} \(.*here is .*{re.escape(theirs.layer)}"
            )
            with pytest.raises(UserError, match=message):
                ours.check(theirs)


def test_fingerprint_tells_encoders_apart(clip, tmp_path):
    same = fingerprint(build_encoder(str(clip), "layer1", 64))
    assert same == fingerprint(build_encoder(str(clip), "layer1", 64))
    assert same != fingerprint(build_encoder(str(clip), "layer2", 64))
    other = make_clip(tmp_path / "other", seed=1)
    assert same != fingerprint(build_encoder(str(other), "layer1", 64))


@pytest.mark.parametrize("kind", ["vit", "layers", "resnet", "fusion"])
def test_offloaded_weights_come_back_when_they_are_needed(clip, rn50, kind):
    name, layer = {
        "vit": (str(clip), "layer1"),
        "layers": (str(clip), "layer2+layer0"),
        "resnet": (f"RN50:{rn50}", "layer3"),
        "fusion": (f"{clip}+RN50:{rn50}", "layer1"),
    }[kind]
    encoder, pixels = build_encoder(name, layer, 64), torch.randn(1, 3, 64, 64)
    before, weights = encoder(pixels).grid, fingerprint(encoder)
    encoder.offload()
    assert sum(tensor.numel() for tensor in encoder.state_dict().values()) == 0
    assert encoder.sha256 == weights  # still known
    assert torch.equal(encoder(pixels).grid, before) and fingerprint(encoder) == weights
    assert not any(weight.requires_grad for weight in encoder.parameters())
    encoder.train()
    assert not any(module.training for module in encoder.modules())


def test_other_weights_in_the_place_of_offloaded_ones_are_refused(tmp_path):
    encoder = build_encoder(str(make_clip(tmp_path / "clip")), "layer1", 64)
    encoder.offload()
    make_clip(tmp_path / "clip", seed=1)
    for _ in range(2):  # nor does a second try get by with them
        with pytest.raises(UserError, match=r"the weights of folder .*clip have changed meanwhile"):
            encoder(torch.randn(1, 3, 64, 64))


def test_pooling():
    logits = torch.tensor([[[[0.0, 2.0], [-2.0, 4.0]]]])
    assert image_logit(logits).tolist() == [1.0]
    probabilities = logits.sigmoid()
    expected = {"mean": probabilities.mean(), "mean-logit": torch.tensor(1.0).sigmoid(),
                "max": probabilities.max()}  # fmt: skip
    for pooling, value in expected.items():
        torch.testing.assert_close(image_score(logits, pooling), value.reshape(1))


def test_top_pooling_averages_the_three_percent_that_are_highest():
    logits = torch.linspace(-5, 5, 100)[torch.randperm(100)].view(1, 1, 10, 10)
    expected = torch.linspace(-5, 5, 100)[-3:].sigmoid().mean().reshape(1)
    torch.testing.assert_close(image_score(logits, "top"), expected)


def test_every_pooling_scores_between_0_and_1():
    logits = 20 * torch.randn(4, 1, 256, 256)
    for pooling in POOLINGS:
        scores = image_score(logits, pooling)
        assert scores.shape == (4,) and ((scores >= 0) & (scores <= 1)).all()
