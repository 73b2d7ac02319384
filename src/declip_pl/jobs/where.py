"""Where the pieces of a command run: what ``--on`` names, and the options of a cluster's jobs."""

from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from declip_pl.errors import UserError

MOST = 1024
"""Most processes of ``local:N``."""

SHORTEST = 5
"""Shortest time limit in minutes: SLURM tells a job 90 to 150 seconds before that it is near, and
a job that has just begun does not listen yet."""

_EXPECTED = "expected slurm, slurm:FILE or local:N"


@dataclass(frozen=True)
class Jobs:
    """Where the pieces of a command run.

    Args:
        on: slurm, slurm:FILE (options of the jobs in YAML), or local:N for N processes on this
            machine, each with a GPU of its own where there are some. By default one piece after the
            other in this process.
        part: Do one piece and no other, as the jobs of --on do: encode:1/8, score:MODEL or report.
        dry_run: Say what the pieces are and what they take, measured on a few photos; start none.
    """

    on: str | None = None
    part: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Part:
    """One piece of a command.

    Attributes:
        kind: ``encode``, ``score`` or ``report``.
        model: Which model is scored.
        number: Which share of the photos is encoded, from 1.
        of: How many shares there are.
    """

    kind: str
    model: str = ""
    number: int = 1
    of: int = 1


@dataclass(frozen=True)
class Local:
    """Processes on this machine.

    Attributes:
        processes: How many work at once.
    """

    processes: int


@dataclass(frozen=True)
class Slurm:
    """Jobs of a SLURM cluster; what is not said is the cluster's own default.

    Attributes:
        partition: As ``sbatch`` has it, like the others of that name.
        account: Whom the time is charged to.
        qos: Quality of service.
        constraint: Features of the nodes.
        gres: Such as ``gpu:1``.
        cpus_per_task: Cores of a job.
        mem: Memory of a job, such as ``32G``.
        time: Minutes that a job may take, at least :data:`SHORTEST`. One that takes longer is put
            into the queue again and goes on from what is finished.
        array: Most jobs of an array; clusters refuse larger ones than their ``MaxArraySize`` - 1.
        setup: Lines of shell before each job, such as ``module load cuda``.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    time: int = 120
    array: int = 1000
    setup: tuple[str, ...] = ()

    def sbatch(self) -> dict[str, Any]:
        """Return the options that are said, but for the array's."""
        said = {name: value for name, value in asdict(self).items() if value}
        del said["array"]
        return said | {"setup": list(self.setup)}


def read_jobs(jobs: Jobs) -> tuple[Local | Slurm | None, Part | None]:
    """Return where pieces run, and the one piece that is wanted.

    Raises:
        UserError: If an option is wrong, both are given, or submitit is missing.
    """
    if jobs.part and (jobs.on or jobs.dry_run):
        raise UserError("--part does one piece here: leave out --on and --dry_run")
    where = read_where(jobs.on) if jobs.on else None
    if where and not jobs.dry_run and find_spec("submitit") is None:
        raise UserError(
            "--on needs submitit: pip install 'declip-pl[slurm]', in a checkout "
            "pip install --editable '.[slurm]'"
        )
    return where, read_part(jobs.part) if jobs.part else None


def read_where(on: str) -> Local | Slurm:
    """Return what ``--on`` names.

    Raises:
        UserError: If it names nothing, or the options of the jobs are wrong.
    """
    kind, _, detail = on.partition(":")
    if kind == "slurm":
        return _read_options(Path(detail).expanduser()) if detail else Slurm()
    if kind == "local" and detail.isdecimal() and 1 <= int(detail) <= MOST:
        return Local(int(detail))
    raise UserError(f"--on {on}: {_EXPECTED}, with N from 1 to {MOST} (make: ON=)")


def read_part(part: str) -> Part:
    """Return what ``--part`` names.

    Raises:
        UserError: If it names no piece.
    """
    kind, _, detail = part.partition(":")
    if part == "report":
        return Part(kind)
    if kind == "score" and detail:
        return Part(kind, detail)
    number, _, of = detail.partition("/")
    if kind == "encode" and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return Part(kind, number=int(number), of=int(of))
    raise UserError(f"--part {part}: expected encode:1/8, score:MODEL or report")


def _read_options(path: Path) -> Slurm:
    try:
        # All values as text: to YAML, 2:00:00 is the number 7200.
        said = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict):
        raise UserError(f"{path} holds no options of jobs; expected lines such as: partition: gpu")
    known = [field.name for field in fields(Slurm)]
    if unknown := [name for name in said if name not in known]:
        raise UserError(f"{path}: there is no option {unknown[0]!r}; expected {', '.join(known)}")
    return Slurm(**{name: _checked(path, name, value) for name, value in said.items()})


def _checked(path: Path, name: str, value: Any) -> Any:
    """Return a value as it is needed.

    Raises:
        UserError: If it is of the wrong kind.
    """
    if name == "setup":
        expected = "a list of lines"
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            return tuple(value)
    elif name in ("time", "array", "cpus_per_task"):
        least = SHORTEST if name == "time" else 1
        expected = f"a whole number from {least}" + " (of minutes)" * (name == "time")
        if isinstance(value, str) and value.isdecimal() and int(value) >= least:
            return int(value)
    else:
        expected = "text"
        if isinstance(value, str) and value:
            return value
    raise UserError(f"{path}: {name} is {value!r}; expected {expected}")
