"""Columns of numbers and what they are about as one file that notices damage.

The file is in safetensors' format, so that nothing in it is ever run, with a SHA-256 over all that
it holds.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from declip_pl.files import atomic_path

Column = NDArray[np.float64]

_ABOUT = "about"


def write_columns(path: Path, about: Any, columns: Mapping[str, Column]) -> None:
    """Write columns, atomically.

    Args:
        path: Of the file.
        about: What the columns are, for ``json.dumps``.
        columns: Arrays of any shape by name, in an order that is kept; NaN may stand in them.
    """
    text = json.dumps([about, list(columns)]).encode()
    arrays: dict[str, NDArray[Any]] = {
        _ABOUT: np.frombuffer(text, np.uint8),
        **{name: np.ascontiguousarray(column) for name, column in columns.items()},
    }
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, {"sha256": columns_hash(arrays)})


def read_columns(path: Path) -> tuple[Any, dict[str, Column]]:
    """Return what :func:`write_columns` wrote.

    Raises:
        OSError: If there is no file, or it can't be read.
        ValueError: If it is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if columns_hash(arrays) != expected:
        raise ValueError("its content does not have the SHA-256 that was written with it")
    about, names = json.loads(arrays[_ABOUT].tobytes())
    return about, {name: arrays[name] for name in names}


def columns_hash(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return a SHA-256 over arrays, whatever their order: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
