"""What the encoder sees of the validation photos, kept for the measure of likeness."""

from hashlib import sha256
from heapq import nsmallest
from os import fsencode

import torch
from torch import Tensor

from declip_pl.data.dataset import Batch
from declip_pl.data.ranks import all_ranks
from declip_pl.model.features import Features
from declip_pl.model.likeness import LEAST, MOST, Likeness, fit_likeness, mean_features

Kept = dict[str, tuple[str, Tensor]]
"""By a hash of a photo's name: its file, and the ``[C]`` mean of its features."""


class ValidationPhotos:
    """Mean features of untouched validation photos, and of the manipulated ones in case of need.

    Of each name, which a photo and what was made of it share, one photo counts. Of many names those
    with the smallest hashes are kept, a draw that does not depend on the photos' order or on how
    processes share them.
    """

    def __init__(self) -> None:
        self._untouched: Kept = {}
        self._manipulated: Kept = {}

    def add(self, features: Features, batch: Batch) -> None:
        """Add a batch of photos."""
        means = mean_features(features).cpu()
        known = zip(batch["name"], batch["path"], batch["label"].tolist(), means, strict=True)
        for name, path, label, mean in known:
            kept = self._manipulated if label else self._untouched
            key = sha256(fsencode(name)).hexdigest()
            if key not in kept or path < kept[key][0]:
                kept[key] = path, mean.clone()  # not the whole batch
        for kept in (self._untouched, self._manipulated):
            if len(kept) > 2 * MOST:
                _drop(kept)

    def likeness(self) -> Likeness | None:
        """Return the measure, of the photos of all processes, which call this together."""
        with all_ranks() as ranks:
            parts = ranks.gather((self._untouched, self._manipulated))
        untouched, manipulated = ([part[kind] for part in parts] for kind in (0, 1))
        found = _joined(untouched)
        if len(found) < LEAST:
            found = _joined(manipulated)
        if len(found) < LEAST:
            return None
        return fit_likeness(torch.stack([mean for _, mean in found.values()]))


def _joined(parts: list[Kept]) -> Kept:
    found: Kept = {}
    for part in parts:
        for key, photo in part.items():
            found[key] = min(photo, found.get(key, photo), key=lambda known: known[0])
    _drop(found)
    return found


def _drop(kept: Kept) -> None:
    """Keep the photos with the smallest hashes."""
    chosen = set(nsmallest(MOST, kept))
    for key in kept.keys() - chosen:
        del kept[key]
