"""The localizer in the package: what names it, when it is used unasked, how it is made."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import find, make_photo
from forgery_example import quick, write_photos
from localizer_example import checkpoint_of
from PIL import Image

from declip_pl import cli
from declip_pl.errors import UserError
from declip_pl.files import sha256
from declip_pl.inference import demo, saved_folder
from declip_pl.inference.demo_choices import Choice
from declip_pl.inference.localizer import Localizer
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.training.task import LocalizationTask

CARD = "its model card: "


@pytest.fixture
def shipped(starter, clip) -> Path:
    """A localizer inside the package."""
    return save(clip, starter, seed=0)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A current folder with a photo and no run."""
    folder = tmp_path / "place"
    folder.mkdir()
    Image.fromarray(make_photo(np.random.default_rng(0))).save(folder / "photo.png")
    monkeypatch.chdir(folder)
    return folder


def save(clip: Path, folder: Path, seed: int) -> Path:
    task = LocalizationTask(str(clip), "layer1", "linear", image_size=64, seed=seed)
    saved_folder.save(checkpoint_of(task), folder)
    return folder


def settings() -> dict:
    return json.loads(Path("outputs/predict/settings.json").read_text())


# Its name


def test_the_word_names_it_and_a_folder_of_that_name_needs_a_path(shipped, clip, place):
    other = save(clip, place / "starter", seed=1)
    digests = {folder: read_checkpoint(folder).sha256 for folder in (shipped, other)}
    assert len(set(digests.values())) == 2
    assert read_checkpoint("starter").sha256 == digests[shipped]
    assert read_checkpoint("./starter").sha256 == digests[other]
    assert read_checkpoint(Path("starter")).sha256 == digests[other]
    assert Localizer.from_pretrained("starter").name == "starter"
    assert demo.find_models("starter") == {"starter": Choice(shipped)}
    assert demo.find_models("./starter") == {"starter": Choice(Path("starter"))}


@pytest.mark.parametrize("there", [False, True])
def test_without_it_the_word_says_so(place, clip, there):
    if there:
        save(clip, place / "starter", seed=1)
    with pytest.raises(UserError, match=r"comes without its starter: .*make starter PHOTOS=") as e:
        read_checkpoint("starter")
    assert "./starter" in str(e.value)


def test_every_command_takes_it(shipped, place, tree, capsys):
    photo = str(find(tree, "ldm", "test")[0].image)
    quiet = "--trainer.enable_progress_bar=false"
    cli.main(["predict", photo, "--model=starter"])
    assert settings()["model"] == "starter"
    cli.main(["test", "starter", f"--data={tree}", "--generator=ldm", quiet])
    results = json.loads(Path("outputs/test/starter/test_metrics_ldm.json").read_text())
    assert results["checkpoint"]["sha256"] == read_checkpoint("starter").sha256
    cli.main(["evaluate", "starter", f"--data={tree}", "--name=x"])
    (model,) = json.loads(Path("outputs/cross_eval/x/matrix.json").read_text())["models"]
    assert model["name"] == "starter"
    cli.main(["compare", "starter", "starter"])
    assert str(shipped) not in Path("outputs/cross_eval/x/matrix.json").read_text()


# Where no model is named


def test_predict_takes_it_where_there_is_no_run_and_says_so(shipped, place, capsys):
    cli.main(["predict", "photo.png"])
    printed = capsys.readouterr().out
    assert "no trained localizer in outputs/train: using the starter that comes with" in printed
    assert f"({CARD}{shipped / 'README.md'})\n" in printed
    assert settings()["model"] == "starter"
    cli.main(["predict", "photo.png", "--resume"])
    cli.main(["predict", "photo.png", "--json"])
    out, err = capsys.readouterr()
    assert CARD in err
    found = json.loads(out.partition("regions in predictions.jsonl)\n")[2])
    assert found["model"] == "starter" and found["model_sha256"] == settings()["sha256"]


def test_a_run_comes_first_and_of_several_it_is_one_to_choose(
    shipped, place, fit_arguments, tmp_path, capsys, error_of
):
    cli.main(fit_arguments(**{"run.root": "outputs/train", "run.name": "one"}))
    cli.main(["predict", "photo.png"])
    printed = capsys.readouterr().out
    assert "model: outputs/train/one (the only finished run)" in printed
    assert "starter" not in printed and settings()["model"] == "one"
    assert list(demo.find_models(None)) == ["one"]
    shutil.copytree("outputs/train/one", "outputs/train/two")
    message = error_of("predict", "photo.png", "--output=other")
    assert "2 finished runs" in message and "--model outputs/train/two" in message
    assert "--model starter" in message


def test_the_demo_takes_it_where_there_is_no_run_and_says_so(shipped, place, capsys, error_of):
    assert demo.find_models(None) == {"starter": Choice(shipped)}
    assert CARD in capsys.readouterr().out
    Path("empty").mkdir()
    assert "no trained localizer in empty" in error_of("demo", "--model=empty")


