"""The localizer in the package: what names it, when it is used unasked, how it is made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import find, make_photo
from localizer_example import checkpoint_of
from PIL import Image

from declip_pl import cli
from declip_pl.errors import UserError
from declip_pl.inference import demo, saved_folder
from declip_pl.inference.localizer import Localizer
from declip_pl.model.checkpoint import read_checkpoint
from declip_pl.training.task import LocalizationTask

FORGED = "trained on forgeries alone; its model card: "


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
    assert demo.find_models("starter") == {"starter": shipped}
    assert demo.find_models("./starter") == {"starter": Path("starter")}


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
    cli.main(["cross-eval", "starter", f"--data={tree}", "--name=x"])
    (model,) = json.loads(Path("outputs/cross_eval/x/matrix.json").read_text())["models"]
    assert model["name"] == "starter"
    cli.main(["compare", "starter", "starter"])
    assert str(shipped) not in Path("outputs/cross_eval/x/matrix.json").read_text()


# Where no model is named


def test_predict_takes_it_where_there_is_no_run_and_says_so(shipped, place, capsys):
    cli.main(["predict", "photo.png"])
    line = f"no trained localizer in outputs/train: using the starter that comes with declip-pl ({FORGED}"
    printed = capsys.readouterr().out
    assert line + f"{shipped / 'README.md'})\n" in printed
    assert settings()["model"] == "starter"
    cli.main(["predict", "photo.png", "--resume"])
    cli.main(["predict", "photo.png", "--json"])
    out, err = capsys.readouterr()
    assert FORGED in err
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
    assert demo.find_models(None) == {"starter": shipped}
    assert FORGED in capsys.readouterr().out
    Path("empty").mkdir()
    assert "no trained localizer in empty" in error_of("demo", "--models=empty")


def test_with_neither_a_run_nor_a_starter_predict_and_demo_say_how_to_get_one(place, error_of):
    assert "there is no finished run in outputs/train" in error_of("predict", "photo.png")
    assert "there is no trained localizer in outputs/train" in error_of("demo")
