"""Files that are either complete or absent, and their names."""

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

from filelock import FileLock, Timeout

from declip_pl.errors import UserError

NAME_BYTES = 255
"""What file systems allow a name."""

UNFINISHED = ".unfinished-"
"""How the name of a file begins that is being written."""

LOCK = ".lock"
"""The file by whose lock a process keeps others from writing into a folder."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block succeeds.

    A reader therefore sees the old file or the whole new one, whatever kills the writer.

    Raises:
        OSError: If it can't be written, with ``path`` as its ``filename``, whatever library wrote.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED, suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or not _is_of(error, path):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except Exception as error:
        if number := temporary and _refusal(error, temporary):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        if temporary:
            with suppress(OSError):  # a read-only disk refuses that too; why it was is told already
                temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what :func:`atomic_path` left below a folder when its process was killed.

    Only for those who hold the folder's lock: others may be writing there. Folders below it that
    have a lock of their own are left alone.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not Path(place, name, LOCK).exists()]
        for name in names:
            if name.startswith(UNFINISHED):
                Path(place, name).unlink(missing_ok=True)


@contextmanager
def work_folder(target: Path, doing: str) -> Iterator[Path]:
    """Yield an empty folder beside the folder that is to be made in it, to one process at a time.

    What killed processes left is deleted. Whoever waited for another process should look whether
    ``target`` is there by now.

    Args:
        target: The folder to be made.
        doing: What is done meanwhile, for those who wait.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    start = f"{UNFINISHED}{target.name}-"
    with locked(target.parent / f".{target.name}.lock", doing):
        for leftover in target.parent.glob(f"{start}*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=start) as work:
            yield Path(work)


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock; while another process holds it, say so and wait.

    Args:
        path: File of the lock.
        doing: What those who hold it do.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is {doing} ({path}); waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def existing(path: Path) -> Path:
    """Return a path, or the nearest folder above that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def relative(path: Path) -> Path:
    """Return a path as people read it: from the current folder where it lies below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8; bytes of names that are not are escaped."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content.

    Raises:
        UserError: If the file can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error})") from error


def all_sha256(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of each file's content, on all cores.

    Raises:
        UserError: If a file can't be read.
    """
    files = list(dict.fromkeys(paths))
    with ThreadPoolExecutor() as pool:  # hashes are computed outside the interpreter lock
        return dict(zip(files, pool.map(sha256, files), strict=True))


def short_hash(text: str) -> str:
    """Return six characters that tell a text from others, for names of files."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:6]


def shortened(name: str, limit: int) -> str:
    """Return a name for a file or folder of at most ``limit`` bytes.

    One that is too long keeps its beginning; a hash stands for the rest, so that names differ where
    the long ones do.
    """
    encoded = os.fsencode(name)
    if len(encoded) <= limit:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f"{encoded[: limit - len(digest) - 1].decode('utf-8', 'ignore')}-{digest}"


def cache_folder() -> Path:
    """Return the folder of what can be fetched or computed again: ``$DECLIP_CACHE``, or below home.

    Raises:
        UserError: If the user has no home folder.
    """
    try:
        return Path(expanded(os.environ.get("DECLIP_CACHE") or "~/.cache/declip-pl"))
    except UserError as error:
        raise UserError(f"{error}, or name a folder for the cache (DECLIP_CACHE=...)") from error


def file_name(stem: str, suffix: str) -> str:
    """Return the name of a file of ours about something, whatever length its name has."""
    return f"{shortened(stem, NAME_BYTES - len(suffix))}{suffix}"


def expanded(value: Any) -> Any:
    """Return a value, or a mapping or list of them, in which ``~`` is the user's home folder.

    A name that only begins with ``~``, as editors call their copies, stays.

    Raises:
        UserError: If the user has no home folder.
    """
    if isinstance(value, dict):
        return {key: expanded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expanded(item) for item in value]
    if not (isinstance(value, (str, Path)) and str(value).startswith("~")):
        return value
    path = os.path.expanduser(value)  # noqa: PTH111 - Path's takes away what a text ends with
    if path == "~" or path.startswith("~/"):
        raise UserError(f"{value}: this user has no home folder; write the whole path")
    return type(value)(path)


def _is_of(error: OSError, path: Path) -> bool:
    """Whether an error is about a file, rather than about one that was read to write it."""
    if not isinstance(error.filename, (str, bytes, os.PathLike)):
        return True
    named = Path(os.fsdecode(error.filename))
    return named.parent == path.parent or named in (path, *path.parents)


def _refusal(error: Exception, temporary: Path) -> int | None:
    """Return the number of the system's error behind another one, if that is why.

    Libraries in C++ and Rust have exceptions of their own for a full disk.
    """
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        return int(found[1])
    if isinstance(error, UserError):
        return None
    try:
        with temporary.open("ab") as file:
            file.write(bytes(2**16))
    except OSError as reason:
        return reason.errno
    return None


def command(name: str) -> str:
    """Return how to call a program of this environment from here: by name, or by its path."""
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) or not beside.exists():
        return name
    return quote(str(relative(beside)))
