"""The task and its callbacks: what is optimised, saved, resumed, and when training ends."""

import csv
import json
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from conftest import make_clip, make_tree

from declip_pl import cli
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.errors import UserError
from declip_pl.training.callbacks import History
from declip_pl.training.draws import drawing
from declip_pl.training.schedules import OneCycle, PaperSchedule
from declip_pl.training.task import LocalizationTask


def task(clip, **changes):
    options = {"encoder": str(clip), "layer": "layer1", "decoder": "linear", "image_size": 64}
    return LocalizationTask(**options | changes)


def checkpoint(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)


def run_folder(tmp_path):
    (folder,) = (tmp_path / "outputs").iterdir()
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def trained(place, fit_arguments):
    """A finished run, trained once; no test changes it."""
    if not (place / "x").exists():
        cli.main(fit_arguments(**{"run.name": "x", "run.root": place}))
    return place / "x"


def batch(count=2):
    masks = [torch.zeros(256, 256, dtype=torch.bool) for _ in range(count)]
    for mask in masks:
        mask[:128] = True
    return {
        "image": torch.randn(count, 3, 64, 64),
        "mask": masks,
        "label": torch.ones(count),
        "path": [f"{i}.png" for i in range(count)],
    }


def test_full_supervision_is_cross_entropy_on_every_pixel(clip):
    logits = torch.randn(2, 1, 256, 256)
    target = torch.zeros(2, 1, 256, 256)
    target[:, :, :128] = 1
    expected = -(target * logits.sigmoid().log() + (1 - target) * (-logits).sigmoid().log()).mean()
    torch.testing.assert_close(task(clip).loss(logits, batch()), expected)


def test_weak_supervision_is_cross_entropy_on_the_mean_logit(clip):
    logits = torch.randn(2, 1, 256, 256)
    expected = -logits.mean((1, 2, 3)).sigmoid().log().mean()
    torch.testing.assert_close(task(clip, supervision="weak").loss(logits, batch()), expected)


def test_a_loss_that_is_not_finite_names_the_photos(clip):
    with pytest.raises(UserError, match=r"nan.*0\.png, 1\.png"):
        task(clip).loss(torch.full((2, 1, 256, 256), torch.nan), batch())


def test_optimiser_is_the_papers(clip):
    model = task(clip)
    optimiser = model.configure_optimizers()
    group = optimiser.param_groups[0]
    assert isinstance(optimiser, torch.optim.AdamW)
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0)
    decoder = list(model.network.decoder.parameters())
    assert [id(p) for p in group["params"]] == [id(p) for p in decoder]


def test_the_decoders_start_depends_on_the_seed_alone(clip):
    def start(seed):
        torch.rand(seed + 3)  # whatever was drawn before
        return task(clip, seed=seed).network.decoder.fc[0].weight

    assert torch.equal(start(0), start(0)) and not torch.equal(start(0), start(1))


class FakeTrainer(SimpleNamespace):
    """A trainer as far as the schedule looks at it."""

    def __init__(self):
        self.parameter = torch.nn.Parameter(torch.zeros(1))
        self.optimizers = [torch.optim.AdamW([self.parameter], lr=1e-3)]
        self.should_stop = self.sanity_checking = False
        self.callback_metrics = {}

    @property
    def rate(self):
        return self.optimizers[0].param_groups[0]["lr"]

    def epoch(self, schedule, score):
        self.callback_metrics["val/score"] = torch.tensor(score)
        schedule.on_validation_end(self, None)
        schedule.on_train_epoch_end(self, None)


def test_schedule_divides_by_ten_after_five_epochs_without_a_gain_and_stops():
    trainer, schedule = FakeTrainer(), PaperSchedule()
    schedule.on_fit_start(trainer, None)
    rates = []
    for score in [10.0, 20.0, *[20.0] * 5, 30.0, *[29.0] * 15]:
        trainer.epoch(schedule, score)
        rates.append(trainer.rate)
        if trainer.should_stop:
            break
    assert rates[:6] == [1e-3] * 6  # two gains, then four without
    assert rates[6:12] == pytest.approx([1e-4] * 6)  # the fifth; then a gain and four without
    assert rates[12:17] == pytest.approx([1e-5] * 5)
    assert rates[17:22] == pytest.approx([1e-6] * 5)
    assert len(rates) == 23 and trainer.should_stop  # 1e-7 would be too small


