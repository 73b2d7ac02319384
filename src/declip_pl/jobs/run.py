"""Running pieces where ``--on`` says."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from declip_pl.jobs import local, slurm
from declip_pl.jobs.outcome import Told
from declip_pl.jobs.pieces import Stage
from declip_pl.jobs.where import Local, Slurm

LOGS = "jobs"
"""Folder of the logs, one for each time that pieces were started."""


def wait_for_earlier(where: Local | Slurm, folder: Path) -> None:
    """Wait for a cluster's jobs that an earlier command has submitted.

    Args:
        where: Where pieces run.
        folder: The folder of the results.
    """
    if isinstance(where, Slurm):
        slurm.wait_for_earlier(sorted((folder / LOGS).glob("*")))


def run(where: Local | Slurm, stages: Sequence[Stage], folder: Path) -> Told:
    """Run all pieces and return what became of them.

    Args:
        where: Where they run.
        stages: What runs, stage by stage; one without pieces is left out.
        folder: Of the results.
    """
    stages = [stage for stage in stages if stage.pieces]
    logs = _new_folder((folder / LOGS).absolute())
    told = Told(sum(len(stage.pieces) for stage in stages))
    if isinstance(where, Slurm):
        slurm.run(stages, where, logs, told)
    else:
        print(f"{told.total} pieces, {where.processes} at once, with logs in {logs}", flush=True)
        local.run(stages, where.processes, logs, told)
    return told


def _new_folder(parent: Path) -> Path:
    """Make the first of parent/1, parent/2, ... that is not there."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = parent / str(number)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError
