"""The wheel, installed outside the checkout: it trains, evaluates and predicts from any folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import make_clip, make_tree

from declip_pl.inference import saved_folder

ROOT = Path(__file__).parents[1]
METADATA = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


def run(*command, **options) -> str:
    done = subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment_without(*prefixes: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}


def pip(*arguments) -> None:
    # A source tree on PYTHONPATH would count as installed.
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)
    run(*command, env=environment_without("PYTHONPATH"))


def git(*arguments) -> None:
    # Tests that run inside a hook of git must not work on its repository.
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    run("git", *author, *arguments, env=environment_without("GIT_"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # Built from a copy: setuptools also packs what earlier builds left beside the sources.
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    left = shutil.ignore_patterns("*.egg-info", "__pycache__")
    for name in ("src", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=left)
    for name in METADATA:
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """A new environment's Python: declip-pl from the wheel, in a repository of something else."""
    project = tmp_path_factory.mktemp("project")
    git("init", "--quiet", project)
    git("-C", project, "commit", "--quiet", "--allow-empty", "--message=other")
    run(sys.executable, "-m", "venv", "--without-pip", project / "venv")
    program = project / "venv/bin/python"
    pip("--python", program, "install", "--no-deps", "--no-index", wheel)
    (packages,) = (project / "venv").glob("lib/python*/site-packages")
    # Its requirements are those of this environment; a plain path leaves out editable installs.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "requirements.pth").write_text("".join(f"{path}\n" for path in sorted(paths)))
    return program


def test_the_wheel_holds_all_sources_recipes_templates_and_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "experiments").rglob("*") if path.is_file()]
    recipes = {f"declip_pl/{path.relative_to(ROOT).as_posix()}" for path in files}
    templates = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src").rglob("templates/*")
        if path.is_file()
    }
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert recipes and templates and sources
    starter = {f"declip_pl/starter/{name}" for name in saved_folder.FILES}
    expected = recipes | templates | sources | starter | {"declip_pl/py.typed"}
    assert {name for name in names if name.startswith("declip_pl/")} == expected


def test_the_starter_is_in_the_wheel_and_small(wheel, python, tmp_path):
    files = [file for file in zipfile.ZipFile(wheel).infolist() if "/starter/" in file.filename]
    assert len(files) == 3 and sum(file.file_size for file in files) < 3_000_000
    code = "from declip_pl.model.checkpoint import read_checkpoint as r; print(r('starter').path)"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    found = run(python, "-c", code, cwd=tmp_path, env=environment).strip()
    assert found.startswith(str(python.parents[1])) and found.endswith("declip_pl/starter")


def test_the_wheel_trains_evaluates_and_predicts_from_any_folder(python, tmp_path):
    tree, clip = make_tree(tmp_path / "dolos"), make_clip(tmp_path / "tiny-clip")
    place = tmp_path / "elsewhere"
    place.mkdir()
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }

    def declip_pl(*arguments) -> str:
        return run(python.with_name("declip-pl"), *arguments, cwd=place, env=environment)

    place_of = "import declip_pl; print(declip_pl.__file__)"
    assert run(python, "-c", place_of, cwd=place, env=environment).startswith(
        str(python.parents[1])
    )
    options = ["--data", tree, "--encoder", clip, "--layer", "layer1", "--decoder", "linear"]
    printed = declip_pl("train", *options, "--trainer.max_epochs", "1", "--data.num_workers", "0")
    assert "declip_pl/experiments/quickstart.yaml (the quick recipe" in printed
    trained = place / "outputs/train/tiny-clip-layer1-linear-ldm"
    # Not the commit of the repository that the environment lies in.
    assert '"git_commit": null' in (trained / "test_metrics.json").read_text()
    declip_pl("evaluate", trained, "--data", tree)
    (report,) = place.glob("outputs/cross_eval/*/report.html")
    assert "tiny-clip" in report.read_text()
    photo = tree / "fake/ldm/images/test/0.png"
    assert "marked: " in declip_pl("predict", photo)
    assert (place / "outputs/predict/masks/0.png.png").is_file()
