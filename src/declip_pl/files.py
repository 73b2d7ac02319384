"""Files that are either complete or absent."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from declip_pl.errors import UserError

UNFINISHED = ".unfinished-"
"""How the name of a file begins that is being written."""

LOCK = ".lock"
"""The file by whose lock a process keeps others from writing into a folder."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block succeeds.

    A reader therefore sees the old file or the whole new one, whatever kills the writer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    finally:
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


def relative(path: Path) -> Path:
    """Return a path as people read it: from the current folder where it lies below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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


def short_hash(text: str) -> str:
    """Return six characters that tell a text from others, for names of files."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:6]
