"""One file of the feature cache: what a frozen encoder sees in up to 64 photos.

A shard is a safetensors file with ``tokens`` ``[n, tokens, C]`` fp16. Its metadata names the photo
of each row by the SHA-256 of its file, and holds a CRC-32 of all that the shard says: photos, type,
shape and numbers. Whoever looks photos up has the shards that they lie in read once against it.
"""

import json
import zlib
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from declip_pl.errors import UserError
from declip_pl.files import atomic_path, write_text

FORMAT = 3
"""Raise it with any change to what a shard holds."""

ENTRY = "shard"
"""The only entry of a shard's metadata: safetensors writes several in random order, and a rebuilt
shard has the same bytes."""

MIB = 2**20

LIST = "photos.txt"
"""Beside the shards: the photos of each in a line, so that not every header has to be opened."""

UNLISTED = 64
"""So many shards may be missing in the list before it is written anew."""


class Shard(NamedTuple):
    """A shard as it was found.

    Attributes:
        path: Its file.
        photos: For each row the SHA-256 of the photo's file; empty if the header can't be read.
        fault: What is wrong with it in words, empty if nothing.
    """

    path: Path
    photos: list[str]
    fault: str = ""


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a cache, sorted by name."""
    return sorted(folder.glob("[!.]*.safetensors"))  # a hidden one is half written


def write_shard(folder: Path, photos: Sequence[str], tokens: Tensor) -> Path:
    """Write photos' features atomically and return their file.

    Args:
        folder: The cache.
        photos: SHA-256 of each photo's file.
        tokens: ``[n, tokens, C]`` on the CPU.

    Raises:
        OSError: If it can't be written.
        SafetensorError: Likewise.
    """
    path = folder / _name(photos)
    checksum = _checksum(photos, tokens.dtype, tokens.shape, [tokens.numpy()])
    said = json.dumps({"photos": list(photos), "crc32": checksum})
    with atomic_path(path) as temporary:
        save_file({"tokens": tokens}, temporary, {ENTRY: said})
    return path


def inspect_all(folder: Path, wanted: Collection[str]) -> Iterator[Shard]:
    """Yield the shards of a cache as :func:`inspect` does; some of other photos are not opened.

    What holds none of the wanted photos is known by the list, which is written where it lacks many.
    The name of a shard is a hash of its photos, so that no line of the list is taken for another
    shard's, whatever happens to the list.

    Args:
        folder: The cache.
        wanted: SHA-256 of the photos' files.

    Raises:
        UserError: If a file may not be read.
    """
    listed, files = _read_list(folder), shard_files(folder)

    def look(path: Path) -> Shard:
        photos = listed.get(path.name)
        if photos is None or any(photo in wanted for photo in photos):
            return inspect(path, wanted)
        return Shard(path, photos)

    unlisted = {}
    with ThreadPoolExecutor() as pool:  # checksums are computed outside the interpreter lock
        for shard in pool.map(look, files):
            if shard.path.name not in listed and not shard.fault:
                unlisted[shard.path.name] = shard.photos
            yield shard
    if len(unlisted) >= UNLISTED:
        found = listed | unlisted
        lines = (" ".join(found[path.name]) for path in files if path.name in found)
        with suppress(OSError):  # of a cache that can only be read all headers are, every time
            write_text(folder / LIST, "\n".join(lines))


def inspect(path: Path, wanted: Container[str] | None = None) -> Shard:
    """Return a shard's photos and whether it is damaged.

    Args:
        path: A shard. One that was deleted a moment ago holds no photos, and is not damaged.
        wanted: Only a shard that holds one of these photos is read to its end; of others the
            header is read. None stands for all photos.

    Raises:
        UserError: If the file may not be read.
    """
    photos: list[str] = []
    try:
        with safe_open(path, "pt") as opened:
            said = json.loads(opened.metadata()[ENTRY])
            photos, checksum = [str(photo) for photo in said["photos"]], said["crc32"]
            if wanted is not None and not any(photo in wanted for photo in photos):
                return Shard(path, photos)
            tokens = opened.get_slice("tokens")
            kind, shape = tokens[:0].dtype, tokens.get_shape()
        if _checksum(photos, kind, shape, _payload(path)) != checksum:
            return Shard(path, photos, "its checksum differs")
    except FileNotFoundError:
        return Shard(path, [])
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        return Shard(path, photos, f"its header can't be read: {error}")
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error})") from error
    return Shard(path, photos)


def open_shard(path: Path) -> Any:
    """Return a shard as a memory map.

    Raises:
        UserError: If it was deleted or damaged since it was looked up.
    """
    try:
        return safe_open(path, "pt")
    except FileNotFoundError as error:
        raise UserError(f"{path} is gone: was the cache deleted? Start again") from error
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} was damaged meanwhile ({error}); start again") from error


def _name(photos: Iterable[str]) -> str:
    return f"{sha256(''.join(photos).encode()).hexdigest()[:16]}.safetensors"


def _read_list(folder: Path) -> dict[str, list[str]]:
    """Return the photos of shards by the shards' names, as far as they are listed."""
    try:
        lines = (folder / LIST).read_text().splitlines()
    except (OSError, ValueError):  # there is none, or it is damaged
        return {}
    rows = (line.split() for line in lines)
    return {_name(photos): photos for photos in rows}


def _payload(path: Path) -> Iterable[bytes]:
    """Yield the numbers of a safetensors file, a little at a time."""
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))  # the header, behind its length
        yield from iter(partial(file.read, MIB), b"")


def _checksum(
    photos: Sequence[str], kind: torch.dtype, shape: Sequence[int], numbers: Iterable[Any]
) -> str:
    value = zlib.crc32(json.dumps([list(photos), str(kind), list(shape)]).encode())
    for part in numbers:
        value = zlib.crc32(part, value)
    return f"{value:08x}"