def test_schedule_counts_only_epochs_that_validated():
    trainer, schedule = FakeTrainer(), PaperSchedule(patience=2)
    schedule.on_fit_start(trainer, None)
    trainer.epoch(schedule, 10.0)
    for _ in range(5):
        schedule.on_train_epoch_end(trainer, None)
    assert trainer.rate == 1e-3
    trainer.epoch(schedule, 9.0)
    trainer.epoch(schedule, 9.0)
    assert trainer.rate == pytest.approx(1e-4)


def test_one_cycle_rises_to_the_rate_and_falls_to_zero():
    trainer, schedule = FakeTrainer(), OneCycle(warmup=0.25)
    trainer.optimizers[0].param_groups[0]["initial_lr"] = 1e-3
    trainer.estimated_stepping_batches = 40
    schedule.on_train_start(trainer, None)
    rates = []
    for trainer.global_step in range(40):
        schedule.on_train_batch_start(trainer, None, None, 0)
        rates.append(trainer.rate)
    assert rates[:10] == pytest.approx([(i + 0.5) * 1e-4 for i in range(10)])  # the warm-up
    assert rates[24] + rates[25] == pytest.approx(1e-3)  # the middle of the cosine
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 2e-6


def test_one_cycle_has_to_know_the_end():
    trainer = FakeTrainer()
    trainer.estimated_stepping_batches = float("inf")
    with pytest.raises(UserError, match=r"trainer\.max_epochs"):
        OneCycle().on_train_start(trainer, None)


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_warmup_is_a_share(warmup):
    with pytest.raises(UserError, match="share of all steps"):
        OneCycle(warmup)


def test_schedule_goes_on_after_a_restart():
    scores = [10.0, *[9.0] * 12]
    straight, schedule = FakeTrainer(), PaperSchedule()
    schedule.on_fit_start(straight, None)
    for score in scores:
        straight.epoch(schedule, score)
    trainer, first = FakeTrainer(), PaperSchedule()
    first.on_fit_start(trainer, None)
    for score in scores[:4]:
        trainer.epoch(first, score)
    second = PaperSchedule()
    second.load_state_dict(first.state_dict())
    second.on_fit_start(trainer, None)
    for score in scores[4:]:
        trainer.epoch(second, score)
    assert trainer.rate == straight.rate < 1e-3


def test_checkpoint_holds_the_decoder_only(clip, trained):
    saved = checkpoint(trained, "best")
    assert set(saved["state_dict"]) == {"network.decoder.fc.0.weight", "network.decoder.fc.0.bias"}
    said = saved["declip_pl"]
    assert said["identity"]["name"] == clip.name and said["layer"] == "layer1"
    assert str(clip) in said["identity"]["source"] and said["image_size"] == 64
    assert said["trained_on"]["generators"] == ["ldm"]


def test_checkpoint_loads_into_the_same_network(clip, trained):
    path = trained / "checkpoints/best.ckpt"
    pixels = torch.randn(1, 3, 64, 64)
    first, second = (
        LocalizationTask.load_from_checkpoint(path, weights_only=True).eval() for _ in range(2)
    )
    assert torch.equal(first(pixels), second(pixels))
    saved = checkpoint(trained, "best")["state_dict"]
    assert torch.equal(first.network.decoder.fc[0].weight, saved["network.decoder.fc.0.weight"])


def test_checkpoint_of_another_encoder_is_an_error(clip, trained, tmp_path):
    path = trained / "checkpoints/best.ckpt"
    other = make_clip(tmp_path / "other-clip", seed=1)
    for changed in ({"encoder": str(other)}, {"layer": "layer2"}):
        with pytest.raises(UserError, match="belongs to another encoder: it was trained on"):
            LocalizationTask.load_from_checkpoint(path, weights_only=True, **changed)


