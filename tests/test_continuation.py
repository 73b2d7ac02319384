"""Going on with a run: only as it was begun, only from what is whole, and never in a dead end."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from declip_pl import cli
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import load_lightning
from declip_pl.training.continuation import check_continuation
from declip_pl.training.recipe import Options, Recipe
from declip_pl.training.recipe_file import read_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Where the run is kept that all tests here start from, so that it is trained once."""
    return tmp_path_factory.mktemp("trained") / "x"


@pytest.fixture
def unfinished(trained, fit_arguments, tmp_path) -> Path:
    """A run that was killed after its second epoch."""
    if not trained.exists():
        cli.main(fit_arguments(**{"run.name": "x", "run.root": trained.parent}))
        (trained / "test_metrics.json").unlink()
    return Path(shutil.copytree(trained, tmp_path / "outputs/x"))


@pytest.fixture
def refusal(fit_arguments, error_of, unfinished):
    """Try to resume the run with other settings; nothing of it may change."""

    def attempt(**changes) -> str:
        before = {p: p.read_bytes() for p in unfinished.rglob("*") if p.is_file()}
        message = error_of(*fit_arguments(**{"run.name": "x", "run.resume": "true"} | changes))
        assert {p: p.read_bytes() for p in unfinished.rglob("*") if p.is_file()} == before
        assert message.count("error:") == 1 and "Traceback" not in message
        return message

    return attempt


def resumed(fit_arguments, **changes):
    cli.main(fit_arguments(**{"run.name": "x", "run.resume": "true", **changes}))


OTHER = {
    "seed_everything": (0, 1),
    "model.layer": ("layer1", "layer2"),
    "model.decoder": ("linear", "light"),
    "model.loss": ("bce", "dice"),
    "model.learning_rate": (0.001, 0.01),
    "model.supervision": ("full", "weak"),
    "model.image_size": (64, 128),
    "model.pooling": ("top", "max"),
    "data.generator": ("ldm", "lama"),
    "data.augmentation": ("none", "jpeg"),
    "data.perturbation": ("none", "blur"),
    "data.polarity": (None, "black"),
    "data.batch_size": (4, 2),
    "data.views": (0, 3),
    "best.monitor": ("val/score", "val/ap"),
    "schedule.patience": (5, 2),
    "trainer.accumulate_grad_batches": (1, 2),
    "trainer.gradient_clip_val": (None, 1),
    "trainer.precision": (None, "bf16-mixed"),
    "trainer.limit_train_batches": (None, 0.5),
    "trainer.limit_val_batches": (None, 0.5),
    "trainer.check_val_every_n_epoch": (1, 2),
}
"""What decides on a run, with its value and another one."""


def test_every_setting_that_differs_is_named_with_both_values(refusal):
    message = refusal(**{name: here for name, (_, here) in OTHER.items()})
    for name, (there, here) in OTHER.items():
        assert f"{name} is {there}, here {here}" in message, name
    assert "RUN=" in message


@pytest.mark.parametrize("name", ["model.learning_rate", "schedule.patience", "data.batch_size"])
def test_one_setting_that_differs_is_enough(refusal, name):
    there, here = OTHER[name]
    assert f"other settings: {name} is {there}, here {here}. " in refusal(**{name: here})


def test_exact_features_are_another_setting(refusal):
    """The cache rounds features to fp16."""
    assert "other settings: data.cache is True, here False. " in refusal(**{"data.cache": "false"})


def test_another_schedule_is_another_setting(refusal):
    message = refusal(schedule="OneCycle")
    assert "schedule is PaperSchedule, here OneCycle" in message


def test_other_files_in_the_same_folder_are_refused(fit_arguments, tmp_path, own_tree, error_of):
    options = {"run.name": "x", "data.root": own_tree}
    cli.main(fit_arguments(**options))
    (tmp_path / "outputs/x/test_metrics.json").unlink()
    photo = own_tree / "fake/ldm/images/train/0.png"
    photo.write_bytes(photo.read_bytes() + b"longer")
    message = error_of(*fit_arguments(**options, **{"run.resume": "true"}))
    assert "trained on other data: its files_sha256" in message


