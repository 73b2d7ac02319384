"""Where runs are logged in Weights & Biases: project, mode, which run continues, how to look."""

import os
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from declip_pl.training.results import command

PROJECT = "declip-pl"
"""The W&B project of all training runs and cross-evaluations."""


def wandb_mode() -> Literal["online", "offline", "disabled"] | None:
    """Return None where $WANDB_MODE says it; else online for users who are logged in."""
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return "disabled"
    if "WANDB_MODE" in os.environ:
        return None
    try:
        return "online" if wandb.login(prompt=False) else "offline"
    except wandb.errors.AuthenticationError as error:
        print(f"W&B: an account is set up but does not answer, logging offline ({error})")
        return "offline"


def make_logger(folder: Path, **options: Any) -> WandbLogger:
    """Return the logger of a training or a test.

    Its run starts with the first thing that is logged.

    Args:
        folder: Where its files go.
        options: Of ``wandb.init``; ``id`` is a run to go on with, or None.
    """
    logger = WandbLogger(
        project=PROJECT,
        resume="allow",
        save_dir=folder,
        mode=wandb_mode(),
        settings=wandb.Settings(quiet=True),
        **options,
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning sets it, and wandb warns of it
    return logger


def wandb_id(folder: Path) -> str | None:
    """Return the id of the W&B run that was last logged in ``folder`` and may be continued."""
    newest = max((folder / "wandb").glob("*run-*-*"), key=_logged, default=None)
    return newest.name.rsplit("-", 1)[-1] if newest else None


def wandb_hints(folder: Path) -> list[str]:
    """Return how to look at the offline runs of a training run's folder; none if there are none."""
    offline = sorted((folder / "wandb").glob("offline-run-*"), key=_logged)
    if not offline:
        return []
    wandb_ = command("wandb")
    return [
        f"curves without an account: {wandb_} leet {offline[-1]}",
        f"curves in the browser:     {wandb_} login && {wandb_} sync {folder}/wandb/offline-run-*",
    ]


def _logged(folder: Path) -> str:
    """Return the time stamp in a run folder's name: ``[offline-]run-20251123_210400-ID``."""
    return folder.name.split("run-", 1)[1]