@pytest.mark.parametrize("changed", [{"decoder": "attention"}, {"image_size": 128}])
def test_checkpoint_of_another_decoder_or_input_size_is_an_error(trained, changed):
    path = trained / "checkpoints/best.ckpt"
    with pytest.raises(UserError, match=f"the checkpoint's {next(iter(changed))} is"):
        LocalizationTask.load_from_checkpoint(path, weights_only=True, **changed)


@pytest.mark.parametrize("damage", ["missing", "foreign"])
def test_loading_stays_strict(clip, trained, tmp_path, damage):
    saved = checkpoint(trained, "best")
    if damage == "missing":
        del saved["state_dict"]["network.decoder.fc.0.bias"]
    else:
        del saved["declip_pl"]
    torch.save(saved, tmp_path / "damaged.ckpt")
    with pytest.raises((RuntimeError, UserError), match=r"fc\.0\.bias|no checkpoint of declip-pl"):
        LocalizationTask.load_from_checkpoint(tmp_path / "damaged.ckpt", weights_only=True)


@pytest.mark.parametrize("cache", [True, False])
def test_encoder_is_bit_identical_after_training(clip, tree, cache):
    model, pixels = task(clip), torch.randn(2, 3, 64, 64)
    features = model.network.encoder(pixels)
    before = {k: v.clone() for k, v in model.network.encoder.state_dict().items()}
    decoder = model.network.decoder.fc[0].weight.clone()
    data = LocalizationDataModule(
        str(tree), "ldm", batch_size=4, num_workers=0, check=False, cache=cache
    )
    L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
              enable_progress_bar=False, enable_model_summary=False).fit(model, data)  # fmt: skip
    held = sum(tensor.numel() for tensor in model.network.encoder.parameters())
    assert (held == 0) == cache  # its features are all that training needs
    assert torch.equal(model.network.encoder(pixels).grid, features.grid)
    after = model.network.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(decoder, model.network.decoder.fc[0].weight)


WITH_DROPOUT = """
from torch import nn
from declip_pl.model.decoder import LinearDecoder

class Dropping(LinearDecoder):
    def __init__(self, shape):
        super().__init__(shape)
        self.fc = nn.Sequential(*self.fc, nn.Dropout(0.3))
"""


@pytest.mark.parametrize(
    ("decoder", "workers"), [("linear", 2), ("conv-4", 0), ("with_dropout.Dropping", 0)]
)
def test_resuming_equals_no_interruption(fit_arguments, tmp_path, monkeypatch, decoder, workers):
    """Augmentation, order, dropout, optimiser, schedule and table go on as if nothing had been."""
    (tmp_path / "with_dropout.py").write_text(WITH_DROPOUT)
    monkeypatch.setenv("DECLIP_PARTS", str(tmp_path / "with_dropout.py"))
    monkeypatch.setattr("declip_pl.model.decoder.STAGES", (8, 8, 4, 4))
    common = {"data.augmentation": "all", "schedule.patience": 1, "model.decoder": decoder}
    common |= {"data.num_workers": workers}
    cli.main(fit_arguments(**common, **{"trainer.max_epochs": 3, "run.name": "straight"}))
    cli.main(fit_arguments(**common, **{"trainer.max_epochs": 2, "run.name": "resumed"}))
    straight, resumed = tmp_path / "outputs/straight", tmp_path / "outputs/resumed"
    (resumed / "test_metrics.json").unlink()  # as if it had been killed after two epochs
    cli.main(
        fit_arguments(
            **common, **{"trainer.max_epochs": 3, "run.name": "resumed", "run.resume": "true"}
        )
    )
    ours, theirs = checkpoint(resumed), checkpoint(straight)
    assert ours["epoch"] == theirs["epoch"] == 2
    for name, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], value), name
    assert (resumed / "metrics.csv").read_text() == (straight / "metrics.csv").read_text()
    scores = [
        json.loads((f / "test_metrics.json").read_text())["scores"] for f in (resumed, straight)
    ]
    assert scores[0] == scores[1]


