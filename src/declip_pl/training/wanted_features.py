"""Which photos a recipe's trainings have encoded, and how they are changed before."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from declip_pl.data.dataset import LocalizationDataset
from declip_pl.data.index import DataIndex
from declip_pl.data.transforms import Changes, key_of
from declip_pl.training.recipe import Recipe


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


def wanted_features(recipe: Recipe, choices: Sequence[str]) -> list[Wanted]:
    """Return what trainings look up in the feature cache, as :class:`EncodePhotos` does.

    Args:
        recipe: Of the trainings.
        choices: The generators of each.
    """
    said = recipe.entries
    if not said["data.cache"]:
        return []
    augmentation, perturbation = said["data.augmentation"], said["data.perturbation"]
    views = 1 if augmentation == "none" else said["data.views"]
    found = []
    for choice in choices:
        data = recipe.data_module(choice)
        evaluated = photos_of([*data.valid_sets(), *data.test_sets()])
        found.append(Wanted(data.index, evaluated, perturbation=perturbation))
        trained = photos_of([data.train_set()])
        found += [Wanted(data.index, trained, augmentation, view) for view in range(views)]
    return found


def photos_of(sets: Iterable[LocalizationDataset]) -> tuple[Path, ...]:
    """Return the photos of some sets, each once."""
    return tuple(dict.fromkeys(sample.image for data in sets for sample in data.samples))


def distinct(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Return the same without photos that stand in an earlier list of the same cache."""
    seen: dict[tuple[str, int, str], set[Path]] = defaultdict(set)
    found = []
    for entry in wanted:
        known = seen[key_of(entry.augmentation), entry.view, key_of(entry.perturbation)]
        photos = tuple(photo for photo in entry.photos if photo not in known)
        known.update(photos)
        if photos:
            found.append(replace(entry, photos=photos))
    return found
