"""The decoder on features relative to their photo: centring, dropout, and what it is built from."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from localizer_example import checkpoint_of
from torch import nn

from declip_pl import Localizer
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import save
from declip_pl.model.decoder import build_decoder
from declip_pl.model.features import Features, FeatureShape
from declip_pl.training.task import LocalizationTask

THREE = FeatureShape(6, 2, layers=3)


class Seen(nn.Module):
    """Stands in for the decoder inside and keeps what it was given."""

    def forward(self, features):
        self.grid, self.cls = features
        return torch.zeros(len(self.grid), 1, 256, 256)


def relative(shape=THREE, **init_args):
    return build_decoder({"class_path": "relative", "init_args": init_args}, shape)


def given_to(decoder, grid, cls=None):
    """Return what the decoder inside gets."""
    decoder.decoder = Seen()
    decoder(Features(grid, cls))
    return decoder.decoder.grid


def factors(grid, **init_args):
    """Return by how much training scales each channel ``[B, C]`` of centred features."""
    decoder = relative(FeatureShape(grid.shape[1], grid.shape[2], layers=3), **init_args)
    centred = grid - grid.mean((2, 3), keepdim=True)
    torch.manual_seed(0)
    ratios = (given_to(decoder.train(), grid) / centred).flatten(2)
    torch.testing.assert_close(ratios, ratios[..., :1].expand_as(ratios))  # whole channels
    return ratios[..., 0]


def test_each_channel_of_each_photo_is_centred():
    grid = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[5.0, 5.0], [5.0, 5.0]]],
                         [[[0.0, 0.0], [0.0, 8.0]], [[-1.0, 1.0], [2.0, -2.0]]]])  # fmt: skip
    cls = torch.randn(2, 2)
    decoder = relative(FeatureShape(2, 2)).eval()
    found = given_to(decoder, grid, cls)
    assert found.tolist() == [
        [[[-2, -1], [0, 3]], [[0, 0], [0, 0]]],
        [[[-2, -2], [-2, 6]], [[-1, 1], [2, -2]]],
    ]
    assert decoder.decoder.cls is cls


@given(st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6))
def test_what_is_added_to_a_whole_channel_changes_nothing(added):
    torch.manual_seed(0)
    decoder, grid = relative().eval(), torch.randn(1, 6, 2, 2)
    with torch.no_grad():
        expected = decoder(Features(grid, None))
        shifted = grid + torch.tensor(added)[:, None, None]
        torch.testing.assert_close(decoder(Features(shifted, None)), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0


@pytest.mark.parametrize("inner", ["light", "linear", "attention"])
def test_it_is_the_other_decoder_on_centred_features(inner):
    shape = FeatureShape(32, 4, layers=2)
    decoder = relative(shape, decoder=inner).eval()
    plain = build_decoder(inner, shape).eval()
    plain.load_state_dict(decoder.decoder.state_dict())
    grid, cls = torch.randn(2, 32, 4, 4), torch.randn(2, 32)
    centred = grid.numpy().copy()
    for photo, channel in np.ndindex(2, 32):
        centred[photo, channel] -= centred[photo, channel].sum() / 16
    with torch.no_grad():
        expected = plain(Features(torch.from_numpy(centred), cls))
        before = torch.get_rng_state()
        found = decoder(Features(grid, cls))
        assert torch.equal(decoder(Features(grid, cls)), found)  # nothing is left out
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_training_leaves_out_whole_channels_and_scales_up_the_rest():
    found = factors(torch.randn(64, 300, 2, 2), channel_dropout=0.25, layer_dropout=0.0)
    gone = found == 0
    torch.testing.assert_close(found[~gone], torch.full_like(found[~gone], 1 / 0.75))
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.015)  # 4.8 deviations
    assert len({tuple(row) for row in gone.tolist()}) == 64  # each photo others


def test_training_leaves_out_whole_layers_but_never_all():
    photos, share = 4000, 0.3
    found = factors(torch.randn(photos, 6, 2, 2), channel_dropout=0.0, layer_dropout=share)
    layers = found.unflatten(1, (3, 2))
    torch.testing.assert_close(layers[..., 0], layers[..., 1])
    kept = layers[..., 0] != 0
    count = kept.sum(1)
    torch.testing.assert_close(
        layers[..., 0], torch.where(kept, 3 / count[:, None], torch.zeros(()))
    )
    expected = {1: 3 * share**2 * (1 - share) + share**3, 2: 3 * share * (1 - share) ** 2,
                3: (1 - share) ** 3}  # fmt: skip
    for number, probability in expected.items():
        assert (count == number).float().mean().item() == pytest.approx(probability, abs=0.04)
    assert found.mean().item() == pytest.approx(1, abs=1e-5)


def test_any_layer_may_be_the_one_that_stays():
    found = factors(torch.randn(3000, 3, 2, 2), channel_dropout=0, layer_dropout=0.999)
    kept = found != 0
    assert (kept.sum(1) == 1).float().mean() > 0.98
    for layer in kept.float().mean(0).tolist():
        assert layer == pytest.approx(1 / 3, abs=0.05)


def test_the_only_layer_stays():
    grid = torch.randn(50, 4, 2, 2)
    decoder = relative(FeatureShape(4, 2), channel_dropout=0.0, layer_dropout=0.9).train()
    torch.testing.assert_close(given_to(decoder, grid), grid - grid.mean((2, 3), keepdim=True))


def test_both_kinds_of_dropout_come_together_by_default():
    found = factors(torch.randn(400, 300, 2, 2))
    layers = (found != 0).float().unflatten(1, (3, 100)).mean(2)  # share of each that is left
    kept = layers > 0
    assert layers[kept].mean().item() == pytest.approx(0.7, abs=0.01)
    assert kept.float().mean().item() == pytest.approx(0.7 + 0.3**3 / 3, abs=0.06)


@pytest.mark.parametrize("name", ["channel_dropout", "layer_dropout"])
@pytest.mark.parametrize(
    "value", [1, 1.0, -0.1, float("nan"), float("inf"), True, "0.3", None, [0.3], "\n" * 500]
)
def test_shares_that_are_none_are_refused_in_one_line(name, value):
    with pytest.raises(UserError, match=rf"relative: {name} is .*from 0 to below 1") as raised:
        relative(**{name: value})
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("conv-5", "there is no decoder 'conv-5'"),
        ("os.system", "code outside declip-pl"),
        ({"class_path": "torch.nn.Linear"}, "code outside declip-pl"),
        ({"class_path": "conv-4", "init_args": {"depth": 10**9}}, "depth"),
        (5, "expected a name, or class_path and init_args"),
        ("relative", "the decoder inside relative is relative"),
        ({"class_path": "relative", "init_args": {"decoder": "relative"}}, "inside relative"),
    ],
)
def test_a_file_names_a_registered_decoder_inside_or_is_refused(inner, message, clip, tmp_path):
    task = LocalizationTask(str(clip), "layer1", "relative", image_size=64)
    said = {"class_path": "relative", "init_args": {"decoder": inner}}
    save(checkpoint_of(task, decoder=said), tmp_path / "saved")
    with pytest.raises(UserError, match=message) as raised:
        Localizer.from_pretrained(tmp_path / "saved")
    assert "\n" not in str(raised.value)


def test_a_saved_folder_says_which_decoder_is_inside(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("declip_pl.model.decoder.STAGES", (8, 8, 4, 4))
    said = {"class_path": "relative", "init_args": {"decoder": "conv-20"}}
    task = LocalizationTask(str(clip), "layer0+layer2", said, image_size=64).eval()
    save(checkpoint_of(task), tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["decoder"] == said
    network = Localizer.from_pretrained(tmp_path / "saved", device="cpu").network
    assert len([m for m in network.decoder.modules() if isinstance(m, nn.Conv2d)]) == 21
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(pixels), task(pixels))


OWN = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, shape, value=0.0):
        super().__init__()
        self.shape, self.value = shape, value
    def forward(self, features):
        return torch.full((len(features.grid), 1, 256, 256), self.value)
"""


def test_a_decoder_of_ones_own_may_be_inside(tmp_path, monkeypatch):
    (tmp_path / "own_inside.py").write_text(OWN)
    monkeypatch.setenv("DECLIP_PARTS", str(tmp_path / "own_inside.py"))
    decoder = relative(decoder={"class_path": "own_inside.Own", "init_args": {"value": 3.0}})
    assert decoder.decoder.shape == THREE
    assert (decoder(Features(torch.zeros(1, 6, 2, 2), None)) == 3).all()
