"""Pieces as jobs of a SLURM cluster: arrays, each beginning when the one before it has ended.

Once they are submitted they need nobody: whoever waits for them may go. What was submitted is
written down, so that the same command finds jobs that are still there and submits none twice.
"""

import json
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from declip_pl.errors import UserError
from declip_pl.files import write_text
from declip_pl.jobs.outcome import Told
from declip_pl.jobs.pieces import REQUEUES, Job, Piece, Stage
from declip_pl.jobs.where import Slurm

RECORD = "jobs.json"
"""In the folder of logs: the id of each piece's job."""

_SHORT, _LONG = 2.0, 30.0
"""Seconds between two questions to the cluster, at first and later."""
_TRIES = 20
"""Questions in a row that the cluster may leave unanswered."""


def run(stages: Sequence[Stage], options: Slurm, folder: Path, told: Told) -> None:
    """Submit all stages at once, and wait until their jobs have ended.

    Args:
        stages: In their order.
        options: Of the jobs.
        folder: For logs; shared by all machines.
        told: Is told what became of each piece.

    Raises:
        UserError: If the cluster refuses a job or does not answer.
    """
    running = _submitted(stages, options, folder)
    ids = sorted({_array(job.job_id) for job in running}, key=int)
    print(f"submitted {told.total} pieces as jobs {', '.join(ids)}, with logs in {folder}")
    print(
        f"they go on without this command, which waits for them; scancel {' '.join(ids)} ends them"
    )
    for _ in _looks():
        there = active()
        for job in [job for job in running if job.job_id not in there]:
            told.ended_elsewhere(running.pop(job), job)
        if not running:
            return


def wait_for_earlier(folders: Iterable[Path]) -> None:
    """Wait for jobs that an earlier command submitted.

    Args:
        folders: Of logs.

    Raises:
        UserError: If the cluster does not answer.
    """
    records = [folder / RECORD for folder in folders if (folder / RECORD).is_file()]
    ids = {job for file in records for job in json.loads(file.read_text()).values()}
    told = False
    for _ in _looks() if ids else ():
        left = ids & active()
        if not left:
            return
        if not told:
            arrays = " ".join(sorted({_array(job) for job in left}, key=int))
            print(f"{len(left)} jobs of before are queued or running: waiting (scancel {arrays})")
            told = True


def active() -> set[str]:
    """Return the ids of this user's jobs that are queued or running, of arrays each single one.

    Raises:
        UserError: If the cluster does not answer, however often it is asked.
    """
    why = ""
    for _ in range(_TRIES):
        try:
            return _asked()
        except FileNotFoundError as error:
            raise UserError(
                "there is no squeue here: --on slurm is for a machine that jobs are submitted from"
            ) from error
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            why = str(getattr(error, "stderr", None) or error).strip()
            time.sleep(_LONG)
    raise UserError(f"squeue fails ({why}); jobs that were submitted go on without this command")


def _asked() -> set[str]:
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LONG)
    return set(done.stdout.split())


def _submitted(stages: Sequence[Stage], options: Slurm, folder: Path) -> dict[Any, Piece]:
    """Submit all pieces and return their jobs."""
    jobs: dict[Any, Piece] = {}
    before: set[str] = set()
    for stage in stages:
        own: dict[Any, Piece] = {}
        for chunk in _chunks(stage.pieces, options.array):
            own |= _array_of(stage.name, chunk, options, folder, before)
            record = {piece.name: job.job_id for job, piece in (jobs | own).items()}
            write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
        jobs |= own
        before = {_array(job.job_id) for job in own}
    return jobs


def _array_of(
    stage: str, pieces: Sequence[Piece], options: Slurm, folder: Path, before: set[str]
) -> dict[Any, Piece]:
    """Submit an array that begins when other jobs have ended.

    Raises:
        UserError: If the cluster refuses it.
    """
    from submitit import SlurmExecutor

    try:
        executor = SlurmExecutor(folder, max_num_timeout=REQUEUES)
        executor.update_parameters(
            **options.sbatch(),
            job_name=f"declip-{stage}",
            stderr_to_stdout=True,
            additional_parameters={"requeue": True},
            **({"dependency": f"afterany:{':'.join(sorted(before))}"} if before else {}),
        )
        jobs = executor.submit_array([Job(p.command, str(Path.cwd())) for p in pieces])
    except RuntimeError as error:
        why = " ".join(str(error).split())
        kept = f"; jobs {', '.join(sorted(before))} were submitted" if before else ""
        raise UserError(f"the cluster refuses the jobs of {stage} ({why}){kept}") from error
    return dict(zip(jobs, pieces, strict=True))


def _looks() -> Iterator[None]:
    """Yield at growing intervals."""
    pause = _SHORT
    while True:
        yield
        time.sleep(pause)
        pause = min(_LONG, 1.2 * pause)


def _chunks(pieces: Sequence[Piece], most: int) -> Iterator[Sequence[Piece]]:
    # submitit does not split what is longer than the cluster's arrays.
    for start in range(0, len(pieces), most):
        yield pieces[start : start + most]


def _array(job: str) -> str:
    """Return the id of a job without its place in an array."""
    return job.partition("_")[0]
