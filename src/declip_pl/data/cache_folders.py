"""All feature caches of a machine: where they are, what is in them, how they are deleted.

The cache of forgeries is written with the same words when that fails.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from declip_pl.data.shards import FORMAT, Shard, inspect, shard_files
from declip_pl.errors import UserError
from declip_pl.files import LOCK, cache_folder, expanded

META = "meta.json"
GIB = 2**30


def features_folder() -> Path:
    """Return the folder of all feature caches."""
    named = os.environ.get("DECLIP_FEATURES")
    return Path(expanded(named)) if named else cache_folder() / "features"


@contextmanager
def writing(folder: Path, what: str, kept: str, advice: str) -> Iterator[None]:
    """Say in one line that a disk is full or a cache's folder may not be written to.

    Args:
        folder: The cache.
        what: What is written there.
        kept: What stays of it.
        advice: What to do.

    Raises:
        UserError: If writing fails.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{what} can't be written into {folder} ({error}); {kept} stay. {advice}"
        ) from error


def caches() -> list[Path]:
    """Return the folders of all feature caches on this machine, sorted by name."""
    return sorted(filter(_is_ours, features_folder().glob("*")))


def describe(folder: Path) -> str:
    """Return a cache's name, its photos, its size on disk and whose features it holds."""
    files = shard_files(folder)
    gib = sum(file.stat().st_size for file in files) / GIB
    meta = _meta(folder)
    if meta is None:
        origin = f"its {META} can't be read"
    else:
        origin = f"encoder from {meta['encoder']['source']}"
        if meta["format"] != FORMAT:
            return f"{folder.name}: {gib:.2f} GiB, no longer used (of another version), {origin}"
    shards = [inspect(file, ()) for file in files]
    photos = f"{sum(len(shard.photos) for shard in shards)} photos"
    damaged = [f"{shard.path.name} is damaged ({shard.fault})" for shard in shards if shard.fault]
    return ", ".join([f"{folder.name}: {photos}", *damaged, f"{gib:.2f} GiB", origin])


def damaged_shards(folder: Path) -> list[Shard]:
    """Return the damaged shards of a cache; all of them are read to their ends."""
    meta = _meta(folder)
    if meta and meta["format"] != FORMAT:  # nobody reads it any more
        return []
    with ThreadPoolExecutor() as pool:  # checksums are computed outside the interpreter lock
        return [shard for shard in pool.map(inspect, shard_files(folder)) if shard.fault]


def delete(folder: Path) -> None:
    """Delete a cache; what is needed again is encoded again.

    Raises:
        UserError: If a process is encoding into it.
    """
    with _unused(folder):
        shutil.rmtree(folder)


def delete_shards(folder: Path, shards: Iterable[Shard]) -> None:
    """Delete some shards of a cache.

    Raises:
        UserError: If a process is encoding into it.
    """
    with _unused(folder):
        for shard in shards:
            shard.path.unlink(missing_ok=True)


@contextmanager
def _unused(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into a cache.

    Raises:
        UserError: If one does, or the folder can't be written to.
    """
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{folder} is being written by another process") from error
    except OSError as error:
        raise UserError(f"{folder} can't be written to ({error.strerror or error})") from error


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a cache, by its name and by what a build writes first."""
    return bool(re.fullmatch(r".+-[0-9a-f]{16}", folder.name)) and any(
        (folder / name).is_file() for name in (META, LOCK)
    )


def _meta(folder: Path) -> dict[str, Any] | None:
    """Return what a cache says of itself, None where that is damaged."""
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_bytes())
        return meta if "format" in meta and str(meta["encoder"]["source"]) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
