"""Walking folders: what is a sample, what is left out and named, and what links lead to."""

import os

import numpy as np
import pytest
from conftest import check_all, find, make_photo, make_tree
from hypothesis import given
from hypothesis import strategies as st
from image_files import PHOTO, file_of
from PIL import Image

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.folders import SHOWN, describe_left_out, walk
from declip_pl.data.layout import build_layout, left_out_line
from declip_pl.data.mini import build_mini
from declip_pl.errors import UserError
from declip_pl.inference.predict import find_photos

HIDDEN = ("._0.png", ".DS_Store", ".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/0.png",
          "@eaDir/0.png/thumb.jpg", ".trash/a/b.png")  # fmt: skip
OTHERS = ("Thumbs.db", "notes.txt", "camera.heic", "raw")


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(file_of(PHOTO, "PNG"))


def names(folder, paths):
    return [path.relative_to(folder).as_posix() for path in paths]


def check(root, *generators):
    layout = build_layout("dolos", root)
    return check_all(layout, generators or ["ldm", "real"], "black")


def test_photos_are_found_by_suffix_and_the_rest_is_told(tmp_path):
    photos = ("a/b.PNG", "a.jfif", "b.JPE", "c.gif", "d.avif", "e.jp2", "f.ppm", "g.webp")
    fill(tmp_path, (*photos, *HIDDEN, *OTHERS))
    found = walk(tmp_path)
    assert names(tmp_path, found.photos) == list(photos)  # folder by folder
    hidden = {name.partition("/")[0] for name in HIDDEN}
    assert names(tmp_path, found.left_out) == sorted({*hidden, *OTHERS})
    line = describe_left_out(tmp_path, found.left_out)
    assert line.startswith(f"{tmp_path}: left out what is no photo by its name: 1 .db (Thumbs.db)")
    assert "1 .heic (camera.heic)" in line and "1 without suffix (raw)" in line
    assert "6 hidden (.DS_Store, ._0.png, .ipynb_checkpoints, ...)" in line and SHOWN == 3


@given(data=st.data())
def test_every_file_is_taken_or_left_out_once(tmp_path_factory, data):
    """Whatever the names, nothing is silent and nothing is counted twice."""
    folder = tmp_path_factory.mktemp("walk")
    part = st.sampled_from(["a", "b", ".x", "__MACOSX", "c.png"])
    ends = st.sampled_from(["1.png", "2.JPG", "3.txt", "._1.png", "4"])
    made = data.draw(st.sets(st.tuples(st.lists(part, max_size=3).map("/".join), ends)))
    fill(folder, (f"{parent}/{name}".lstrip("/") for parent, name in made))
    found = walk(folder)
    every = {path for path in folder.rglob("*") if path.is_file()}
    below = {path: {path, *path.parents} & {*found.photos, *found.left_out} for path in every}
    assert all(len(taken) == 1 for taken in below.values())
    assert not [path for path in found.photos if "/." in path.as_posix() or "MACOSX" in str(path)]


