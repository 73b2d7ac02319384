"""Degradations as a YAML file: what happens to photos, at several strengths.

.. code-block:: yaml

    JPEG quality:
      values: [95, 70, 30]            # from weak to strong
      changes:                        # as of a perturbation; VALUE stands for each value in turn
        - {class_path: encode, init_args: {format: JPEG, quality: VALUE}}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from declip_pl.data.transforms import Changes, make_changes
from declip_pl.errors import UserError
from declip_pl.names import check_name
from declip_pl.training.recipe_file import experiments, read_mapping

FILE = "degradations/common.yaml"
"""In the folder of recipes: the degradations that come with the package."""

VALUE = "VALUE"
"""Stands in changes for the value."""


@dataclass(frozen=True)
class Degradation:
    """What happens to photos, at several strengths.

    Attributes:
        name: What it is called.
        values: Its strengths, from weak to strong.
        template: The changes of a photo, with :data:`VALUE` in them.
    """

    name: str
    values: tuple[Any, ...]
    template: list[Any]

    def changes(self, value: Any) -> Changes:
        """Return the changes of one strength."""
        found: Changes = _filled(self.template, value)
        return found


def read_degradations(path: Path | None = None) -> list[Degradation]:
    """Read a file of degradations; by default the one that comes with the package.

    Raises:
        UserError: If it can't be read, or a degradation is not understood; both are named.
    """
    path = path or experiments() / FILE
    content = read_mapping(path)
    if not content:
        raise UserError(f"{path}: expected one degradation or more")
    return [_degradation(path, str(name), said) for name, said in content.items()]


def _degradation(path: Path, name: str, said: Any) -> Degradation:
    check_name(name, f"a degradation's name (in {path})")
    if not isinstance(said, dict) or said.keys() != {"values", "changes"}:
        raise UserError(f"{path}: {name} is {said!r}; expected values and changes")
    values, template = said["values"], said["changes"]
    if not isinstance(values, list) or not values or len(set(map(str, values))) < len(values):
        raise UserError(f"{path}: {name}: values are {values!r}; expected a list of different ones")
    if not isinstance(template, list) or (len(values) > 1 and VALUE not in str(template)):
        raise UserError(f"{path}: {name}: expected a list of changes with {VALUE} in it")
    found = Degradation(name, tuple(values), template)
    for value in values:
        check_name(str(value), f"a value of {name} (in {path})")
        try:
            make_changes(found.changes(value))
        except UserError as error:
            raise UserError(f"{path}: {name}: {error}") from error
    return found


def _filled(template: Any, value: Any) -> Any:
    if isinstance(template, Mapping):
        return {name: _filled(entry, value) for name, entry in template.items()}
    if isinstance(template, list):
        return [_filled(entry, value) for entry in template]
    return value if template == VALUE else template
