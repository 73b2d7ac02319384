"""The losses against values computed by hand."""

import math

import pytest
import torch
from torch import nn

from declip_pl.errors import UserError
from declip_pl.training.loss import LOSSES, build_loss

# Probabilities 0.8, 0.4, 0.1, 0.5 of being fake; the first two pixels are.
PROBABILITIES = [0.8, 0.4, 0.1, 0.5]
LOGITS = torch.tensor([[[[math.log(p / (1 - p)) for p in PROBABILITIES]]]])
TARGET = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
ENTROPY = [-math.log(0.8), -math.log(0.4), -math.log(0.9), -math.log(0.5)]

BCE = sum(ENTROPY) / 4
DICE = 1 - (2 * (0.8 + 0.4) + 1) / (0.8 + 0.4 + 0.1 + 0.5 + 2 + 1)
FOCAL = (0.2**2 * ENTROPY[0] + 0.6**2 * ENTROPY[1] + 0.1**2 * ENTROPY[2] + 0.5**2 * ENTROPY[3]) / 4
# Three fake pixels and a real one: each class weighs a half.
MOSTLY_FAKE = torch.tensor([[[[1.0, 1.0, 1.0, 0.0]]]])
BALANCED = ((ENTROPY[0] + ENTROPY[1] - math.log(0.1)) / 3 + ENTROPY[3]) / 2


@pytest.mark.parametrize(
    ("loss", "target", "expected"),
    [
        ("bce", TARGET, BCE),
        ("dice", TARGET, DICE),
        ("focal", TARGET, FOCAL),
        ("balanced", MOSTLY_FAKE, BALANCED),
        ("bce+dice", TARGET, BCE + DICE),
        ("focal+dice+bce", TARGET, FOCAL + DICE + BCE),
    ],
)
def test_losses(loss, target, expected):
    found = build_loss(loss)(LOGITS, target)
    assert found.shape == () and found.item() == pytest.approx(expected, rel=1e-5)


def test_balanced_is_bce_where_both_classes_have_as_many_pixels():
    assert build_loss("balanced")(LOGITS, TARGET).item() == pytest.approx(BCE, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_balanced_with_one_class_alone_is_its_mean(value):
    target = torch.full_like(TARGET, value)
    expected = [-math.log(p if value else 1 - p) for p in PROBABILITIES]
    found = build_loss("balanced")(LOGITS, target).item()
    assert found == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_dice_counts_images_and_not_pixels_alike():
    """The mean of two images' losses, not the loss of their pixels together."""
    small = torch.zeros_like(TARGET)
    small[..., 0] = 1
    second = 1 - (2 * 0.8 + 1) / (1.8 + 1 + 1)
    found = build_loss("dice")(LOGITS.repeat(2, 1, 1, 1), torch.cat([TARGET, small])).item()
    assert found == pytest.approx((DICE + second) / 2, rel=1e-5)


def test_nothing_against_nothing_has_no_dice_loss():
    logits = torch.full((2, 1, 4, 4), -100.0)
    assert build_loss("dice")(logits, torch.zeros(2, 1, 4, 4)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [*LOSSES.names(), "bce+dice"])
def test_every_loss_falls_when_a_map_gets_better_and_stays_finite(loss):
    built = build_loss(loss)
    logits = torch.zeros(1, 1, 1, 4, requires_grad=True)
    first = built(logits, TARGET)
    first.backward()
    assert built(logits - 0.1 * logits.grad, TARGET) < first
    for value in (-1e4, 1e4):  # as wrong and as right as can be
        extreme = torch.full_like(LOGITS, value, requires_grad=True)
        found = built(extreme, TARGET)
        found.backward()
        assert found.isfinite() and extreme.grad.isfinite().all()


def test_a_sums_parts_are_modules_of_it():
    parts = [type(part).__name__ for part in build_loss("bce+dice").losses]
    assert parts == ["CrossEntropy", "Dice"]


def test_unknown_losses():
    with pytest.raises(UserError, match="'hinge'; choose one of bce, dice, focal, balanced"):
        build_loss("bce+hinge")


def test_a_loss_of_ones_own(tmp_path, monkeypatch):
    body = (
        "from torch import nn\n"
        "class Half(nn.Module):\n"
        "    def __init__(self, weight=0.5):\n"
        "        super().__init__()\n"
        "        self.weight = weight\n"
        "    def forward(self, logits, target):\n"
        "        return self.weight * (logits.sigmoid() - target).abs().mean()\n"
        "class Other: ...\n"
    )
    (tmp_path / "own_loss.py").write_text(body)
    monkeypatch.setenv("DECLIP_PARTS", str(tmp_path / "own_loss.py"))
    loss = build_loss({"class_path": "own_loss.Half", "init_args": {"weight": 2.0}})
    assert isinstance(loss, nn.Module)
    assert loss(LOGITS, TARGET).item() == pytest.approx(2 * (0.2 + 0.6 + 0.1 + 0.5) / 4, rel=1e-5)
    with pytest.raises(UserError, match=r"own_loss\.Other.* is no torch\.nn\.Module"):
        build_loss({"class_path": "own_loss.Other"})
