"""What killed processes leave behind, and processes that want the same folder."""

import shutil
import threading
from pathlib import Path

import pytest
from conftest import PATIENCE, left
from hypothesis import given
from hypothesis import strategies as st

from declip_pl.data.mini import build_mini
from declip_pl.errors import UserError
from declip_pl.files import atomic_path, locked, remove_leftovers, sha256, work_folder
from declip_pl.training.run_folder import claim


class Killed(BaseException):
    """In place of a signal that leaves no time to clean up."""


def half_written(path: Path) -> Path:
    """Return what a process that is killed while it writes a file leaves beside it."""
    with pytest.raises(Killed), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        kept = temporary.with_name("kept")
        shutil.copy(temporary, kept)
        raise Killed
    return kept.rename(temporary)


@given(st.sampled_from(["a.json", "sub/b.safetensors", "sub/sub/c d.png", ".hidden", "noend"]))
def test_half_written_files_are_deleted_and_no_others(tmp_path, name):
    others = [tmp_path / other for other in (".gitkeep", ".my-settings.yaml", "a-12345678.json")]
    for path in others:
        path.write_text("of the user")
    leftover = half_written(tmp_path / name)
    assert leftover.exists()
    remove_leftovers(tmp_path)
    assert not leftover.exists() and all(path.exists() for path in others)


def test_folders_of_others_are_left_alone(tmp_path):
    with claim(tmp_path / "outputs" / "run", "training in"):
        being_written = half_written(tmp_path / "outputs" / "run" / "checkpoints" / "last.ckpt")
        with claim(tmp_path / "outputs", "predicting into"):
            assert being_written.exists()


def test_whoever_claims_a_folder_cleans_it_up(tmp_path):
    leftover = half_written(tmp_path / "run" / "checkpoints" / "last.ckpt")
    with claim(tmp_path / "run", "training in"):
        assert not leftover.exists()
        being_written = half_written(tmp_path / "run" / "metrics.csv")
        with pytest.raises(UserError), claim(tmp_path / "run", "training in"):
            pass
        assert being_written.exists()


def test_what_killed_builders_left_is_deleted(tmp_path):
    with work_folder(tmp_path / "model", "building") as work:
        killed = shutil.copytree(work, work.with_name(f"{work.name}x"))
        (killed / "weights").write_bytes(b"half")
    another = tmp_path / ".unfinished-models"
    another.mkdir()
    with work_folder(tmp_path / "model", "building") as work:
        assert not killed.exists() and not list(work.iterdir())
        (work / "weights").touch()
    assert left(tmp_path) == [another.name]


def test_of_two_one_waits_and_says_so(tmp_path, capsys):
    order, begun = [], threading.Event()

    def second():
        begun.wait(timeout=PATIENCE)
        with locked(tmp_path / "lock", "baking"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with locked(tmp_path / "lock", "baking"):
        begun.set()
        while "waiting" not in capsys.readouterr().out and thread.is_alive():
            thread.join(timeout=0.01)
        order.append("first")
    thread.join(timeout=PATIENCE)
    assert order == ["first", "second"]


def test_two_builders_of_mini_build_it_once(tmp_path, capsys):
    threads = [
        threading.Thread(target=build_mini, args=(tmp_path / "mini", {"test": 1})) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE)
    assert capsys.readouterr().out.count("mini: built") == 1
    assert left(tmp_path) == ["mini"]


def test_a_file_that_can_not_be_hashed_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} can't be read"):
        sha256(tmp_path)
