"""A question as a YAML file: a recipe, what varies, and which variant the others are compared with.

.. code-block:: yaml

    question: Which block of the encoder carries the traces?
    recipe: ../quickstart.yaml     # relative to this file
    grid:                          # every combination; or `variants`, changes for each name
      model.layer: [layer1, layer3, layer5]
    against: layer5
    axis: block                    # draw a curve over the numbers in the variants' names

What varies is an entry of the recipe; ``fixed`` changes entries for all variants. A variant is a
model for each generator of the data set or, with ``data.generator``, one model; in a grid ``each``,
``pairs`` and ``leave-one-out`` stand there for the generators' combinations.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from declip_pl.data.layout import ALL_BUT
from declip_pl.errors import UserError
from declip_pl.metrics import map_metrics
from declip_pl.names import check_name
from declip_pl.parts import short
from declip_pl.training.recipe_file import Sections, experiments, read_mapping, read_recipe

FOLDER = "questions"
"""In the folder of recipes."""

GENERATOR = "data.generator"
EACH, PAIRS, LEAVE_ONE_OUT = "each", "pairs", "leave-one-out"
"""What stands for several generators, beside ``all``."""

METRIC = "iou"

Changes = dict[str, Any]
"""Entries of a recipe by ``section.name``."""

_ENTRY = re.compile(r"(model|data|trainer|schedule|best)(\.\w+)+")
_NUMBER = re.compile(r"\d+(\.\d+)?$")


@dataclass(frozen=True)
class Question:
    """What is asked, and how it is answered.

    Attributes:
        path: The file.
        question: In words.
        recipe: The recipe that all variants share.
        variants: What each changes, by name.
        against: The variant that all others are compared with.
        metric: The score of single photos that they are compared by.
        fixed: What is changed for all variants.
        axis: What the numbers in the variants' names are; None where they are no numbers.
    """

    path: Path
    question: str
    recipe: Path
    variants: dict[str, Changes]
    against: str
    metric: str
    fixed: Changes
    axis: str | None

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.path.stem

    def changes(self, variant: str) -> Changes:
        """Return all that a variant changes in the recipe."""
        return self.fixed | self.variants[variant]

    def sections(self, variant: str) -> Sections:
        """Return the whole recipe of a variant.

        Raises:
            UserError: If the recipe can't be read, or a change goes into what has no entries.
        """
        found = read_recipe(self.recipe)
        for name, value in self.changes(variant).items():
            if name != GENERATOR:
                found = _changed(found, name.split("."), value, f"{self.path}: {name}")
        return found


def read_question(name: str, generators: Sequence[str]) -> Question:
    """Read a question.

    Args:
        name: A YAML file, or the name of a question that comes with the package.
        generators: Of the data set: what ``each``, ``pairs`` and ``leave-one-out`` stand for.

    Raises:
        UserError: If there is no such question, or it is not understood; the file is named.
    """
    path = _find(name)
    content = read_mapping(path)
    known = ("question", "recipe", "variants", "grid", "against", "metric", "fixed", "axis")
    if unknown := [key for key in content if key not in known]:
        raise UserError(f"{path}: {unknown[0]} is not known; expected {', '.join(known)}")
    if missing := [key for key in ("question", "recipe") if not isinstance(content.get(key), str)]:
        raise UserError(f"{path}: expected {missing[0]} as text")
    variants = _variants(path, content, generators)
    against = str(content.get("against", next(iter(variants))))
    if against not in variants:
        raise UserError(
            f"{path}: against is {against!r}, which is no variant; there are {', '.join(variants)}"
        )
    metric = str(content.get("metric", METRIC))
    metrics = [entry.name for entry in map_metrics(tuned=True, decided=True)]
    if metric not in metrics:
        raise UserError(f"{path}: metric is {metric!r}; expected {', '.join(metrics)}")
    axis = content.get("axis")
    if axis and (wrong := [name for name in variants if number_in(name) is None]):
        raise UserError(f"{path}: axis is {axis!r}, but there is no number in {wrong[0]!r}")
    recipe, fixed = path.parent / Path(content["recipe"]).expanduser(), _fixed(path, content)
    return Question(path, content["question"], recipe, variants, against, metric, fixed, axis)


def number_in(name: str) -> float | None:
    """Return the number at the end of a variant's name, as in ``layer5``; None if there is none."""
    found = _NUMBER.search(name)
    return float(found[0]) if found else None


def shipped() -> list[str]:
    """Return the names of the questions that come with the package."""
    return sorted(path.stem for path in (experiments() / FOLDER).glob("*.yaml"))


def _find(name: str) -> Path:
    inside = experiments() / FOLDER / f"{name}.yaml"
    path = inside if inside.is_file() else Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"there is no question {name!r}: expected a YAML file, or one of {', '.join(shipped())}"
        )
    return path


def _variants(
    path: Path, content: Mapping[str, Any], generators: Sequence[str]
) -> dict[str, Changes]:
    """Return the variants by name: those that are named, then every combination of the grid."""
    named, grid = (_mapping(path, content, key) for key in ("variants", "grid"))
    found = {str(name): _mapping(path, named, name) for name in named}
    for changes in _combinations(path, grid, generators):
        name = ", ".join(map(_word, changes.values()))
        if found.setdefault(name, changes) != changes:
            raise UserError(f"{path}: two variants are called {name!r}; name them in variants")
    if len(found) < 2:  # noqa: PLR2004
        raise UserError(f"{path}: expected two variants or more, in variants or as a grid")
    for name, changes in found.items():
        check_name(name, f"a variant's name (in {path})")
        _check_entries(path, name, changes)
    return found


def _fixed(path: Path, content: Mapping[str, Any]) -> Changes:
    fixed = _mapping(path, content, "fixed")
    _check_entries(path, "fixed", fixed)
    return fixed


def _check_entries(path: Path, name: str, changes: Changes) -> None:
    if wrong := [entry for entry in changes if not _ENTRY.fullmatch(str(entry))]:
        raise UserError(
            f"{path}: {name} changes {wrong[0]!r}; expected an entry of the recipe such as "
            "model.layer"
        )


def _combinations(path: Path, grid: Changes, generators: Sequence[str]) -> Iterator[Changes]:
    values = [_values(path, name, grid[name], generators) for name in grid]
    for chosen in product(*values) if grid else ():
        yield dict(zip(grid, chosen, strict=True))


def _mapping(path: Path, content: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: {key} is {found!r}; expected entries of the recipe and values")
    return found


def _values(path: Path, name: str, values: Any, generators: Sequence[str]) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise UserError(f"{path}: grid: {name} is {values!r}; expected a list of values")
    if name != GENERATOR:
        return values
    stands_for = {
        EACH: list(generators),
        PAIRS: ["+".join(pair) for pair in combinations(generators, 2)],
        LEAVE_ONE_OUT: [ALL_BUT + generator for generator in generators],
    }
    return [choice for value in values for choice in stands_for.get(value, [value])]


def _word(value: Any) -> str:
    return short(value) if isinstance(value, dict) and "class_path" in value else str(value)


def _changed(content: Any, keys: Sequence[str], value: Any, where: str) -> Any:
    """Return nested entries with one of them changed."""
    if not keys:
        return value
    if not isinstance(content or {}, dict):
        raise UserError(f"{where}: the recipe says {content!r} there, which has no entries")
    content = content or {}
    return {**content, keys[0]: _changed(content.get(keys[0]), keys[1:], value, where)}