def test_what_decides_on_nothing_may_change(fit_arguments, unfinished, tmp_path):
    """The data may have moved, and the machine may be another one; the config stays as it was."""
    config = (unfinished / "config.yaml").read_bytes()
    moved = shutil.copytree(fit_tree(fit_arguments), tmp_path / "moved")
    changes = {"data.root": moved, "data.num_workers": 2, "data.check": "false"}
    changes |= {"trainer.log_every_n_steps": 1, "trainer.devices": 1, "trainer.benchmark": "true"}
    resumed(fit_arguments, **changes)
    assert (unfinished / "test_metrics.json").exists()
    assert (unfinished / "config.yaml").read_bytes() == config


def fit_tree(fit_arguments) -> Path:
    (root,) = (a for a in fit_arguments() if a.startswith("--data.root="))
    return Path(root.partition("=")[2])


def test_a_schedule_that_needs_the_end_allows_no_other_end(fit_arguments, tmp_path, error_of):
    options = {"run.name": "x", "schedule": "OneCycle"}
    cli.main(fit_arguments(**options))
    (tmp_path / "outputs/x/test_metrics.json").unlink()
    longer = options | {"run.resume": "true", "trainer.max_epochs": 3}
    assert "trainer.max_epochs is 2, here 3" in error_of(*fit_arguments(**longer))


def test_fewer_epochs_than_were_trained_are_refused(refusal):
    message = refusal(**{"trainer.max_epochs": 1})
    assert "has trained for 2 epochs; --trainer.max_epochs 1 is too few" in message


def test_a_run_that_is_resumed_only_to_be_ended_says_so(fit_arguments, unfinished):
    config = unfinished / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 2\n", "max_epochs: 50\n"))
    resumed(fit_arguments, **{"trainer.max_epochs": 2})
    assert read_config(unfinished)["trainer"]["max_epochs"] == len(scores(unfinished)) == 2


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "empty": b"",
        "half": content[:middle],
        "garbage": bytes(range(256)) * 20,
        "zeroed": content[:middle] + bytes(64) + content[middle + 64 :],
    }
    path.write_bytes(damaged[how])


def replaced(fit_arguments, folder: Path) -> None:
    """Train in place of a run, as the message says."""
    cli.main(fit_arguments(**{"run.name": "x", "run.overwrite": "true", "trainer.max_epochs": 1}))
    assert (folder / "test_metrics.json").exists()
    assert read_config(folder)["trainer"]["max_epochs"] == 1


@pytest.mark.parametrize("how", ["empty", "half", "garbage", "zeroed"])
@pytest.mark.parametrize("name", ["last", "best"])
def test_a_damaged_checkpoint_is_named_and_the_run_can_be_replaced(
    fit_arguments, unfinished, refusal, name, how
):
    damage(unfinished / f"checkpoints/{name}.ckpt", how)
    message = refusal()
    assert f"{name}.ckpt" in message and "damaged" in message and "OVERWRITE=1" in message
    if how == "garbage":  # training takes a second, and what is deleted is not read
        replaced(fit_arguments, unfinished)


def test_a_best_epoch_that_is_gone_is_not_replaced_by_a_worse_one(unfinished, refusal):
    (unfinished / "checkpoints/best.ckpt").unlink()
    message = refusal(**{"trainer.max_epochs": 3})
    assert "best.ckpt" in message and "it was the best epoch so far" in message


