"""Pieces in several processes of this machine."""

import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from declip_pl.jobs.outcome import Told
from declip_pl.jobs.pieces import Job, Piece, Stage

_LOOK = 0.2
"""Seconds between two looks at which processes have ended."""
_FOREVER = 60 * 24 * 366
"""Minutes; submitit ends a process after two by default."""


def run(stages: Sequence[Stage], processes: int, folder: Path, told: Told) -> None:
    """Run pieces stage by stage, some at once.

    Args:
        stages: In their order.
        processes: How many work at once.
        folder: For logs.
        told: Is told when each piece begins, and what becomes of it.
    """
    places = deque(_environments(processes))
    running: dict[Any, tuple[Piece, dict[str, str]]] = {}
    try:
        for stage in stages:
            left = deque(stage.pieces)
            while left or running:
                while left and places:
                    piece, place = left.popleft(), places.popleft()
                    job = _started(piece, place, folder)
                    running[job] = (piece, place)
                    told.started(piece, job)
                for job in [job for job in running if job.done()]:
                    piece, place = running.pop(job)
                    places.append(place)
                    told.ended(piece, job)
                time.sleep(_LOOK)
    finally:
        for job in running:
            job.cancel()


def _started(piece: Piece, place: dict[str, str], folder: Path) -> Any:
    from submitit import LocalExecutor

    executor = LocalExecutor(folder)
    executor.update_parameters(timeout_min=_FOREVER, stderr_to_stdout=True)
    return executor.submit(Job(piece.command, str(Path.cwd()), place, os.getpid()))


def _environments(processes: int) -> list[dict[str, str]]:
    """Return what each process is given: a GPU if there are any, and its share of the cores."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // processes))
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    gpus = named.split(",")[:count] if named else [str(number) for number in range(count)]
    return [
        {
            "OMP_NUM_THREADS": threads,
            "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)] if gpus else "",
        }
        for number in range(processes)
    ]
