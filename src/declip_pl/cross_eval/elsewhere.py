"""What commands in pieces have in common: their first and last stage, and how they end."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from declip_pl.cross_eval.failures import as_error
from declip_pl.cross_eval.matrix import Failure
from declip_pl.cross_eval.models import is_trained, planned
from declip_pl.data.feature_cache import SHARD
from declip_pl.jobs import run as jobs
from declip_pl.jobs.pieces import Piece, Stage, named
from declip_pl.jobs.where import Local, Slurm
from declip_pl.training.recipe import Recipe

SHARE = 2048
"""Photos that a cluster's job encodes: enough that loading the encoder does not count."""

_REPORT = "report"
_SUBMITIT = "submitit "
"""How its own lines begin in a log."""
_BEGINS = "\nerror: "
"""How the message begins of a report that lacks something; the pieces that failed are named."""


def shares_of(where: Local | Slurm, photos: int) -> int:
    """Return in how many shares photos are encoded."""
    if isinstance(where, Local):
        return min(where.processes, -(-photos // SHARD))
    return min(where.array, -(-photos // SHARE))


def missing_models(recipe: Recipe, wanted: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """Return the generators and the seed of each model that is not trained.

    Raises:
        UserError: If a finished run of the same name is of other data or another recipe.
    """
    plan = planned(recipe, wanted, seeds)
    return [model for model in plan if not is_trained(recipe, *model)]


def tell(stages: Iterable[Stage]) -> None:
    """Print how many pieces each stage has."""
    for stage in stages:
        print(f"  {stage.name}: {named(stage.pieces)}")


def encoding(command: Sequence[str], shares: int) -> Stage:
    """Return the stage that encodes photos, in shares."""
    numbers = range(1, shares + 1)
    pieces = (
        Piece(f"encode {n} of {shares}", (*command, f"--part=encode:{n}/{shares}")) for n in numbers
    )
    return Stage("encode", tuple(pieces))


def training(models: Iterable[tuple[Recipe, str, int]]) -> Stage:
    """Return the stage that trains models: of a recipe, a choice of generators and a seed each."""
    pieces = (
        Piece(f"train {recipe.run(choice, seed).folder.name}", tuple(recipe.command(choice, seed)))
        for recipe, choice, seed in models
    )
    return Stage("train", tuple(pieces))


def scoring(command: Sequence[str], names: Iterable[object]) -> Stage:
    """Return the stage that scores, each thing of a name in a piece of its own."""
    pieces = (Piece(f"score {name}", (*command, f"--part=score:{name}")) for name in names)
    return Stage("score", tuple(pieces))


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
    lines = text.partition(_BEGINS)[0].splitlines()
    print("\n".join(line for line in lines if not line.startswith(_SUBMITIT)))
    if told.failed:
        raise as_error(what, [Failure(f.piece, f"{f.why} (log: {f.log})") for f in told.failed])
