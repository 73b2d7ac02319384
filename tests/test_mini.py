import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE, left, wait_until
from PIL import Image

from declip_pl.data import mini
from declip_pl.data.inpainting import fills
from declip_pl.errors import UserError

COUNTS = {"train": 12, "valid": 2, "test": 2}  # 12: every training photo


def load(path):
    with Image.open(path) as image:
        return np.asarray(image)


def content(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("built") / "mini"
    mini.build_mini(root, COUNTS, workers=2)
    return root


@pytest.fixture(scope="module")
def images(root):
    """(split, name) of every image."""
    found = [(p.parent.name, p.name) for p in sorted((root / "real").rglob("*.png"))]
    assert len(found) == sum(COUNTS.values())
    return found


def test_layout_is_that_of_dolos_with_pairs_everywhere(root, images):
    expected = {Path("README.txt"), Path("mini.json")}
    for split, name in images:
        expected.add(Path("real") / split / name)
        for generator in ("ldm", "lama", "pluralistic", "repaint-p2-9k"):
            for kind in ("images", "masks"):
                expected.add(Path("fake") / generator / kind / split / name)
    assert set(content(root)) == expected
    assert {s: sum(split == s for split, _ in images) for s in COUNTS} == COUNTS
    for split, name in images:
        assert load(root / "real" / split / name).shape == (256, 256, 3)
        assert load(root / "fake/ldm/images" / split / name).shape == (256, 256, 3)


def test_masks_are_one_bit_and_3_to_25_percent_fake(root, images):
    for split, name in images:
        masks = []
        for generator in mini.GENERATORS:
            path = root / "fake" / generator / "masks" / split / name
            with Image.open(path) as mask:
                assert mask.mode == "1"
                masks.append(np.asarray(mask.convert("L")))
        assert set(np.unique(masks[0])) == {0, 255}
        assert 0.03 <= (masks[0] == 0).mean() <= 0.25
        assert all((mask == masks[0]).all() for mask in masks[1:])


@pytest.mark.parametrize("generator", ["lama", "pluralistic", "repaint-p2-9k"])
def test_pasted_fakes_differ_inside_the_hole_alone(root, images, generator):
    for split, name in images:
        real = load(root / "real" / split / name)
        fake = load(root / "fake" / generator / "images" / split / name)
        changed = (real != fake).any(axis=2)
        hole = ~load(root / "fake" / generator / "masks" / split / name)
        assert not changed[~hole].any()
        assert changed[hole].mean() > 0.5


def test_ldm_decodes_the_whole_image(root, images):
    inside, outside = [], []
    for split, name in images:
        real = load(root / "real" / split / name).astype(float)
        fake = load(root / "fake/ldm/images" / split / name).astype(float)
        hole = ~load(root / "fake/ldm/masks" / split / name)
        error = np.abs(real - fake)
        assert (error[~hole].max(axis=1) > 0).mean() > 0.5
        assert error[~hole].mean() < 10  # the photo is still there
        inside.append(error[hole].mean())
        outside.append(error[~hole].mean())
    assert np.mean(inside) > 2 * np.mean(outside)


@pytest.mark.parametrize("fill", [fills.lama, fills.pluralistic, fills.repaint, fills.ldm])
def test_fills_do_not_see_what_was_in_the_hole(fill):
    crop = mini.real_crop("test", 0)
    hole = mini.random_hole("test", 0, crop)
    other = np.where(hole[..., None], 255 - crop, crop)
    extra = (mini.train_autoencoder(),) if fill is fills.ldm else ()
    one, two = (
        fill(image.astype(np.float32), hole, np.random.default_rng(0), *extra)
        for image in (crop, other)
    )
    np.testing.assert_allclose(one[hole], two[hole], atol=1e-3)


def test_autoencoder_is_fitted_on_training_photos_only(monkeypatch):
    fitted_on, crop = [], mini.real_crop
    monkeypatch.setattr(mini, "real_crop", lambda *of: fitted_on.append(of) or crop(*of))
    for split in ("valid", "test"):
        monkeypatch.setitem(mini.PHOTOS, split, ("absent.png",))
    autoencoder = mini.train_autoencoder()
    assert fitted_on == [("train", index) for index in range(8 * len(mini.PHOTOS["train"]))]
    gram = autoencoder.components @ autoencoder.components.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)


def test_no_source_is_in_two_splits(images):
    sources = {split: set() for split in COUNTS}
    for split, name in images:
        stem = name.rsplit("-", 1)[0]
        sources[split].add(stem.removesuffix("_left").removesuffix("_right"))
    assert sources["train"] == {"motorcycle", "coffee", "ihc", "retina", "hubble_deep_field"}
    assert not sources["train"] & sources["valid"]
    assert not sources["train"] & sources["test"]
    assert not sources["valid"] & sources["test"]


def test_same_bytes_with_another_number_of_workers(root, tmp_path):
    mini.build_mini(tmp_path / "again", COUNTS, workers=1)
    assert content(tmp_path / "again") == content(root)


def test_complete_set_is_left_alone_and_damage_is_noticed(tmp_path, capsys):
    root, counts = tmp_path / "mini", {"test": 1}
    root.mkdir()  # an empty folder is no obstacle
    mini.build_mini(root, counts)
    assert str(root) in capsys.readouterr().out
    before = content(root)
    assert not mini.build_mini(root, counts)
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="remove the folder"):
        mini.build_mini(root, {"test": 2})
    manifest = json.loads((root / "mini.json").read_text())
    (root / "mini.json").write_text(json.dumps(manifest | {"recipe": 0}))
    with pytest.raises(UserError, match=r"recipe 0.*remove the folder"):
        mini.build_mini(root, counts)
    (root / "mini.json").write_text(json.dumps(manifest, indent=2) + "\n")
    assert content(root) == before
    next((root / "real").rglob("*.png")).unlink()
    with pytest.raises(UserError, match=r"changed.*remove the folder"):
        mini.build_mini(root, counts)


def test_foreign_folder_is_not_touched(tmp_path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini/thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("not a folder")
    for name in ("mini", "file"):
        with pytest.raises(UserError, match=str(tmp_path / name)):
            mini.build_mini(tmp_path / name, {"test": 1})
    assert content(tmp_path) == {
        Path("mini/thesis.txt"): b"years of work",
        Path("file"): b"not a folder",
    }


def test_missing_photo_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(mini.PHOTOS, "test", ("absent.png",))
    with pytest.raises(UserError, match=r"absent\.png.*scikit-image"):
        mini.build_mini(tmp_path / "mini", {"test": 3})
    assert left(tmp_path) == []


def test_ctrl_c_leaves_nothing(tmp_path):
    code = (
        "import signal, sys; from pathlib import Path; from declip_pl.data.mini import build_mini;"
        # A shell may have started the tests with Ctrl-C switched off, which is inherited.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "build_mini(Path(sys.argv[1]) / 'mini')"
    )
    path = os.pathsep.join([str(Path(mini.__file__).parents[2]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        photos = ".unfinished-mini-*/mini/real/train/*.png"
        wait_until(lambda: list(tmp_path.glob(photos)), process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert left(tmp_path) == []
