"""How many photos the pieces of a cross-evaluation look at, and how often."""

from collections.abc import Sequence
from typing import NamedTuple

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.forgeries.sources import find_sources
from declip_pl.data.layout import SPLITS, Sample, Split, find_samples
from declip_pl.errors import UserError
from declip_pl.training.callbacks import DRAWN
from declip_pl.training.recipe import Recipe


class Counts(NamedTuple):
    """Photos that the pieces look at, each as often as it is looked at.

    Attributes:
        encoded: Photos to be encoded, if none is in the cache yet.
        cached: Those of them whose features are kept.
        trained: In all epochs of all trainings together, at most.
        scored: In validation, tests and cells together, at most.
        drawn: As panels, after all epochs that are the best so far.
        models: To be trained.
        refused: Why trainings can't begin, a line each; they are not counted.
    """

    encoded: int
    cached: int
    trained: int
    scored: int
    drawn: int
    models: int
    refused: tuple[str, ...] = ()


def photos_in(data: LocalizationDataModule) -> int:
    """Return how many photos a data set has in all splits."""
    return sum(len(_there(data, split)) for split in SPLITS)


def count(
    recipe: Recipe | None,
    data: LocalizationDataModule,
    trainings: Sequence[str],
    scorings: int,
    changed: int = 0,
) -> Counts:
    """Return how many photos the pieces look at.

    Args:
        recipe: Of models that are trained.
        data: The data set; a generator may lack photos of a split.
        trainings: The generators of each model that is missing.
        scorings: How often all test photos are scored, by whatever model.
        changed: How often they are changed, and encoded once more.
    """
    tests = _there(data, "test")
    kept: set[object] = {sample.image for sample in tests}
    thrown = changed * len(tests)
    trained = scored = drawn = models = 0
    refused: list[str] = []
    for choice in trainings:
        assert recipe is not None
        epochs = recipe.entries["trainer.max_epochs"] or 1000  # Lightning's own
        try:
            own = recipe.data_module(choice)
            seen = _seen(own)
        except UserError as error:
            refused.append(str(error).partition("\n")[0])
            continue
        models += 1
        trained += epochs * seen.trained
        scored += epochs * len(seen.valid) + len(seen.test)
        drawn += epochs * min(DRAWN, len(seen.drawn))
        if not own.cache:
            thrown += epochs * (seen.trained + len(seen.valid)) + len(seen.test)
            continue
        kept.update(seen.valid, seen.test)
        if own.augmentation == "none":
            kept.update(seen.train)
        elif own.views:
            kept.update((photo, view) for photo in seen.train for view in range(own.views))
        else:
            thrown += epochs * seen.trained
    return Counts(
        len(kept) + thrown, len(kept), trained, scored + scorings * len(tests), drawn, models,
        tuple(refused),
    )  # fmt: skip


class _Seen(NamedTuple):
    """What a training looks at: photos, and of forgeries what stands for them.

    Attributes:
        train: In training; all versions of forgeries, of which an epoch sees one.
        trained: How many of them in an epoch.
        valid: After each epoch.
        drawn: The set of them of which some are drawn.
        test: At the end.
    """

    train: list[object]
    trained: int
    valid: list[object]
    drawn: list[object]
    test: list[object]


def _seen(data: LocalizationDataModule) -> _Seen:
    """Return what a training looks at; forgeries need not be made yet.

    Raises:
        UserError: If there are no photos of a split.
    """
    photos = data.training_photos()
    splits: tuple[Split, ...] = ("valid", "test")
    valid, test = ([s.image for s in data.files(split, *data.names(split))] for split in splits)
    train: list[object] = [sample.image for sample in photos]
    fakes = [sample.image for sample in data.files("valid", *data.trained_generators)]
    seen = _Seen(train, len(train), [*valid], [*fakes], [*test])
    if data.forgeries is None:
        return seen
    versions = range(data.forgeries.versions)
    sources = find_sources(data.layout, data.forgeries.photos, data.index)
    data.index.save()  # the photos were hashed, and are known to the next variant
    of = {name: [source for source in sources if source.split == name] for name in SPLITS}
    further = {name: [s.photo for s in of[name] if s.further] for name in SPLITS}
    forged = {name: [(s.sha256, v) for s in of[name] for v in versions] for name in SPLITS}
    return _Seen(
        [*train, *further["train"], *forged["train"]],
        len(train) + len(further["train"]) + len(of["train"]),
        [*valid, *further["valid"], *forged["valid"]],
        seen.drawn or [*forged["valid"]],
        seen.test,
    )


def _there(data: LocalizationDataModule, split: Split) -> list[Sample]:
    """Return a split's photos; there need not be any."""
    return find_samples(data.layout, split, *data.names(split))[0]
