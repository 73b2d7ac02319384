"""What ``declip-pl demo`` offers: trained localizers, and photos to try them with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from declip_pl.data.layout import REAL, Sample, build_layout, has_reals, mask_rule, samples
from declip_pl.errors import UserError
from declip_pl.inference.default_model import starter_line
from declip_pl.model.checkpoint import (
    BEST,
    CONFIG_FILE,
    STARTER,
    find,
    has_starter,
    name_of,
    run_of,
)
from declip_pl.training.recipe import choose_data
from declip_pl.training.run_folder import RESULTS, Run

SAMPLES = 2
"""Sample photos of each generator."""


@dataclass(frozen=True)
class Choice:
    """A trained localizer to choose from.

    Attributes:
        path: Its folder or file.
        finished: False for a run that was not tested yet: it is still in training, or broke off.
    """

    path: Path
    finished: bool = True


def find_models(models: str | None) -> dict[str, Choice]:
    """Return the trained localizers to choose from, by name, unfinished runs last.

    Args:
        models: A folder of runs and saved localizers, or what
            :func:`declip_pl.model.checkpoint.find` takes. By default the folder of all runs, and
            the starter where that holds none, which is then said.

    Raises:
        UserError: If there is none.
    """
    given = models or Run.root
    folder = Path(given).expanduser()
    inside = sorted(folder.iterdir()) if folder.is_dir() and given != STARTER else []
    found = {path.name: _choice(path) for path in inside if _is_model(path)}
    if found:
        return dict(sorted(found.items(), key=lambda entry: not entry[1].finished))
    if models is None and has_starter():
        print(starter_line(folder))
        given = STARTER
    try:
        return {name_of(given): _choice(find(given))}
    except UserError as error:
        raise UserError(
            f"there is no trained localizer in {given}: train one (make train GEN=ldm), import "
            f"one (declip-pl import), or name one (--model). {error}"
        ) from error


def find_samples(data: str | None) -> list[Sample]:
    """Return a few test photos of each generator, and real ones, of a data set.

    No two are of the same source photo, as long as there are others.

    Args:
        data: A data set in Dolos' layout, or LAYOUT:PATH; by default the one that ``declip-pl
            train`` would take. There are no samples if it is not on this machine.

    Returns:
        The photos, each with what says how its mask is read.

    Raises:
        UserError: If the data set was named and is not there.
    """
    place, _ = choose_data(data)
    try:
        layout = build_layout(place.layout or "dolos", place.root)
        names = layout.generators() + [REAL] * has_reals(layout, "test")
        seen: set[str] = set()
        chosen = [
            sample for name in names for sample in _apart(samples(layout, "test", name), seen)
        ]
    except UserError:
        if data:
            raise
        return []
    rule = mask_rule(layout)
    return [replace(sample, mask_rule=sample.mask_rule or rule) for sample in chosen]


def _apart(photos: Sequence[Sample], seen: set[str]) -> list[Sample]:
    """Return the first few photos whose source was not seen yet, or else the first ones."""
    fresh = [photo for photo in photos if (photo.source or photo.name) not in seen]
    chosen = (fresh + [photo for photo in photos if photo not in fresh])[:SAMPLES]
    seen.update(photo.source or photo.name for photo in chosen)
    return chosen


def _is_model(folder: Path) -> bool:
    return any((folder / file).is_file() for file in (BEST, CONFIG_FILE))


def _choice(model: Path) -> Choice:
    run = run_of(find(model))
    return Choice(model, run is None or (run / RESULTS).is_file())  # a test ends a training
