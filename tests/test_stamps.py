"""Photos and masks that are replaced while a run reads them."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import find
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from declip_pl import cli
from declip_pl.data import datamodule
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import LocalizationDataset
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.stamps import Stamps, content_hash
from declip_pl.data.transforms import build_transform
from declip_pl.errors import UserError
from declip_pl.model.features import Preprocessing
from declip_pl.training.callbacks import History

CHANGED = "has changed since this run began"
WHOLE = f"{CHANGED} to read the data; start again with data that stay as they are"


def replace(path: Path) -> None:
    """Put another valid image in a file's place, as rsync and editors do."""
    other = path.with_name("other.tmp")
    Image.fromarray(255 - np.asarray(Image.open(path))).save(other, "PNG")
    other.replace(path)


def same_size(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")


def touched(path: Path) -> None:
    """Leave the content; whether it is the same can't be told from outside."""
    os.utime(path, ns=(0, 1))


def older(path: Path) -> None:
    """Bring a file back that is older, with its time."""
    path.write_bytes(b"0" * (path.stat().st_size + 1))
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("change", [replace, same_size, touched, older, Path.unlink])
def test_a_file_that_changes_is_named(own_tree, change):
    path = find(own_tree, "ldm", "valid")[0].image
    stamps = Stamps([path])
    stamps.check(path)
    change(path)
    for kept in (stamps, pickle.loads(pickle.dumps(stamps))):
        with pytest.raises(UserError, match=f"^{path} {WHOLE}$"):
            kept.check(path)


READERS = {
    "an item's pixels": ("image", lambda data: data[1]),
    "an item's mask": ("mask", lambda data: data[1]),
    "a batch": ("mask", lambda data: data.__getitems__([2, 1])),
    "masks in memory": ("mask", lambda data: data.preload(torch.device("cpu"))),
    "all masks": ("mask", lambda data: list(data.masks())),
    "a photo": ("image", lambda data: data.photo(data.path(1))),
    "all photos": ("image", lambda data: data.check_photos()),
    "a share of the set": ("mask", lambda data: data.every(2, 1)[0]),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_set_notices_whatever_of_it_is_read(own_tree, reader):
    part, read = READERS[reader]
    data = LocalizationDataset(
        "x", find(own_tree, "ldm", "valid"), build_transform(Preprocessing(64)), "black"
    )
    read(data)
    replace(getattr(data.samples[1], part))
    with pytest.raises(UserError, match=f"1.png {CHANGED}"):
        read(data)


@given(st.integers(0, 3), st.booleans())
def test_others_may_change(own_tree, index, mask):
    data = LocalizationDataset(
        "x", find(own_tree, "ldm", "valid"), build_transform(Preprocessing(64)), "black"
    )
    sample = data.samples[index]
    replace(sample.mask if mask else sample.image)
    for other in set(range(4)) - {index}:
        data[other]
    with pytest.raises(UserError, match=CHANGED):
        data[index]


@pytest.fixture
def module(own_tree):
    def make(**options):
        options = {"batch_size": 4, "num_workers": 0, "check": False, "cache": False} | options
        return LocalizationDataModule(str(own_tree), "ldm", **options)

    return make


def read_all(loader):
    return [len(batch["path"]) for batch in loader]


@pytest.mark.parametrize("workers", [0, 1])
def test_all_sets_of_a_run_remember_the_same_start(module, workers):
    """Whichever loader comes later, and in other processes."""
    data = module(num_workers=workers)
    assert sum(read_all(data.train_dataloader())) == 8
    mask = data.files("test", "ldm")[2].mask
    replace(mask)
    with pytest.raises(UserError) as error:
        read_all(data.test_dataloader()[0])
    text = str(error.value)
    assert text.startswith(f"{mask} {CHANGED}") and "\n" not in text


def test_the_run_begins_before_the_check(module, own_tree):
    data = module(check=True)
    data.prepare_data()
    replace(data.files("train", "ldm")[0].mask)
    with pytest.raises(UserError, match=CHANGED):
        read_all(data.train_dataloader())
    with pytest.raises(UserError, match=CHANGED):
        list(data.train_masks())


@pytest.fixture
def after_an_epoch(monkeypatch):
    """Have something done once, after the first epoch of a run."""

    def arrange(work):
        finish, left = History.on_train_epoch_end, [work]

        def then(self, *args):
            finish(self, *args)
            if left:
                left.pop()()

        monkeypatch.setattr(History, "on_train_epoch_end", then)

    return arrange


@pytest.mark.parametrize(
    ("split", "part", "free"),
    [
        ("train", "masks", 0),
        ("valid", "masks", 0),
        ("valid", "images", 0),
        ("test", "masks", 10**12),
    ],
)
def test_a_run_ends_with_the_name_of_what_was_replaced(
    fit_arguments, own_tree, after_an_epoch, error_of, monkeypatch, tmp_path, split, part, free
):
    """Masks are read in each epoch or in the test, photos for pictures of them."""
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    monkeypatch.setattr(datamodule, "free_memory", lambda device: free)
    path = own_tree / "fake" / "ldm" / part / split / "0.png"
    after_an_epoch(lambda: replace(path))
    message = error_of(*fit_arguments(**{"data.root": own_tree, "trainer.max_epochs": 4}))
    assert f"error: {path} {CHANGED}" in message and "Traceback" not in message
    assert not list(tmp_path.rglob("test_metrics.json"))


def test_cross_evaluation_notices_what_changes_behind_its_hash(
    fit_arguments, own_tree, monkeypatch, tmp_path, capsys
):
    """Else a cell of other masks would be kept under the hash of the first ones."""
    monkeypatch.setenv("DECLIP_FEATURES", str(tmp_path / "features"))
    monkeypatch.chdir(tmp_path)
    cli.main(fit_arguments(**{"data.root": own_tree, "run.name": "model"}))
    mask = own_tree / "fake" / "lama" / "masks" / "test" / "0.png"
    before = mask.read_bytes()
    fetch = FeatureCache.fetch

    def replaced_meanwhile(self, photos, device, hashes):
        if any("lama" in str(photo) for photo in photos):
            replace(mask)
        return fetch(self, photos, device, hashes)

    command = ["evaluate", "outputs/model", "--data", str(own_tree), "--name", "x"]
    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "fetch", replaced_meanwhile)
        with pytest.raises(SystemExit, match=f"model on lama: {mask} {CHANGED}"):
            cli.main(command)
    mask.write_bytes(before)
    cli.main(command)


def test_a_run_does_not_go_on_with_other_contents(fit_arguments, own_tree, tmp_path, error_of):
    """Even of the same names and sizes."""
    options = {"data.root": own_tree, "run.name": "run", "data.cache": "false"}
    cli.main(fit_arguments(**options))
    folder = tmp_path / "outputs" / "run"
    (folder / "test_metrics.json").unlink()  # as if it had been killed before
    masks = own_tree / "fake" / "ldm" / "masks"
    resumed = fit_arguments(**options, **{"run.resume": "true"})
    for split in ("train", "valid"):
        mask = masks / split / "0.png"
        before = mask.read_bytes()
        mask.write_bytes(before[:-1] + b"x")  # behind the image's end
        assert f"photos or masks in {own_tree} are others" in error_of(*resumed)
        mask.write_bytes(before)
    (masks / "test" / "0.png").touch()
    cli.main(resumed)
    assert (folder / "test_metrics.json").exists()


def test_contents_decide_whatever_the_names_are_called(own_tree, tmp_path):
    def digest(samples, polarity="black"):
        return content_hash(samples, polarity)

    samples = [*find(own_tree, "ldm", "valid"), *find(own_tree, "real", "valid")]
    first = digest(samples)
    shutil.copytree(own_tree, tmp_path / "elsewhere")
    moved = [
        *find(tmp_path / "elsewhere", "ldm", "valid"),
        *find(tmp_path / "elsewhere", "real", "valid"),
    ]
    assert digest(moved) == first
    assert len({first, digest(samples, "white"), digest(samples[::-1]), digest(samples[1:])}) == 4
    for path in (samples[0].image, samples[0].mask, samples[-1].image):
        before = path.read_bytes()
        path.write_bytes(before[:-1] + b"x")
        assert digest(samples) != first
        path.write_bytes(before)
    assert digest(samples) == first
