"""Autoencoders on disk: trained once on the photos that are forged for training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from tqdm import tqdm

from declip_pl.data.forgeries.autoencoders import (
    KINDS,
    Autoencoder,
    Kind,
    load_autoencoder,
    save_autoencoder,
    train_autoencoder,
)
from declip_pl.data.forgeries.forge import RECIPE
from declip_pl.data.forgeries.operations import Pixels
from declip_pl.data.forgeries.sources import Source
from declip_pl.data.forgeries.views import draw_view
from declip_pl.data.images import read_photo
from declip_pl.files import LOCK, locked, remove_leftovers
from declip_pl.records import json_hash

MOST = 256
"""Photos that they learn from."""


def autoencoders_of(sources: Sequence[Source], seed: int, folder: Path) -> dict[str, Autoencoder]:
    """Return an autoencoder of each kind by name; those that are not on disk are trained.

    They learn from the data set's own photos where it has any, so that further photos leave what
    is there as it is.

    Args:
        sources: Photos to be forged; they learn from those for training alone.
        seed: Of their training.
        folder: Where they are kept.
    """
    train = [source for source in sources if source.split == "train"]
    seen = ([source for source in train if not source.further] or train)[:MOST]
    key = json_hash([RECIPE, seed, [source.sha256 for source in seen]])[:16]
    paths = {kind: folder / f"{kind}-{key}.safetensors" for kind in KINDS}
    found = {kind: _read(kind, path) for kind, path in paths.items()}
    if not all(found.values()):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK, "training autoencoders"):
            remove_leftovers(folder)
            _train_missing(paths, seen, seed)
        found = {kind: _read(kind, path) for kind, path in paths.items()}
    return {str(kind): model for kind, model in found.items() if model}


def _train_missing(paths: dict[Kind, Path], seen: Sequence[Source], seed: int) -> None:
    missing = [kind for kind, path in paths.items() if not _read(kind, path)]
    if missing:
        # A bar is drawn for a terminal alone, and a log would stay silent for minutes.
        print(f"training {len(missing)} small autoencoders for forgeries, once for these photos")
        views = [_view(source, index) for index, source in enumerate(seen)]
        for kind in tqdm(missing, "training autoencoders", disable=None):
            save_autoencoder(train_autoencoder(kind, views, seed), paths[kind])


def _view(source: Source, index: int) -> Pixels:
    rng = np.random.default_rng(int(source.sha256, 16))
    return draw_view(read_photo(source.photo), rng, native=index % 2 == 0)


def _read(kind: Kind, path: Path) -> Autoencoder | None:
    """Return an autoencoder; None where it is not there, or damaged."""
    try:
        return load_autoencoder(kind, path)
    except (FileNotFoundError, SafetensorError, RuntimeError):
        return None
