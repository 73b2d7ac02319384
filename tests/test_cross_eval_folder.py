"""Which folder a cross-evaluation has, and what may stand there already."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from crosseval_example import as_matrix, plain_matrix, plain_model

from declip_pl.cross_eval.folder import check_folder, choose_folder, fingerprint, name_of
from declip_pl.cross_eval.matrix import read_matrix, write_matrix
from declip_pl.errors import UserError
from declip_pl.files import short_hash

ROOT = Path("outputs/cross_eval")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def data(root="/data/objects", perturbation="none"):
    return SimpleNamespace(root=Path(root), perturbation=perturbation)


def write(folder, root, perturbation="none"):
    """Write a matrix of a data set."""
    content = plain_matrix([plain_model("ldm")], ("ldm",), perturbation=perturbation)
    content["data"] |= {"root": root, "name": "objects"}
    write_matrix(folder, as_matrix(content))
    return folder


def test_a_folder_is_called_after_data_models_and_perturbation():
    assert choose_folder(data(), "vit") == ROOT / "objects-vit"
    perturbed = choose_folder(data(perturbation="jpeg"), "vit")
    assert perturbed == ROOT / f"objects-vit-perturbed-{short_hash('jpeg')}"
    assert choose_folder(data(perturbation="jpeg"), "vit", "mine") == ROOT / "mine"
    assert choose_folder(data(), "vit", "x" * 300).name.startswith("x" * 187 + "-")
    for name in ("x" * 300, None):
        assert len(choose_folder(data("/data/" + "y" * 250), "z" * 250, name).name) == 200


@pytest.mark.parametrize("changes", ["none", "jpeg"])
def test_another_data_set_of_the_same_name_has_a_folder_of_its_own(changes):
    ours, theirs = data(perturbation=changes), data("/other/objects", changes)
    first = choose_folder(ours, "vit")
    write(first, fingerprint(ours.root), changes)
    assert choose_folder(ours, "vit") == first
    place = fingerprint(theirs.root)[:6]
    assert choose_folder(theirs, "vit") == ROOT / first.name.replace("-vit", f"-{place}-vit")


def test_a_place_is_told_by_a_hash_of_its_absolute_path(here):
    assert fingerprint(Path("x")) == fingerprint(here / "x")
    assert fingerprint(Path("/a")) == hashlib.sha256(b"/a").hexdigest()[:16]


def test_models_have_a_name_whatever_their_order():
    a, b, c = (SimpleNamespace(name=name) for name in "abc")
    assert name_of([b, a]) == name_of([a, b]) == f"2-models-{short_hash(chr(10).join('ab'))}"
    assert name_of([a]) == "a" and name_of([a, b]) != name_of([a, c])


def test_nothing_there_is_fine(here):
    assert check_folder(here / "empty", data()) is None


@pytest.mark.parametrize("root", [fingerprint(Path("/data/objects")), "/data/objects"])
def test_a_matrix_of_the_same_is_returned(here, root):
    """Version 0.1 wrote the path itself."""
    folder = write(here / "x", root)
    assert check_folder(folder, data()) == read_matrix(folder)


def test_other_data_or_another_perturbation_is_refused(here):
    folder = write(here / "x", fingerprint(Path("/data/objects")), "jpeg")
    with pytest.raises(UserError) as raised:
        check_folder(folder, data("/other/objects", "jpeg"))
    assert str(raised.value) == (
        f"{folder} is of the data objects in another place than /other/objects; name another "
        "folder (--name; make: RUN=)"
    )
    with pytest.raises(UserError) as raised:
        check_folder(folder, data())
    assert str(raised.value) == (
        f"{folder} is of photos with the perturbation jpeg, not none; name another folder (--name; "
        "make: RUN=)"
    )
    assert check_folder(folder, data(perturbation="jpeg"))


def test_a_damaged_matrix_is_named_and_deleted(capsys):
    folder = choose_folder(data(), "vit")
    folder.mkdir(parents=True)
    file = folder / "matrix.json"
    for read in (lambda: check_folder(folder, data()), lambda: choose_folder(data(), "vit")):
        file.write_text("{")
        assert read() in (None, folder)
        line = f"{file} is damaged: it is made anew from the finished cells\n"
        assert capsys.readouterr().out == line
        assert not file.exists()