@pytest.fixture(scope="module")
def whole_checkpoint(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "last.ckpt"
    state = {"state_dict": {"weight": torch.arange(64.0)}, "optimizer_states": [], "epoch": 1}
    torch.save(state | {"callbacks": {}}, path)
    return path.read_bytes()


@given(data=st.data())
def test_no_bytes_in_a_checkpoint_end_in_a_traceback(whole_checkpoint, tmp_path, data):
    """Cut, overwritten or made up: the content is the one that was saved, or it is refused."""
    cut = data.draw(st.integers(0, len(whole_checkpoint)))
    kinds = st.sampled_from(["cut", "flipped", "made up"])
    content = whole_checkpoint[:cut]
    if (kind := data.draw(kinds)) == "made up":
        content = data.draw(st.binary(max_size=200))
    elif kind == "flipped":
        content += bytes(data.draw(st.binary(min_size=1, max_size=8)))
        content += whole_checkpoint[len(content) :]
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    try:
        weight = load_lightning(path)["state_dict"]["weight"]
    except UserError as error:
        assert "last.ckpt" in str(error)
    else:
        assert torch.equal(weight, torch.arange(64.0))


CONFIG_DAMAGE = {
    "missing": None,
    "empty": "",
    "garbage": "\x00\x01{[",
    "half": "trainer:\n  max_epochs: 2\nmodel:\n  learning_rate: 0.00",
    "a list": "- 1\n- 2\n",
}


@pytest.mark.parametrize("how", CONFIG_DAMAGE)
def test_a_damaged_config_is_named_and_the_run_can_be_replaced(
    fit_arguments, unfinished, refusal, how
):
    path, text = unfinished / "config.yaml", CONFIG_DAMAGE[how]
    path.unlink() if text is None else path.write_text(text)
    message = refusal()
    assert "config.yaml" in message and "OVERWRITE=1" in message
    if how in ("missing", "garbage"):
        replaced(fit_arguments, unfinished)


@given(share=st.floats(0, 1))
@example(share=0.0)
@example(share=0.999)
def test_no_part_of_a_config_passes_for_the_whole(share, tmp_path):
    names = ("seed_everything", "trainer", "model", "data", "run", "best", "schedule")
    text = "".join(f"{name}:\n  key: value\n" for name in names) + "ckpt_path: null\n"
    cut = text[: int(share * text.index("ckpt_path"))]
    (tmp_path / "config.yaml").write_text(cut)
    with pytest.raises(UserError, match=r"config\.yaml"):
        read_config(tmp_path)


def test_damaged_results_are_made_again(fit_arguments, unfinished, error_of):
    results = unfinished / "test_metrics.json"
    for content in (b"", b"{", b'{"scores": {"ldm"', b"\x00\xff", b"null"):
        results.write_bytes(content)
        message = error_of(*fit_arguments(**{"run.name": "x"}))
        assert "test_metrics.json is damaged" in message and "RESUME=1" in message
    resumed(fit_arguments)
    assert json.loads(results.read_text())["scores"]["ldm"]


def test_damaged_results_without_a_last_epoch_can_be_replaced(fit_arguments, unfinished, error_of):
    (unfinished / "test_metrics.json").write_text("{")
    (unfinished / "checkpoints/last.ckpt").unlink()
    for resume in ("true", "false"):
        message = error_of(*fit_arguments(**{"run.name": "x", "run.resume": resume}))
        assert "OVERWRITE=1" in message and "RESUME=1" not in message
    cli.main(fit_arguments(**{"run.name": "x", "run.overwrite": "true"}))


def test_a_damaged_table_of_epochs_is_written_anew(fit_arguments, unfinished):
    table = unfinished / "metrics.csv"
    whole = table.read_text()
    table.write_text("epoch,val/sc")
    resumed(fit_arguments)
    assert table.read_text() == whole


def test_what_a_killed_run_left_half_written_is_deleted(fit_arguments, unfinished):
    leftovers = [unfinished / ".unfinished-a.yaml", unfinished / "checkpoints/.unfinished-b.ckpt"]
    for path in leftovers:
        path.write_text("half")
    (unfinished / ".hidden").write_text("a user's own")
    resumed(fit_arguments)
    assert not any(path.exists() for path in leftovers) and (unfinished / ".hidden").exists()


def test_a_best_epoch_without_a_last_one_is_of_no_later_run(fit_arguments, unfinished, error_of):
    """A run that was killed before its first last.ckpt is begun anew; its best is not tested."""
    (unfinished / "checkpoints/last.ckpt").unlink()
    message = error_of(*fit_arguments(**{"run.name": "x", "trainer.max_steps": 1}))
    assert "no best one to test" in message
    assert not (unfinished / "test_metrics.json").exists()


def scores(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["val/score"]) for row in csv.DictReader(file)]


def best_epoch(folder: Path) -> int:
    return torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["epoch"]


def make_best(folder: Path, older: bool = False) -> None:
    """Make the second epoch the best that there can be."""
    last = folder / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    for state in content["callbacks"].values():
        if state.get("monitor"):
            state["best_model_score"] = state["kth_value"] = torch.tensor(1000.0)
            state["best_k_models"] = dict.fromkeys(state["best_k_models"], torch.tensor(1000.0))
    if older:
        states = content["callbacks"].items()
        content["callbacks"] = {k.replace("KeptEpoch", "ModelCheckpoint"): v for k, v in states}
    torch.save(content, last)


