"""What results say of the code that made them: its version, and the commit of its own clone."""

import importlib.metadata
import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import declip_pl
from declip_pl.training import results

ROOT = Path(__file__).parents[1]


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *author, *arguments]
    # Tests that run inside a hook of git must not work on its repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.strip()


def repository(folder: Path) -> Path:
    """Make a repository with one commit."""
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=first")
    return folder


def clone(folder: Path) -> Path:
    """Make a repository that holds what a clone of declip-pl does."""
    repository(folder)
    shutil.copytree(ROOT / "src/declip_pl/training", folder / "src/declip_pl/training")
    shutil.copy(ROOT / "setup.cfg", folder)
    git(folder, "add", "setup.cfg", "src")
    git(folder, "commit", "--quiet", "--message=all")
    return folder


@pytest.fixture
def commit_in(monkeypatch):
    """The commit that the package finds if it lies in a folder (``src``, ``site-packages``)."""

    def commit(source: Path) -> str | None:
        file = source / "declip_pl/training/results.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(results, "__file__", str(file))
        return results.git_commit()

    return commit


def test_versions_are_known_without_an_installed_package(monkeypatch):
    from_name = importlib.metadata.Distribution.from_name

    def without_declip(name):
        if name == "declip-pl":
            raise PackageNotFoundError(name)
        return from_name(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", without_declip)
    assert results.circumstances()["versions"]["declip-pl"] == declip_pl.__version__


@pytest.mark.parametrize("place", ["venv/lib/python3.11/site-packages", "src"])
def test_a_repository_around_the_package_is_not_its_commit(commit_in, tmp_path, place):
    other = repository(tmp_path / "other")
    assert commit_in(other / place) is None


def test_a_copy_in_another_project_does_not_have_that_projects_commit(commit_in, tmp_path):
    other = repository(tmp_path / "other")
    (other / "setup.cfg").write_bytes(b"[metadata]\nname = other\nauthor = \xff\n")
    assert commit_in(other / "src") is None


def test_the_commit_is_that_of_the_packages_own_clone(commit_in, tmp_path):
    own = clone(tmp_path / "own")
    commit = git(own, "rev-parse", "HEAD")
    assert commit_in(own / "src") == commit
    git(own, "worktree", "add", "--quiet", "../second")
    assert commit_in(tmp_path / "second/src") == commit
    (own / "src/declip_pl/training/results.py").write_text("edited = True\n")
    assert commit_in(own / "src") == f"{commit}-dirty"


def test_git_hooks_of_another_repository_do_not_change_the_commit(commit_in, tmp_path, monkeypatch):
    own, other = clone(tmp_path / "own"), repository(tmp_path / "other")
    commit = git(own, "rev-parse", "HEAD")
    # git sets it for the hooks that it runs.
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert commit_in(own / "src") == commit