def test_one_cycle_goes_on_after_a_restart(fit_arguments, tmp_path, monkeypatch):
    common = {"schedule": "OneCycle", "trainer.max_epochs": 4, "model.decoder": "light"}
    cli.main(fit_arguments(**common, **{"run.name": "straight"}))
    add_row = History.on_train_epoch_end

    def add_row_and_stop(self, trainer, module):
        add_row(self, trainer, module)
        trainer.should_stop = trainer.current_epoch == 1

    with monkeypatch.context() as patch:
        patch.setattr(History, "on_train_epoch_end", add_row_and_stop)
        cli.main(fit_arguments(**common, **{"run.name": "resumed"}))
    straight, resumed = tmp_path / "outputs/straight", tmp_path / "outputs/resumed"
    assert len((resumed / "metrics.csv").read_text().splitlines()) == 3
    (resumed / "test_metrics.json").unlink()
    cli.main(fit_arguments(**common, **{"run.name": "resumed", "run.resume": "true"}))
    assert (resumed / "metrics.csv").read_text() == (straight / "metrics.csv").read_text()
    ours, theirs = checkpoint(resumed)["state_dict"], checkpoint(straight)["state_dict"]
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_the_best_checkpoint_is_for_use_not_for_going_on(trained, fit_arguments, error_of):
    best = trained / "checkpoints/best.ckpt"
    assert "optimizer_states" not in torch.load(best, weights_only=True)
    message = error_of(*fit_arguments(**{"run.name": "x"}), f"--ckpt_path={best}")
    assert "has no optimiser's state" in message and "last.ckpt" in message


def test_gradients_can_be_clipped_in_mixed_precision(fit_arguments):
    cli.main(fit_arguments(**{"trainer.gradient_clip_val": 1, "trainer.precision": "bf16-mixed"}))


def test_resuming_a_run_that_had_stopped_trains_no_further(fit_arguments, tmp_path):
    options = {"model.learning_rate": 1e-6, "schedule.patience": 1, "trainer.max_epochs": 6}
    cli.main(fit_arguments(**options))
    folder = run_folder(tmp_path)
    rows = (folder / "metrics.csv").read_text()
    assert len(rows.splitlines()) < 20
    (folder / "test_metrics.json").unlink()
    cli.main(fit_arguments(**options, **{"run.resume": "true"}))
    assert (folder / "metrics.csv").read_text() == rows
    assert (folder / "test_metrics.json").exists()


def test_training_learns(fit_arguments, tmp_path, monkeypatch):
    """Dark noise on smooth photos is easy to find: even a random encoder shows where they are."""
    monkeypatch.setattr("declip_pl.model.decoder.STAGES", (16, 16, 8, 8))
    tree = make_tree(tmp_path / "more", ("ldm",), {"train": 64, "valid": 8, "test": 8})
    options = {"data.root": tree, "data.batch_size": 8, "model.decoder": "conv-4"}
    options |= {"model.layer": "layer0", "model.learning_rate": 3e-3, "trainer.max_epochs": 6}
    cli.main(fit_arguments(**options))
    results = json.loads((run_folder(tmp_path) / "test_metrics.json").read_text())
    constant = max(b["iou"] for b in results["baselines"]["ldm"].values())
    assert results["scores"]["ldm"]["iou"] > constant + 15
    with (run_folder(tmp_path) / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < losses[0] / 2


def test_weak_supervision_end_to_end(fit_arguments, tmp_path):
    cli.main(fit_arguments(**{"model.supervision": "weak"}))
    folder = run_folder(tmp_path)
    assert folder.name.endswith("-ldm-weak")
    with (folder / "metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["val/score"]) == float(row["val/image_ap"]) > 0


def test_several_generators_are_tested_one_by_one(fit_arguments, tmp_path):
    cli.main(fit_arguments(**{"data.generator": "all"}))
    scores = json.loads((run_folder(tmp_path) / "test_metrics.json").read_text())["scores"]
    assert set(scores) == {"lama", "ldm"}
    assert scores["lama"]["iou_n"] == scores["ldm"]["iou_n"] == 4


def test_what_is_drawn_for_a_place_is_the_same_every_time_and_leaves_the_rest_alone():
    def at(*place):
        with drawing(torch.device("cpu"), *place):
            return torch.rand(4).tolist()

    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (2**32 - 1, 0)]
    before = torch.get_rng_state()
    first = [at(*place) for place in places]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert [at(*place) for place in places] == first
    assert len(set(map(tuple, first))) == len(places)