@pytest.mark.parametrize("how", ["in place", "renamed", "from its checkpoint", "of version 0.1"])
def test_a_run_that_goes_on_anywhere_keeps_its_best_epoch(fit_arguments, unfinished, tmp_path, how):
    """A later epoch must not take its place."""
    make_best(unfinished, older=how == "of version 0.1")
    options = {"run.name": "x", "run.resume": "true", "trainer.max_epochs": 4}
    if how == "renamed":
        unfinished.rename(tmp_path / "outputs/y")
        options["run.name"] = "y"
    elif how == "from its checkpoint":
        options |= {"run.name": "y", "ckpt_path": unfinished / "checkpoints/last.ckpt"}
    cli.main(fit_arguments(**options))
    there = tmp_path / "outputs" / options["run.name"]
    assert len(scores(there)) == 4 and best_epoch(there) == 1
    assert read_config(there)["trainer"]["max_epochs"] == 4


def test_a_callback_of_ones_own_that_watches_the_same_figure_goes_on_as_well(
    fit_arguments, tmp_path
):
    own = (
        "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "
        f"{{dirpath: {tmp_path / 'mine'}, filename: mine, monitor: val/score, mode: max}}}}]"
    )
    cli.main([*fit_arguments(**{"run.name": "x"}), own])
    folder = tmp_path / "outputs/x"
    (folder / "test_metrics.json").unlink()
    make_best(folder)
    longer = {"run.name": "x", "run.resume": "true", "trainer.max_epochs": 3}
    cli.main([*fit_arguments(**longer), own])
    mine = [path.name for path in (tmp_path / "mine").iterdir()]
    assert mine == ["mine.ckpt"] and best_epoch(folder) == 1 and len(scores(folder)) == 3


def test_averages_of_weights_go_on_as_if_there_had_been_no_interruption(fit_arguments, tmp_path):
    average = (
        "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, "
        "init_args: {decay: 0.9}}]"
    )
    cli.main([*fit_arguments(**{"run.name": "whole", "trainer.max_epochs": 3}), average])
    cli.main([*fit_arguments(**{"run.name": "parts"}), average])
    (tmp_path / "outputs/parts/test_metrics.json").unlink()
    longer = {"run.name": "parts", "run.resume": "true", "trainer.max_epochs": 3}
    cli.main([*fit_arguments(**longer), average])
    for name in ("best", "last"):
        whole, parts = (
            load_lightning(tmp_path / f"outputs/{run}/checkpoints/{name}.ckpt")["state_dict"]
            for run in ("whole", "parts")
        )
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_checkpoint_is_not_deleted_by_the_run_that_goes_on_from_it(refusal, unfinished):
    last = unfinished / "checkpoints/last.ckpt"
    changes = {"run.resume": "false", "run.overwrite": "true", "ckpt_path": last}
    assert "would be deleted with the run" in refusal(**changes)


def test_a_checkpoint_outside_runs_has_no_settings_on_record(unfinished, tmp_path):
    stray = shutil.copy(unfinished / "checkpoints/last.ckpt", tmp_path / "stray.ckpt")
    with pytest.raises(UserError, match="lies in no run's folder"):
        check_continuation(Path(stray), {}, may_grow=True)


def test_a_run_of_another_recipe_is_told_by_any_setting(fit_arguments, tmp_path):
    """What Lightning's trainer was given decides as well, said in the recipe or not."""
    cli.main(fit_arguments(**{"run.name": "x", "trainer.gradient_clip_val": 1}))
    folder = tmp_path / "outputs/x"
    sections = yaml.safe_load((folder / "config.yaml").read_text())
    recipe = tmp_path / "r.yaml"
    root = fit_tree(fit_arguments)
    said = {name: sections[name] for name in ("model", "data")}
    said["trainer"] = {"max_epochs": 2, "gradient_clip_val": 1}
    recipe.write_text(yaml.safe_dump(said))
    Recipe(root, recipe, Options()).check(folder, "ldm")
    del said["trainer"]["gradient_clip_val"]
    recipe.write_text(yaml.safe_dump(said))
    expected = r"trainer\.gradient_clip_val is 1, here None"
    with pytest.raises(UserError, match=expected):
        Recipe(root, recipe, Options()).check(folder, "ldm")
    (folder / "config.yaml").write_text("trainer:")
    with pytest.raises(UserError, match=re.escape("config.yaml is damaged")):
        Recipe(root, recipe, Options()).check(folder, "ldm")
