"""Which photos are encoded for a stage, and how they are changed before."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import LocalizationDataset
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.index import DataIndex
from declip_pl.data.transforms import Changes, key_of
from declip_pl.model.frozen import Encoder


@dataclass(frozen=True)
class Wanted:
    """Photos whose features lie in one cache.

    Attributes:
        index: Knows what the files are.
        photos: Image files, each once.
        augmentation: Random changes after the resize.
        view: Which of the random versions.
        perturbation: Changes at a photo's own size.
    """

    index: DataIndex
    photos: tuple[Path, ...]
    augmentation: Changes = "none"
    view: int = 0
    perturbation: Changes = "none"

    @property
    def changes(self) -> tuple[str, int, str]:
        """What tells the caches of an encoder apart."""
        return key_of(self.augmentation), self.view, key_of(self.perturbation)

    def cache(self, encoder: Encoder) -> FeatureCache:
        """Return the cache in which an encoder's features of these photos lie."""
        return FeatureCache(encoder, self.augmentation, self.view, self.perturbation)


def trained(data: LocalizationDataModule) -> list[Wanted]:
    """Return the views of the training photos."""
    photos = photos_of([data.train_set()])
    views = 1 if data.augmentation == "none" else data.views
    return [Wanted(data.index, photos, data.augmentation, view) for view in range(views)]


def evaluated(data: LocalizationDataModule, sets: Iterable[LocalizationDataset]) -> Wanted:
    """Return the photos of some sets that are validated or tested on."""
    return Wanted(data.index, photos_of(sets), perturbation=data.perturbation)


def photos_of(sets: Iterable[LocalizationDataset]) -> tuple[Path, ...]:
    """Return the photos of some sets, each once."""
    return tuple(dict.fromkeys(sample.image for data in sets for sample in data.samples))


def distinct(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Return the same without photos that stand in an earlier list of the same cache."""
    seen: dict[tuple[str, int, str], set[Path]] = defaultdict(set)
    found = []
    for entry in wanted:
        known = seen[entry.changes]
        photos = tuple(photo for photo in entry.photos if photo not in known)
        known.update(photos)
        if photos:
            found.append(replace(entry, photos=photos))
    return found
