"""The task and the data module in a Trainer of one's own, without declip-pl's commands."""

import copy

import lightning as L
import numpy as np
import pytest
import torch
from conftest import find, make_clip, make_photo, make_tree
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelSummary
from PIL import Image
from torch.utils.data import DataLoader

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import collate
from declip_pl.errors import UserError
from declip_pl.inference.localizer import Localizer
from declip_pl.model.network import image_score
from declip_pl.training.encoding import EncodePhotos
from declip_pl.training.task import LocalizationTask

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
PIXELS = torch.rand(2, 3, 64, 64)


def task(clip, **options):
    return LocalizationTask(str(clip), "layer1", "linear", 64, **options)


def data_of(tree, **options):
    return LocalizationDataModule(str(tree), "ldm", batch_size=3, num_workers=0, **options)


def fitted(clip, tree, **options):
    trainer = L.Trainer(
        **QUIET, max_epochs=1, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.fit(made := task(clip), data_of(tree, **options))
    return trainer, made


@pytest.mark.parametrize("cache", [True, False], ids=["offloaded", "not offloaded"])
def test_the_state_after_training_is_loaded_again(clip, tree, tmp_path, cache):
    _, trained = fitted(clip, tree, cache=cache)
    torch.save(trained.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert set(state) == {"network.decoder.fc.0.weight", "network.decoder.fc.0.bias"}
    fresh = task(clip, seed=1)
    before = fresh(PIXELS)
    assert fresh.load_state_dict(state).missing_keys == []
    assert torch.equal(fresh(PIXELS), trained(PIXELS)) and not torch.equal(fresh(PIXELS), before)
    trained.load_state_dict(state)  # itself, and while the encoder may be offloaded
    assert torch.equal(fresh(PIXELS), copy.deepcopy(trained)(PIXELS))


def test_loading_a_state_stays_strict_and_leaves_the_encoder(clip, tmp_path):
    ours, other = task(clip), task(make_clip(tmp_path / "other", seed=1))
    encoder = {k: v.clone() for k, v in ours.network.encoder.state_dict().items()}
    theirs = other.network.encoder.state_dict(prefix="network.encoder.")
    ours.load_state_dict(ours.state_dict() | theirs)
    assert all(torch.equal(v, encoder[k]) for k, v in ours.network.encoder.state_dict().items())
    for state in ({}, ours.state_dict() | {"more": torch.ones(1)}):
        with pytest.raises(RuntimeError, match=r"fc\.0|more"):
            ours.load_state_dict(state)


def test_a_task_inside_another_module_keeps_its_encoder_out(clip):
    outer, again = (torch.nn.ModuleDict({"inner": task(clip, seed=s)}) for s in (0, 1))
    assert {name.split(".")[2] for name in outer.state_dict()} == {"decoder"}
    again.load_state_dict(outer.state_dict())
    assert torch.equal(again["inner"](PIXELS), outer["inner"](PIXELS))


def test_lightnings_table_counts_the_frozen_encoder(clip, tree):
    """It is written while the encoder is there, and training goes on without it."""
    seen = {}

    class Noting(ModelSummary):
        @staticmethod
        def summarize(_, total_parameters, trainable_parameters, *args, **options):
            seen["frozen"] = total_parameters - trainable_parameters

        def on_train_start(self, trainer, pl_module):
            seen["in memory"] = sum(p.numel() for p in pl_module.network.encoder.parameters())

    made = task(clip)
    expected = sum(p.numel() for p in made.network.encoder.parameters())
    trainer = L.Trainer(**QUIET, max_epochs=1, enable_checkpointing=False, callbacks=[Noting()])
    trainer.fit(made, data_of(tree))
    assert seen == {"frozen": expected, "in memory": 0} and expected > 10_000


def by_path(batches):
    """Return what was predicted of each photo: its name, map and score."""
    return {
        path: (name, probabilities, float(score))
        for batch in batches
        for name, path, probabilities, score in zip(*batch.values(), strict=True)
    }


@pytest.mark.parametrize("cache", [True, False])
def test_predict_looks_at_the_test_photos(clip, tree, cache):
    trainer, trained = fitted(clip, tree)
    found = by_path(trainer.predict(trained, data_of(tree, cache=cache)))
    files = find(tree, "ldm", "test") + find(tree, "real", "test")
    assert list(found) == [str(sample.image) for sample in files]
    for sample in files:
        name, probabilities, score = found[str(sample.image)]
        assert name == sample.name and probabilities.shape == (1, 256, 256)
        logits = probabilities[None].logit()
        assert score == pytest.approx(float(image_score(logits, "top")), abs=1e-4)


def test_predict_looks_at_photos_of_ones_own_as_the_localizer_does(clip, tree, tmp_path):
    trainer, trained = fitted(clip, tree)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    photo = tmp_path / "mine.png"
    Image.fromarray(make_photo(np.random.default_rng(1), 256)).save(photo)
    data = LocalizationDataModule(str(tree), "ldm", num_workers=0)
    data.photos = [str(photo)]
    ((name, probabilities, score),) = by_path(trainer.predict(trained, data)).values()
    expected = Localizer.from_pretrained(tmp_path / "x.ckpt")(photo)
    assert name == "mine" and score == pytest.approx(expected.score, abs=1e-5)
    torch.testing.assert_close(
        probabilities[0], torch.from_numpy(expected.heatmap), atol=1e-5, rtol=0
    )


def test_a_photo_that_is_not_there_is_named(clip, tree, tmp_path):
    data = data_of(tree)
    data.photos = [tmp_path / "nowhere.png"]
    with pytest.raises(UserError, match=r"nowhere\.png"):
        L.Trainer(**QUIET).predict(task(clip), data)


def test_predict_needs_no_other_split(clip, tree, tmp_path):
    root = make_tree(tmp_path / "bench", ("telea",), {"test": 2})
    data = LocalizationDataModule(str(root), "telea", num_workers=0)
    assert len(by_path(L.Trainer(**QUIET).predict(task(clip), data))) == 4


@pytest.mark.parametrize("as_list", [True, False])
def test_loaders_of_ones_own_are_tested_on(clip, tree, as_list):
    loader = DataLoader(data_of(tree).test_sets()[0], 2, collate_fn=collate)
    made = task(clip)
    L.Trainer(**QUIET).test(made, [loader] if as_list else loader, verbose=False)
    assert made.results["ldm"]["iou_n"] == 4


class Mean(L.LightningModule):
    """A module of a user's own, without a frozen encoder."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = set()

    def training_step(self, batch, batch_idx):
        self.seen.add(tuple(batch["image"].shape[1:]))
        return (batch["image"].mean((1, 2, 3)) * self.weight - batch["label"]).square().mean()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("score", batch["image"].mean())

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return batch["name"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("callbacks", ["none", "EncodePhotos"])
def test_a_module_without_an_encoder_gets_pixels_without_any_switch(tree, callbacks):
    data, module = data_of(tree), Mean()
    trainer = L.Trainer(
        **QUIET, max_epochs=1, enable_checkpointing=False,
        callbacks=[EncodePhotos()] if callbacks == "EncodePhotos" else [],
    )  # fmt: skip
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert module.seen == {(3, 224, 224)} and module.weight != 0
    assert sum(map(len, trainer.predict(module, data))) == 8


class Steps(Callback):
    """The decoder's weights after each step."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self.weights.append(pl_module.network.decoder.fc[0].weight.detach().clone())


@pytest.mark.parametrize("cache", [True, False], ids=["encoded before", "encoded meanwhile"])
def test_lightnings_averages_of_weights(clip, tree, cache):
    """They hold a copy of the encoder, which is no part of the average."""
    steps, made = Steps(), task(clip)
    trainer = L.Trainer(
        **QUIET,
        max_epochs=2,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[EMAWeightAveraging(decay=0.5), steps],
    )
    trainer.fit(made, data_of(tree, cache=cache))
    average = steps.weights[0]
    for weight in steps.weights[1:]:
        average = (average + weight) / 2
    found = made.network.decoder.fc[0].weight
    assert torch.allclose(found, average, atol=1e-6) and not torch.equal(found, steps.weights[-1])
    assert torch.equal(made.network.encoder(PIXELS).grid, task(clip).network.encoder(PIXELS).grid)
