"""What becomes of pieces: told as they begin and end, and named with their logs at the end."""

import time
from pathlib import Path
from typing import Any

from declip_pl.files import relative
from declip_pl.jobs.pieces import Failed, Piece, last_error

_SHARED = 15
"""Seconds after which a shared disk shows what another machine has written."""


class Told:
    """Notes and prints how pieces begin and end.

    Args:
        total: How many pieces there are.

    Attributes:
        failed: The pieces that were not finished.
        logs: What each piece printed.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.failed: list[Failed] = []
        self.logs: dict[str, Path] = {}

    def started(self, piece: Piece, job: Any) -> None:
        """Say where what a piece prints can be read meanwhile: how far it is."""
        print(f"{piece.name}: started, log {relative(Path(job.paths.stdout))}", flush=True)

    def ended(self, piece: Piece, job: Any, patience: float = 0) -> None:
        """Note that the job of a piece is over.

        Args:
            piece: The piece.
            job: submitit's.
            patience: Seconds that its result may need to be seen here.
        """
        log = relative(Path(job.paths.stdout))
        self.logs[piece.name] = log
        why = _why(job, patience)
        if why:
            self.failed.append(Failed(piece.name, why, log))
        end = "failed" if why else "done"
        print(f"{piece.name}: {end} ({len(self.logs)} of {self.total})", flush=True)

    def ended_elsewhere(self, piece: Piece, job: Any) -> None:
        """Note that a job on another machine is over."""
        self.ended(piece, job, _SHARED)


def _why(job: Any, patience: float) -> str:
    """Return why a job failed; empty if it did not."""
    end = time.monotonic() + patience
    while not (there := job.paths.result_pickle.exists()) and time.monotonic() < end:
        time.sleep(1)
    said = last_error(Path(job.paths.stdout))
    if not there:
        return said or "it was cancelled or killed (out of memory, or the machine failed)"
    error = job.exception()
    if error is None:
        return ""
    return said or str(error).strip().split("\n")[-1]