def test_with_neither_a_run_nor_a_starter_predict_and_demo_say_how_to_get_one(place, error_of):
    assert "there is no finished run in outputs/train" in error_of("predict", "photo.png")
    assert "there is no trained localizer in outputs/train" in error_of("demo")


# How it is made


RECIPE = """
model:
  encoder: {clip}
  layer: layer1+layer2
  decoder: light
  image_size: 64
data:
  root: x
  generator: x
  batch_size: 4
  num_workers: 0
  forgeries: {{versions: 2}}
schedule: OneCycle
trainer: {{max_epochs: 2, accelerator: cpu, enable_progress_bar: false, logger: false}}
"""


def recipe_of_make(*options: str) -> list[list[str]]:
    """Return the words of the commands that ``make starter`` runs."""
    root = Path(__file__).parents[1]
    command = ["make", "--dry-run", "--directory", str(root), "starter", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stdout.replace("\\\n", " ").splitlines()
    found = [shlex.split(line) for line in lines if "bin/declip-pl" in line]
    return [words[1:] for words in found]


def test_one_command_makes_it_and_gives_the_same_file_twice(
    starter, clip, tmp_path, monkeypatch, capsys
):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(clip=clip))
    about = tmp_path / "about.md"
    about.write_text("## Photos\n\nTwenty, of nobody.\n")
    folders = [write_photos(tmp_path / name, 10, seed) for seed, name in enumerate("ab")]
    train, save = recipe_of_make(f"PHOTOS={folders[0]} {folders[1]}", f"CONFIG={recipe}")
    assert train[0] == "train" and save[:3] == ["save", "outputs/train/starter", save[2]]
    assert save[2] == "src/declip_pl/starter" and "--overwrite" in save
    made = []
    for turn in ("one", "two"):  # each with caches and a place of its own
        place = tmp_path / turn
        place.mkdir()
        quick(monkeypatch, place / "cache")
        monkeypatch.setenv("DECLIP_FEATURES", str(place / "features"))
        monkeypatch.chdir(place)
        cli.main(train)
        cli.main(["save", save[1], str(starter), f"--about={about}", "--overwrite"])
        made.append({path.name: sha256(path) for path in starter.iterdir()})
    assert made[0] == made[1] and made[0].keys() == {*saved_folder.FILES}
    printed = capsys.readouterr().out
    assert printed.count(f"SHA-256 of model.safetensors: {made[0]['model.safetensors']}") == 2
    card = (starter / "README.md").read_text()
    assert 'Localizer.from_pretrained("starter")' in card and "Twenty, of nobody." in card
    assert "10 photos of `a`, 10 photos of `b`, 2 times each" in card
    shutil.rmtree("outputs")
    cli.main(["predict", str(folders[0] / "further0.png")])
    assert settings()["model"] == "starter" and CARD in capsys.readouterr().out


def test_the_one_in_the_package_is_small_and_says_what_it_saw():
    folder = Path(__file__).parents[1] / "src/declip_pl/starter"
    assert sum((folder / file).stat().st_size for file in saved_folder.FILES) < 3_000_000
    found = read_checkpoint(folder)
    assert found.trained_on.generators == ("latent", "migan")
    assert sum(found.trained_on.forgeries.photos.values()) == 1745
    assert found.thresholds.floor and found.tested_on.untouched
    card = (folder / "README.md").read_text()
    assert (folder / "ABOUT.md").read_text().strip() in card
    for name in ("objects", "groceries", "aquarium"):
        assert f"On each generator of `{name}`, percent with 95 % bootstrap intervals" in card
        assert f"untouched test photos of `{name}`, where all that is marked is wrong" in card


def test_saving_takes_the_place_of_nothing_unasked(shipped, clip, tmp_path, error_of, capsys):
    target = tmp_path / "saved"
    cli.main(["save", "starter", str(target)])
    assert read_checkpoint(target).sha256 == read_checkpoint(shipped).sha256
    printed = capsys.readouterr().out
    assert f"{target}: 0.0" in printed and "MB (config.json, model.safetensors, README" in printed
    assert f"SHA-256 of model.safetensors: {read_checkpoint(shipped).sha256}" in printed
    assert "a README.md stands in" in error_of("save", "starter", str(target))
    other = save(clip, tmp_path / "other", seed=1)
    cli.main(["save", str(other), str(target), "--overwrite"])
    assert read_checkpoint(target).sha256 == read_checkpoint(other).sha256
    cli.main(["save", str(target), str(target), "--overwrite"])  # onto itself: its card anew
    assert read_checkpoint(target).sha256 == read_checkpoint(other).sha256


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_what_is_to_stand_in_the_card_has_to_be_text(shipped, tmp_path, error_of, content):
    about = tmp_path / "about.md"
    if content:
        about.write_bytes(content)
    message = error_of("save", "starter", str(tmp_path / "saved"), f"--about={about}")
    assert "about.md can't be read as text" in message and not (tmp_path / "saved").exists()
