"""Forgeries that are made in a moment: one autoencoder, of one step of training."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photo, make_tree
from PIL import Image

from declip_pl.data.forgeries import kept_autoencoders
from declip_pl.data.forgeries.autoencoders import train_autoencoder

COUNTS = {"train": 4, "valid": 2, "test": 2}


def quick(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Have forgeries made quickly, and kept in a folder of the test's."""
    monkeypatch.setenv("DECLIP_CACHE", str(cache))
    monkeypatch.setattr(kept_autoencoders, "KINDS", kept_autoencoders.KINDS[:1])
    monkeypatch.setattr(kept_autoencoders, "train_autoencoder", partial(train_autoencoder, steps=1))


def small_tree(root: Path) -> Path:
    return make_tree(root, counts=COUNTS)


def write_photos(folder: Path, count: int, seed: int = 7, size: int = 80) -> Path:
    """Write photos that are in no data set."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        Image.fromarray(make_photo(rng, size)).save(folder / f"further{index}.png")
    return folder
