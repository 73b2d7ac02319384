"""Pieces of work, each a command line, and the job that runs one."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from declip_pl.processes import die_with_parent

REQUEUES = 20
"""How often a job that reaches its time limit is started again."""

_END = 60
"""Seconds in which a command that is asked to end does so, before it is killed. SLURM says 90
seconds before a time limit that it is near."""
_LOOK = 0.2
"""Seconds between two looks at whether a command has ended."""


@dataclass(frozen=True)
class Piece:
    """A part of the work that depends on no other of its stage, and may be done again.

    Attributes:
        name: What it is called.
        command: The words of the command line that does it.
    """

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Pieces that begin when those of the stage before have ended, however they did.

    Attributes:
        name: What it is called.
        pieces: The pieces.
    """

    name: str
    pieces: tuple[Piece, ...]


class Failed(NamedTuple):
    """A piece that was not finished.

    Attributes:
        piece: Its name.
        why: What went wrong, in a line.
        log: What it printed.
    """

    piece: str
    why: str
    log: Path


class PieceError(RuntimeError):
    """A piece's command failed."""


@dataclass
class Job:
    """What a job runs: a command, of which nothing but words travels.

    The command is a process of its own, so that no handler of signals in it (Lightning's, which
    puts a job back into the queue itself) meets submitit's. Whatever ends it, the same command goes
    on from what is finished.

    Attributes:
        command: The command's words.
        folder: Where it runs.
        environment: Variables that differ from those of the job.
        owner: A process of this machine without which the command is to end; 0 if there is none.
    """

    command: tuple[str, ...]
    folder: str
    environment: Mapping[str, str] = field(default_factory=dict)
    owner: int = 0
    _child: Any = field(default=None, repr=False)

    def __call__(self) -> None:
        """Run the command to its end.

        Raises:
            PieceError: If it fails.
        """
        environment = {**os.environ, **self.environment}
        self._child = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=environment,
            preexec_fn=_prepare,  # noqa: PLW1509 - no threads yet
        )
        # Not child.wait(), whose lock a signal's handler would wait for.
        while (status := self._child.poll()) is None:
            time.sleep(_LOOK)
            if self.owner and not psutil.pid_exists(self.owner):
                self._child.terminate()
        if status in (-signal.SIGTERM, 128 + signal.SIGTERM):
            # The cluster ends the job, and decides whether it is started again: a result, which
            # would say that it is over, is not left.
            os._exit(status % 256)
        if status:
            raise PieceError(f"exit status {status}")

    def checkpoint(self) -> Any:
        """End the command and return what the next job runs: the same, which goes on from there.

        submitit calls this near the time limit and before preemption.
        """
        from submitit.helpers import DelayedSubmission

        if self._child:
            with suppress(psutil.NoSuchProcess):
                _end(psutil.Process(self._child.pid))
        return DelayedSubmission(Job(self.command, self.folder, self.environment, self.owner))


def last_error(log: Path, lines: int = 50) -> str:
    """Return the last line of a log that says what went wrong; empty if none does."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    found = [line for line in text if line.startswith("error: ")]
    return found[-1].removeprefix("error: ") if found else ""


def named(pieces: Sequence[Piece]) -> str:
    """Return how many pieces there are, in words."""
    return f"{len(pieces)} piece" + "s" * (len(pieces) != 1)


def _end(process: psutil.Process) -> None:
    process.terminate()
    try:
        process.wait(_END)
    except psutil.TimeoutExpired:
        process.kill()


def _prepare() -> None:
    """Have the command end with its job, and not by the signal that is meant for submitit."""
    die_with_parent()
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
