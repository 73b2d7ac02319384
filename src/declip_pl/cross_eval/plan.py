"""What a cross-evaluation scores on, and with which recipe its missing models are trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from declip_pl.cross_eval.models import choices
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.layout import ALL, NONE
from declip_pl.data.mini import MINI, build_mini
from declip_pl.data.place import Place, read_place, read_places
from declip_pl.data.transforms import Changes, make_changes
from declip_pl.errors import UserError
from declip_pl.files import relative
from declip_pl.training.recipe import Options, Recipe, choose_config, choose_data
from declip_pl.training.recipe_file import read_list


def choose_data_sets(options: Options, also: str | None) -> tuple[Options, list[Place]]:
    """Return the data set and the further ones, and options that say how the first is laid out.

    Raises:
        UserError: If ``none`` is among them, where there is nothing to score on, or a name begins
            with no layout's.
    """
    first, *more = read_places(options.data) if options.data else [None]
    place, why = choose_data(first, options.source)
    places = [place, *map(read_place, [*more, *filter(None, (also or "").split(","))])]
    roots = [place.root for place in places]
    if Path(NONE) in roots:
        raise UserError(
            f"{NONE} has no test photos to score on: name a data set (--data; make: DATA=)"
        )
    if MINI in roots:
        build_mini(MINI)
    print(f"data: {place} ({why})")
    for other in places[1:]:
        print(f"also: {other}")
    return replace(options, layout=place.layout or options.layout), places


def choose_recipe(options: Options, root: Path) -> Recipe:
    """Return the recipe of the models that are missing, and say why it is that one."""
    chosen, why = choose_config(options.config, root)
    print(f"recipe: {relative(chosen)} ({why})")
    return Recipe(root, chosen, options)


def read_data_sets(
    options: Options,
    recipe: Recipe | None,
    places: Sequence[Place],
    changes: Changes,
    generator: str = ALL,
) -> list[LocalizationDataModule]:
    """Return what is scored on: all sets are read as the recipe or the options say.

    One that is named with another layout (``LAYOUT:PATH``) is read as that layout says.

    Raises:
        UserError: If a folder is no data set, has no such generator, or is there twice.
    """
    layout, polarity = options.layout or "dolos", options.polarity
    if recipe:
        layout, polarity = recipe.entries["data.layout"], recipe.entries["data.polarity"]
    found: dict[Path, LocalizationDataModule] = {}
    for place in places:
        own = place.layout or layout
        said = polarity if own == layout else None
        data = LocalizationDataModule(str(place.root), generator, own, said, perturbation=changes)
        _ = data.stamps  # listed before runs are compared with it, so that what goes later is named
        if found.setdefault(there := data.root.resolve(), data) is not data:
            raise UserError(
                f"{place} is {there}, which is scored on already; name it once (--also; make: "
                "ALSO=)"
            )
    return list(found.values())


def wanted_models(
    recipe: Recipe, data: LocalizationDataModule, seeds: int, loo: bool, none: bool
) -> tuple[list[str], str]:
    """Return what the models of a cross-evaluation are trained on, and what they are called."""
    if none:
        recipe.data_module(NONE)  # without forgeries this fails before anything is trained
    label = recipe.kind + f"-{seeds}-seeds" * (seeds > 1) + "-leave-one-out" * loo + "-none" * none
    return choices(data.generators, loo, none), label


def read_changes(perturbation: Changes) -> Changes:
    """Return a perturbation; a file's name stands for the list in it.

    Raises:
        UserError: If the file can't be read or holds no list, or a change is not known.
    """
    if isinstance(perturbation, str) and Path(perturbation).suffix in (".yaml", ".yml"):
        perturbation = read_list(Path(perturbation).expanduser())
    make_changes(perturbation)
    return perturbation
