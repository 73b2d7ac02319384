"""Recipes: the one reader of YAML, what a run is made of, and what version 0.1 wrote."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import make_clip, make_tree

from declip_pl import cli
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import load_network, read_checkpoint
from declip_pl.training.arguments import with_read_recipes
from declip_pl.training.recipe import Options, Recipe
from declip_pl.training.recipe_file import experiments, parse_yaml, read_list, read_recipe


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("number", ["1e-3", "1.0e-3", "0.001", "1E-3"])
def test_numbers_are_numbers_however_they_are_written(tmp_path, number):
    recipe = written(tmp_path / "r.yaml", f"model: {{learning_rate: {number}}}\n")
    assert read_recipe(recipe)["model"]["learning_rate"] == 0.001


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is no recipe: expected sections"),
        ("- a\n- b\n", "is no recipe: expected sections"),
        ("model: [unclosed", "can't be read as YAML"),
        ("model: {a: b}: c", "can't be read as YAML"),
    ],
)
def test_what_is_no_recipe_gives_one_error(tmp_path, error_of, tree, text, expected):
    recipe = written(tmp_path / "r.yaml", text)
    for command in (["fit"], ["train", f"--data={tree}"], ["cross-eval", f"--data={tree}"]):
        message = error_of(*command, "--config", str(recipe))
        assert expected in message and "r.yaml" in message and message.count("error:") == 1


def test_a_recipe_that_is_not_utf8_gives_one_error(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"model: {layer: \xff}")
    with pytest.raises(UserError, match=r"r\.yaml can't be read as YAML"):
        read_recipe(path)


def test_a_list_of_changes_is_a_list(tmp_path):
    with pytest.raises(UserError, match="expected a list of albumentations"):
        read_list(written(tmp_path / "p.yaml", "blur: 1"))


def test_the_recipes_that_come_with_the_package_are_found():
    assert {"paper.yaml", "quickstart.yaml"} <= {p.name for p in experiments().glob("*.yaml")}


def test_a_recipe_accepts_the_runs_that_it_made(tree, clip, tmp_path, monkeypatch):
    """Numbers such as 1e-3 stand in the recipe as text of YAML 1.1, in the run as numbers."""
    monkeypatch.chdir(tmp_path)
    recipe = written(
        tmp_path / "r.yaml",
        f"model: {{encoder: {clip}, layer: layer1, decoder: linear, learning_rate: 1e-2}}\n"
        "data: {root: x, generator: x, batch_size: 4, num_workers: 0}\n"
        "trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, logger: false}\n",
    )
    cli.main(["train", f"--data={tree}", f"--config={recipe}"])
    run = Path("outputs/train") / f"{clip.name}-layer1-linear-ldm"
    Recipe(tree, recipe, Options()).check(run, "ldm")
    other = Recipe(tree, recipe, Options(loss="dice"))
    with pytest.raises(UserError, match=r"another recipe \(model\.loss is bce, here dice\)"):
        other.check(run, "ldm")
    with pytest.raises(UserError, match="trained on other data"):
        other.check(run, "lama")


def first_version(folder: Path, clip: Path) -> Path:
    """Write a run as version 0.1 left it: config.yaml and best.ckpt."""
    description = read_checkpoint(folder).description()
    options = {
        "encoder": str(clip), "layer": "layer1", "decoder": "linear", "image_size": 64,
        "supervision": "full", "learning_rate": 1e-3, "pooling": "top", "seed": 0,
    }  # fmt: skip
    identity = description.identity
    content = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    del content["declip_pl"]
    content["encoder"] = {
        "name": identity.name, "layer": identity.layer, "source": identity.source,
        "sha256": identity.sha256,
    }  # fmt: skip
    content |= {"decoder": "linear", "image_size": 64, "hyper_parameters": options}
    content["DolosDataModule"] = {
        "generators": ["ldm"],
        "supervision": "full",
        "files_sha256": description.trained_on.files_sha256,
    }
    torch.save(content, folder / "checkpoints/best.ckpt")
    config = (folder / "config.yaml").read_text()
    config = config.replace("declip_pl.training.schedules", "declip_pl.callbacks")
    config = re.sub(r"\n  (layout|polarity|perturbation): .*", "", config)
    config = config.replace("\ndata:\n", "\ndata:\n  convention: dolos\n  image_size: 64\n")
    config = re.sub(r"\n  loss: .*", "", config)
    (folder / "config.yaml").write_text(config)
    return folder


def test_runs_of_the_first_version_are_used_tested_and_repeated(fit_arguments, tmp_path, clip):
    cli.main(fit_arguments(**{"run.name": "x"}))
    scores = json.loads((tmp_path / "outputs/x/test_metrics.json").read_text())["scores"]
    run = first_version(tmp_path / "outputs/x", clip)
    checkpoint = read_checkpoint(run)
    assert checkpoint.trained_on.generators == ("ldm",) and checkpoint.loss == "bce"
    assert load_network(checkpoint)(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 256, 256)
    cli.main(["test", str(run), "--generator=ldm"])
    tested = json.loads((run / "test_metrics_ldm.json").read_text())["scores"]["ldm"]
    assert tested == {
        name: value
        for name, value in scores["ldm"].items()
        if not re.search("tuned|threshold|deci", name)  # such checkpoints have none
    }
    cli.main(["fit", f"--config={run / 'config.yaml'}", "--run.name=again"])
    again = json.loads((tmp_path / "outputs/again/test_metrics.json").read_text())["scores"]
    assert again == scores


def test_white_means_fake_where_version_01_said_so(tmp_path):
    recipe = written(
        tmp_path / "r.yaml", "data: {root: /d, convention: autosplice, source: ffhq, image_size: 9}"
    )
    assert read_recipe(recipe)["data"] == {"root": "/d/ffhq", "polarity": "white"}


def test_checkpoints_of_a_newer_version_say_so(fit_arguments, tmp_path):
    cli.main(fit_arguments(**{"run.name": "x"}))
    path = tmp_path / "outputs/x/checkpoints/best.ckpt"
    content = torch.load(path, weights_only=True)
    content["declip_pl"]["format"] = 99
    torch.save(content, path)
    with pytest.raises(UserError, match="written by a newer declip-pl"):
        read_checkpoint(path)
    content["declip_pl"] |= {"format": 2, "layer": 7}
    torch.save(content, path)
    with pytest.raises(UserError, match="its description is damaged"):
        read_checkpoint(path)


def test_broken_weights_are_refused(fit_arguments, tmp_path):
    cli.main(fit_arguments(**{"run.name": "x"}))
    path = tmp_path / "outputs/x/checkpoints/best.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["network.decoder.fc.0.bias"][:] = torch.nan
    torch.save(content, path)
    with pytest.raises(UserError, match=r"NaN or infinite numbers in the decoder's fc\.0\.bias"):
        read_checkpoint(path)


def test_an_encoder_in_a_folder_of_any_name(tmp_path):
    for name in ("RN50_mine", "a+RN50"):
        folder = make_clip(tmp_path / name / "clip")
        tree = make_tree(tmp_path / name / "data", ("ldm",), {"train": 1, "valid": 1, "test": 1})
        recipe = Recipe(
            tree, experiments() / "quickstart.yaml", Options(encoder=str(folder), layer="layer1")
        )
        assert recipe.run("ldm", 0).name == "clip-layer1-light-ldm"


def test_numbers_in_parts_on_the_command_line_are_numbers(tmp_path):
    recipe = written(tmp_path / "r.yaml", "model: {decoder: light}\n")
    part = "--model.loss={class_path: my.Loss, init_args: {weight: 1e-3}}"
    (joined,) = with_read_recipes(["--config", str(recipe), part])
    sections = parse_yaml(joined.removeprefix("--config="))
    assert sections["model"]["loss"]["init_args"] == {"weight": 0.001}
    assert sections["model"]["decoder"] == "light"
