"""The wheel, installed outside the checkout: it trains and predicts from any folder."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import make_clip, make_tree

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    run(*build, "--config-setting=--quiet", ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory) -> Path:
    """The command in a new environment that has declip-pl from the wheel and nothing editable."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    run(folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    # Its requirements are those of this environment; a plain path leaves out editable installs.
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin/declip-pl"


def test_the_wheel_holds_recipes_templates_and_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {f"declip_pl/experiments/{p.name}" for p in (ROOT / "experiments").glob("*.yaml")}
    templates = {
        f"declip_pl/cross_eval/views/{p.name}"
        for p in (ROOT / "src/declip_pl/cross_eval/views").glob("*.j2")
    }
    assert recipes and templates and recipes | templates | {"declip_pl/py.typed"} <= names
    sources = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    assert sources <= names


def test_the_wheel_trains_and_predicts_from_any_folder(program, tmp_path):
    tree, clip = make_tree(tmp_path / "dolos"), make_clip(tmp_path / "tiny-clip")
    place = tmp_path / "elsewhere"
    place.mkdir()
    run("git", "init", "--quiet", place)  # a repository that is not the package's
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    options = {"cwd": place, "env": environment}
    assert str(place) not in run(program, "--version", **options)
    arguments = ["--data", tree, "--encoder", clip, "--layer", "layer1", "--decoder", "linear"]
    arguments += ["--trainer.max_epochs", "1", "--data.num_workers", "0"]
    printed = run(program, "train", *arguments, **options)
    assert "quickstart.yaml (the quick recipe" in printed
    results = (place / "outputs/train/tiny-clip-layer1-linear-ldm/test_metrics.json").read_text()
    assert '"git_commit": null' in results
    photo = tree / "fake/ldm/images/test/0.png"
    assert "1 photos" in run(program, "predict", photo, **options)
    assert (place / "outputs/predict/masks/0.png.png").is_file()
