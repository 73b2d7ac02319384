"""What commands in pieces have in common: their first and last stage, and how they end."""

from collections.abc import Callable, Sequence
from pathlib import Path

from declip_pl.cross_eval.failures import as_error
from declip_pl.cross_eval.matrix import Failure
from declip_pl.data.feature_cache import SHARD
from declip_pl.jobs import run as jobs
from declip_pl.jobs.pieces import Piece, Stage
from declip_pl.jobs.where import Local, Slurm

SHARE = 2048
"""Photos that a cluster's job encodes: enough that loading the encoder does not count."""

_REPORT = "report"


def shares_of(where: Local | Slurm, photos: int) -> int:
    """Return in how many shares photos are encoded."""
    if isinstance(where, Local):
        return min(where.processes, -(-photos // SHARD))
    return min(where.array, -(-photos // SHARE))


def encoding(command: Sequence[str], shares: int) -> Stage:
    """Return the stage that encodes photos."""
    numbers = range(1, shares + 1)
    pieces = (
        Piece(f"encode {n} of {shares}", (*command, f"--part=encode:{n}/{shares}")) for n in numbers
    )
    return Stage("encode", tuple(pieces))


def report(command: Sequence[str]) -> Stage:
    """Return the stage that puts everything together."""
    return Stage(_REPORT, (Piece(_REPORT, (*command, "--part=report")),))


def run_stages(
    where: Local | Slurm, stages: Callable[[], Sequence[Stage]], folder: Path, what: str
) -> None:
    """Run a command's pieces, and print what its report says.

    Args:
        where: Where they run.
        stages: Returns the pieces that are left, once no job of before is at work.
        folder: Of the results.
        what: What the pieces are parts of.

    Raises:
        UserError: If a piece failed; all of them are named, with their logs.
    """
    jobs.wait_for_earlier(where, folder)
    told = jobs.run(where, stages(), folder)
    log = told.logs[_REPORT]
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    # submitit's own lines, and what went wrong, which is named below.
    print("\n".join(line for line in text.splitlines() if not line.startswith(_NOT_SHOWN)))
    if told.failed:
        raise as_error(what, [Failure(f.piece, f"{f.why} (log: {f.log})") for f in told.failed])


_NOT_SHOWN = ("submitit ", "error: ", "Traceback ", "  File ")
