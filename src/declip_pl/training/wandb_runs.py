"""Where runs are logged in Weights & Biases: project, mode, which run continues, how to look."""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from declip_pl.privacy import all_without_folders
from declip_pl.training.results import command

PROJECT = "declip-pl"
"""The W&B project of all training runs and cross-evaluations."""

PRIVATE: dict[str, Any] = {
    "console": "off",
    "disable_git": True,
    "host": "",
    "save_code": False,
    "x_disable_meta": True,  # program, arguments, Python's path, operating system
    "x_save_requirements": False,
}
"""Settings of W&B that keep this machine and its user out of runs."""


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


def private_settings(**further: Any) -> wandb.Settings:
    """Return settings that send nothing of this machine but its load and its hardware.

    Host, program, arguments, output, git's remote, code and installed packages stay here. What a
    variable of W&B asks for is sent all the same, such as ``WANDB_CONSOLE=wrap``.

    Args:
        further: Settings of the caller's.
    """
    unasked = {n: value for n, value in PRIVATE.items() if _variable(n) not in os.environ}
    return wandb.Settings(quiet=True, **unasked, **further)


class PrivateLogger(WandbLogger):
    """A W&B logger whose config names no folder of this machine."""

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log options, each path in them cut to its last part."""
        said = params if isinstance(params, dict) else vars(params)
        super().log_hyperparams(all_without_folders(said))


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


def _variable(setting: str) -> str:
    """Return the variable that W&B reads a setting from, such as ``WANDB__DISABLE_META``."""
    return "WANDB_" + setting.removeprefix("x").upper()