def test_a_folder_that_is_not_there_is_empty_and_one_that_is_locked_is_named(tmp_path, monkeypatch):
    assert walk(tmp_path / "nowhere").photos == []

    def locked(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(UserError, match=f"can't look into the folder {tmp_path}: Permission"):
        walk(tmp_path)


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    fill(tmp_path, ("data/0.png", "store/deep/1.png", "store/2.png"))
    data = tmp_path / "data"
    (data / "linked").symlink_to(tmp_path / "store")
    (data / "again").symlink_to(tmp_path / "store/deep")
    (data / "file.png").symlink_to(tmp_path / "store/2.png")
    (data / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (data / "self.png").symlink_to(data / "self.png")
    (tmp_path / "store/up").symlink_to(data)
    (tmp_path / "store/deep/here").symlink_to(tmp_path / "store/deep")
    found = walk(data)
    assert names(data, found.photos) == [
        "0.png", "again/1.png", "file.png", "linked/2.png", "linked/deep/1.png"
    ]  # fmt: skip
    assert names(data, found.to_nothing) == ["gone.png", "self.png"]
    assert names(data, found.left_out) == ["again/here", "linked/deep/here", "linked/up"]
    assert "3 link to a folder above" in describe_left_out(data, found.left_out)


def test_what_is_no_file_is_left_out(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert names(tmp_path, walk(tmp_path).left_out) == ["pipe.png"]
    assert "1 no ordinary file (pipe.png)" in describe_left_out(tmp_path, walk(tmp_path).left_out)


@pytest.fixture
def littered(own_tree):
    """A data set that file managers, notebooks and archivers have been in."""
    for folder in ("fake/ldm/images/train", "fake/ldm/masks/train", "real/test"):
        fill(own_tree / folder, (*HIDDEN, *OTHERS))
    fill(own_tree / "fake", (".ipynb_checkpoints/images/train/0.png", "__MACOSX/ldm/._0.png"))
    return own_tree


def test_litter_is_neither_sample_nor_generator_and_is_told(littered, tree, capsys):
    clean, own = build_layout("dolos", tree), build_layout("dolos", littered)
    assert own.generators() == clean.generators()
    for split in ("train", "valid", "test"):
        for name in ("ldm", "lama", "real"):
            expected = names(tree, [s.image for s in find(tree, name, split)])
            assert names(littered, [s.image for s in find(littered, name, split)]) == expected
    report = check(littered)
    assert report.errors == [] and len(report.warnings) == 1
    assert report.warnings[0] == left_out_line(own, ["ldm", "real"])
    assert "3 .heic (fake/ldm/images/train/camera.heic, " in report.warnings[0]
    assert "18 hidden" in report.warnings[0]
    assert check(littered, "lama").warnings == []
    LocalizationDataModule(str(littered), "ldm").prepare_data()
    assert report.warnings[0] in capsys.readouterr().out
    assert LocalizationDataModule(str(littered), "ldm").fingerprint == LocalizationDataModule(
        str(tree), "ldm"
    ).fingerprint  # fmt: skip


def test_a_folder_of_litter_alone_is_no_split(own_tree):
    for path in (own_tree / "real/test").iterdir():
        path.rename(path.with_name(f".{path.name}"))
    data = LocalizationDataModule(str(own_tree), "ldm")
    assert not data.has_reals


def test_a_data_set_of_links_is_whole(tree, tmp_path):
    """Sub-folders, generators and files that are links count like any other."""
    root = tmp_path / "linked"
    (root / "fake").mkdir(parents=True)
    (root / "fake/ldm").symlink_to(tree / "fake/ldm")
    (root / "real").mkdir()
    for split in ("train", "valid", "test"):
        (root / "real" / split).mkdir()
        (root / "real" / split / "inner").symlink_to(tree / "real" / split)
    assert build_layout("dolos", root).generators() == ["ldm"]
    for name in ("ldm", "real"):
        assert len(find(root, name, "train")) == len(find(tree, name, "train"))
    assert check(root).errors == []


def test_links_to_nothing_are_errors_of_the_check(own_tree):
    gone = own_tree / "real/test/gone.png"
    gone.symlink_to(own_tree / "nowhere.png")
    assert check(own_tree).errors == [f"{gone}: a link to nothing"]


def test_predict_walks_alike(tmp_path, capsys):
    folder = tmp_path / "photos"
    fill(folder, ("0.png", "inner/1.jfif", *HIDDEN, *OTHERS))
    fill(tmp_path / "store", ("2.png",))
    (folder / "linked").symlink_to(tmp_path / "store")
    (folder / "back").symlink_to(folder)
    expected = ["0.png", "inner/1.jfif", "linked/2.png"]
    assert list(find_photos([str(folder)])) == expected
    assert "1 .heic (camera.heic)" in capsys.readouterr().out
    assert sorted(find_photos([f"{folder}/**/*.png"])) == ["0.png", "linked/2.png"]
    (folder / "out").mkdir()
    fill(folder / "out", ("masks/0.png.png",))
    assert list(find_photos([str(folder)], leave_out=folder / "out")) == expected
    with pytest.raises(UserError, match="no photo in"):
        find_photos([str(folder / "out/masks")], leave_out=folder / "out")
    fill(tmp_path / "others", OTHERS)
    with pytest.raises(UserError, match=r"no photo in .*others: looked for .*1 \.heic"):
        find_photos([str(tmp_path / "others")])


def test_litter_in_mini_is_no_change_of_it(tmp_path):
    counts = {"train": 1, "valid": 1, "test": 1}
    assert build_mini(tmp_path / "mini", counts)
    fill(tmp_path / "mini/real/train", HIDDEN)
    assert not build_mini(tmp_path / "mini", counts)


def test_the_same_photo_in_two_splits_is_a_leak(own_tree):
    """Whatever its name and its file, and whether it is fake or real."""
    train, test = own_tree / "fake/ldm/images/train", own_tree / "fake/ldm/images/test"
    Image.open(train / "3.png").save(test / "1.png", compress_level=0)
    Image.open(own_tree / "real/valid/0.png").save(own_tree / "real/test/2.png")
    report = check(own_tree)
    assert report.errors == [] and report.warnings == [
        f"{test / '1.png'}: in test, the same pixels as {train / '3.png'} in train",
        f"{own_tree}/real/test/2.png: in test, the same pixels as {own_tree}/real/valid/0.png in "
        "valid",
    ]


def test_a_fake_that_is_its_real_is_told(own_tree):
    fake, real = own_tree / "fake/lama/images/train/0.png", own_tree / "real/train/0.png"
    Image.open(real).save(fake)
    expected = [f"{fake}: a fake with the same pixels as the real {real}"]
    assert check(own_tree, "lama", "ldm", "real").warnings == expected


def test_photos_of_one_shape_and_none_that_can_be_read_are_no_leak(own_tree):
    """Equal bytes of another shape, and two files that are damaged."""
    pixels = make_photo(np.random.default_rng(9), 96)
    Image.fromarray(pixels).save(own_tree / "real/train/0.png")
    Image.fromarray(pixels.reshape(48, 192, 3)).save(own_tree / "real/test/0.png")
    for split in ("train", "valid"):
        (own_tree / f"real/{split}/1.png").write_bytes(b"damaged")
    report = check(own_tree)
    assert len(report.errors) == 2 and report.warnings == []


def test_the_test_tree_itself_has_no_leak(tmp_path):
    """The warnings above do not come from the tree that tests share."""
    assert check(make_tree(tmp_path / "dolos"), "ldm", "lama", "real").warnings == []


def test_a_layout_of_ones_own_tells_what_it_leaves_out(tmp_path):
    class Silent:
        root = tmp_path

    class Telling(Silent):
        def left_out(self, generators):
            return [tmp_path / f"{name}.heic" for name in generators]

    assert left_out_line(Silent(), ["brush"]) == ""
    assert left_out_line(Telling(), ["brush"]).endswith(": 1 .heic (brush.heic)")
