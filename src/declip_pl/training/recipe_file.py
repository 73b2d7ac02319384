"""The one reader of YAML files: recipes, the ``config.yaml`` of runs, lists of changes."""

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from declip_pl.errors import UserError
from declip_pl.model.checkpoint import BEST
from declip_pl.training import schedules
from declip_pl.training.run_folder import CONFIG

DOLOS = Path("data/dolos_data")

Sections = dict[str, Any]
"""A recipe's content."""

WHOLE = ("trainer", "model", "data", "run", "schedule", "ckpt_path")
"""Sections of every ``config.yaml``; the last one stands at its end."""


def read_recipe(path: Path) -> Sections:
    """Read a recipe or a run's ``config.yaml``.

    Raises:
        UserError: If there is none, it is no YAML, or it holds something else.
    """
    sections = _read(path)
    if not isinstance(sections, dict):
        raise UserError(f"{path} is no recipe: expected sections such as model and data")
    for name in ("model", "data", "trainer", "run", "schedule"):
        section, kinds = sections.get(name), (dict, str) if name == "schedule" else (dict,)
        if section is not None and not isinstance(section, kinds):
            raise UserError(f"{path}: {name} is {section!r}; expected a mapping of its options")
    return _without_folders(_from_first_version(sections))


def read_config(run: Path) -> Sections:
    """Read a run's ``config.yaml``: all that it was trained with.

    Raises:
        UserError: If there is none, or it is damaged.
    """
    path = run / CONFIG
    if not path.is_file():
        raise UserError(f"there is no {path}")
    sections = read_recipe(path)
    if missing := [name for name in WHOLE if name not in sections]:
        raise UserError(f"{path} is damaged: it has no {missing[0]}")
    return sections


def read_list(path: Path) -> list[Any]:
    """Read a list of changes of photos from a YAML file.

    Raises:
        UserError: If there is none, it is no YAML, or it holds something else.
    """
    content = _read(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list of albumentations (class_path, init_args)")
    return content


def experiments() -> Path:
    """Return the folder of the recipes that come with the package."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "experiments"  # where a wheel puts it
    return inside if inside.is_dir() else package.parents[1] / "experiments"


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of entries and values that is no recipe.

    Raises:
        UserError: If there is none, it is no YAML, or it holds something else.
    """
    content = _read(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected entries and their values")
    return content


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: plain YAML 1.1 reads ``1e-3`` as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """Return what YAML says, in a file or as an option's value: the inverse of ``as_argument``."""
    return yaml.load(text, _Loader)


def as_argument(value: Any) -> str:
    """Return an option's value as it is typed: words as they are, specs and lists as YAML."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, (dict, list)):
        return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return str(value)


def command_line(command: str, given: Mapping[str, Any], *words: object) -> list[str]:
    """Return the words that run a command of this package.

    Args:
        command: Its name.
        given: Values by option; what is None or False is not said, what is True is a switch.
        words: What it takes besides.
    """
    options = [
        f"--{name}" if value is True else f"--{name}={as_argument(value)}"
        for name, value in given.items()
        if value is not None and value is not False
    ]
    return [sys.executable, "-m", "declip_pl", command, *map(str, words), *options]


def _read(path: Path) -> Any:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; recipes are in {experiments()}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} can't be read as YAML: {reason}") from error


def _from_first_version(sections: Sections) -> Sections:
    """Bring a recipe or a run's config of version 0.1 into today's words."""
    data = dict(sections["data"]) if isinstance(sections.get("data"), dict) else None
    if data is not None:
        data.pop("image_size", None)  # the encoder's
        if convention := data.pop("convention", None):
            data["polarity"] = "black" if convention == "dolos" else "white"
        if source := data.pop("source", None):
            data["root"] = str(Path(str(data.get("root", DOLOS))) / source)
        sections = {**sections, "data": data}
    schedule = sections.get("schedule")
    if isinstance(schedule, dict) and isinstance(schedule.get("class_path"), str):
        moved = schedule["class_path"].replace("declip_pl.callbacks.", f"{schedules.__name__}.")
        sections = {**sections, "schedule": {**schedule, "class_path": moved}}
    return sections


def _without_folders(sections: Sections) -> Sections:
    """Leave out the folders in a run's config: every run writes in its own."""
    run = sections.get("run")
    if not isinstance(run, dict):
        return sections
    folder = Path(str(run.get("root"))) / str(run.get("name"))
    folders = {"default_root_dir": str(folder), "dirpath": str((folder / BEST).parent)}
    return {
        section: {k: None if v == folders.get(k, "") else v for k, v in entries.items()}
        if section in ("trainer", "best", "last") and isinstance(entries, dict)
        else entries
        for section, entries in sections.items()
    }
