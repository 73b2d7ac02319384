"""Dataclasses as JSON: one writer, and one reader that checks every value and the whole file."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from declip_pl.errors import UserError
from declip_pl.files import write_text

T = TypeVar("T")

_SHA256 = "sha256"
"""The entry of a file that holds the SHA-256 of all others."""


def write_json(path: Path, record: Any, indent: int | None = None) -> None:
    """Write a dataclass and a SHA-256 of its content as JSON, atomically.

    Args:
        path: Of the file.
        record: What :func:`to_json` takes.
        indent: As for ``json.dumps``.
    """
    content = to_json(record)
    sealed = {**content, _SHA256: json_hash(content)}
    write_text(path, json.dumps(sealed, indent=indent) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a file of :func:`write_json`, for :func:`from_json`.

    A file of an older version has no SHA-256, and is taken as it is.

    Raises:
        OSError: If there is no file, or it can't be read.
        ValueError: If it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is no object")
    expected = content.pop(_SHA256, None)
    if expected is not None and expected != json_hash(content):
        raise ValueError("its content does not have the SHA-256 that was written with it")
    return content


def read_record(kind: type[T], path: Path, command: str) -> T:
    """Read the dataclass that a command wrote with :func:`write_json`.

    Args:
        kind: Of the dataclass.
        path: Of the file.
        command: Which wrote it, for errors: ``ablate``.

    Raises:
        UserError: If it is missing or damaged.
    """
    try:
        return from_json(kind, read_json(path))
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}; expected a folder that `declip-pl {command}` wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); run the same `declip-pl {command}` again"
        ) from None


def json_hash(content: Any) -> str:
    """Return a SHA-256 of what ``json.dumps`` takes, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def to_json(value: Any) -> Any:
    """Return what ``json.dumps`` takes for a dataclass, or for a container of them.

    NaN, which JSON lacks, becomes None. A field that is None by default is left out while it is.
    """
    if is_dataclass(value):
        entries = ((field, getattr(value, field.name)) for field in fields(value))
        return {
            field.name: to_json(entry)
            for field, entry in entries
            if not (entry is None and field.default is None)
        }
    if isinstance(value, Mapping):
        return {name: to_json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """Return a dataclass of what :func:`to_json` made of it.

    Args:
        kind: A dataclass of numbers, text, dictionaries by text, lists, tuples (``tuple[X, ...]``)
            and other dataclasses, some of them perhaps None.
        value: What ``json.loads`` returned.
        where: What the value is called in errors.

    Raises:
        ValueError: If a value is missing or something else; it is named.
    """
    result: T = _read(kind, value, where)
    return result


def _read(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        (inner,) = (part for part in get_args(kind) if part is not NoneType)
        return None if value is None else _read(inner, value, where)
    if is_dataclass(kind):
        return _read_fields(kind, _checked(value, dict, where), where)
    if origin is dict:
        inner = get_args(kind)[1]
        items = _checked(value, dict, where).items()
        return {name: _read(inner, entry, f"{where}.{name}") for name, entry in items}
    if origin in (list, tuple):
        return origin(_read_all(get_args(kind)[0], _checked(value, list, where), where))
    return _checked(value, kind, where)


def _read_fields(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    found = {}
    for field in fields(kind):
        name = f"{where}.{field.name}".lstrip(".")
        if field.name in value:
            found[field.name] = _read(hints[field.name], value[field.name], name)
        elif field.default is MISSING:
            raise ValueError(f"there is no {name}")
    return kind(**found)


def _read_all(kind: Any, values: list[Any], where: str) -> list[Any]:
    if set(map(type, values)) == {kind}:  # the names of a cell's photos may be thousands
        return values
    return [_read(kind, value, f"{where}[{index}]") for index, value in enumerate(values)]


def _checked(value: Any, kind: Any, where: str) -> Any:
    accepted = (float, int) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        number = "a number"
        said = {dict: "an object", list: "a list", str: "text", float: number, int: number}
        raise ValueError(f"expected {where or 'it'} to be {said[kind]}, found {str(value)[:40]!r}")
    return value
