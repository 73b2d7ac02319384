"""Where runs are logged in Weights & Biases: project, mode, which run continues, how to look."""

import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import requests
import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from declip_pl.errors import UserError
from declip_pl.files import command, expanded
from declip_pl.privacy import all_without_folders

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


NOT_ONLINE = ("offline", "disabled", "dryrun")
MODES = ("online", "shared", "run", *NOT_ONLINE)

ANSWER_WITHIN = 10
"""Seconds that W&B's server has to answer."""

LONGEST_TAG = 64
LONGEST_NAME = 128
"""What W&B takes."""


def wandb_mode() -> Literal["online", "offline", "disabled"] | None:
    """Return None where $WANDB_MODE says it; else online for users who are logged in.

    Raises:
        UserError: If it says something else, or online and there is no key or no server.
    """
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return "disabled"
    if said := os.environ.get("WANDB_MODE"):
        _check_mode(said)
        return None
    try:
        return "online" if _logged_in() else "offline"
    except wandb.errors.Error as error:
        print(f"W&B: an account is set up but does not answer, logging offline ({error})")
        return "offline"


def wandb_project() -> str:
    """Return the project: ``$WANDB_PROJECT``, or :data:`PROJECT`."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def wandb_options(name: str, group: str, job_type: str, tags: Iterable[object]) -> dict[str, Any]:
    """Return where and under which names W&B keeps a run, as its variables say or as given here.

    ``$WANDB_PROJECT``, ``$WANDB_NAME``, ``$WANDB_RUN_GROUP``, ``$WANDB_JOB_TYPE`` and
    ``$WANDB_TAGS`` have the last word; ``$WANDB_ENTITY``, ``$WANDB_NOTES`` and the like are W&B's
    own affair.

    Args:
        name: Of the run.
        group: Of the runs that it belongs to.
        job_type: What is done.
        tags: To find it by.
    """
    named = {
        "project": wandb_project(),
        "name": os.environ.get("WANDB_NAME") or name,
        "group": os.environ.get("WANDB_RUN_GROUP") or group,
        "job_type": os.environ.get("WANDB_JOB_TYPE") or job_type,
    }
    if said := os.environ.get("WANDB_TAGS"):
        tags = said.split(",")
    cut = (_readable(str(tag))[:LONGEST_TAG] for tag in tags)
    return {
        **{key: _readable(value)[:LONGEST_NAME] for key, value in named.items()},
        "tags": list(dict.fromkeys(filter(None, cut))),
    }


def wandb_place(folder: Path) -> Path:
    """Return where W&B keeps what it logs of a folder: below ``$WANDB_DIR``, or in the folder."""
    return Path(expanded(os.environ.get("WANDB_DIR") or str(folder)))


def private_settings(mode: str | None, **further: Any) -> wandb.Settings:
    """Return settings that send nothing of this machine but its load and its hardware.

    Host, program, arguments, output, git's remote, code and installed packages stay here. What a
    variable of W&B asks for is sent all the same, such as ``WANDB_CONSOLE=wrap``. A run that is not
    online says nothing at its start, some of W&B's warnings included; errors are raised.

    Args:
        mode: As of :func:`wandb_mode`.
        further: Settings of the caller's.
    """
    apart = (mode or os.environ.get("WANDB_MODE")) in NOT_ONLINE
    options = PRIVATE | {"quiet": True, "silent": apart}
    unasked = {n: value for n, value in options.items() if _variable(n) not in os.environ}
    return wandb.Settings(**unasked, **further)


class PrivateLogger(WandbLogger):
    """A W&B logger whose config names no folder of this machine."""

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log options, each path in them cut to its last part."""
        said = params if isinstance(params, dict) else vars(params)
        super().log_hyperparams(all_without_folders(said))


def make_logger(folder: Path, **options: Any) -> WandbLogger:
    """Return the logger of a training or a test.

    Its run starts with the first thing that is logged.

    Args:
        folder: Whose training or test it is.
        options: Of ``wandb.init``; ``id`` is a run to go on with, or None.
    """
    mode = wandb_mode()
    logger = PrivateLogger(
        **options,
        resume="allow",
        save_dir=wandb_place(folder),
        mode=mode,
        settings=private_settings(mode),
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning sets it, and wandb warns of it
    return logger


def summarised(logger: Any, figures: dict[str, Any]) -> bool:
    """Put figures into a run's summary, not into its curves, and return whether it is W&B's.

    A figure that a run has once is no curve.

    Args:
        logger: Any logger of Lightning's, or None.
        figures: By name; how many photos a score is made of (``..._n``) is left out.
    """
    if not isinstance(logger, WandbLogger):
        return False
    logger.experiment.summary.update({k: v for k, v in figures.items() if not k.endswith("_n")})
    return True


def wandb_id(folder: Path) -> str | None:
    """Return the id of the W&B run that was last logged in ``folder`` and may be continued."""
    if os.environ.get("WANDB_DIR"):  # where runs of other folders are as well
        return None
    newest = max((folder / "wandb").glob("*run-*-*"), key=_logged, default=None)
    return newest.name.rsplit("-", 1)[-1] if newest else None


def wandb_hints(folder: Path) -> list[str]:
    """Return how to look at the offline runs of a training run's folder; none if there are none."""
    place = wandb_place(folder) / "wandb"
    offline = sorted(place.glob("offline-run-*"), key=_logged)
    if not offline:
        return []
    wandb_ = command("wandb")
    return [
        f"curves without an account: {wandb_} leet {quote(str(offline[-1]))}",
        f"curves in the browser:     {wandb_} login && {wandb_} sync "
        f"{quote(str(place))}/offline-run-*",
    ]


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise UserError(f"WANDB_MODE is {mode}; expected {', '.join(MODES)}")
    try:
        if mode in ("online", "run") and not _logged_in():
            raise UserError(
                "WANDB_MODE is online, and there is no key: wandb login, or WANDB_MODE=offline"
            )
    except wandb.errors.Error as error:
        raise UserError(
            f"WANDB_MODE is online, but: {error}; WANDB_MODE=offline logs without it"
        ) from error


def _logged_in() -> bool:
    """Return whether there is a key, and the server takes it.

    Raises:
        wandb.errors.Error: If the server does not answer, or refuses the key.
    """
    if not wandb.login(prompt=False, verify=False):
        return False
    server = wandb.setup().settings.base_url
    # Asked before W&B's own process is: that one goes on trying for a server that is away, and
    # what started it may wait for its end for good.
    try:
        requests.get(server, timeout=ANSWER_WITHIN)
    except requests.RequestException as error:
        raise wandb.errors.CommError(f"{server} does not answer") from error
    return wandb.login(prompt=False)


def _readable(text: str) -> str:
    """Escape bytes of file names that are not UTF-8, which W&B can't send."""
    return text.encode("utf-8", "backslashreplace").decode()


def _logged(folder: Path) -> str:
    """Return the time stamp in a run folder's name: ``[offline-]run-20251123_210400-ID``."""
    return folder.name.split("run-", 1)[1]


def _variable(setting: str) -> str:
    """Return the variable that W&B reads a setting from, such as ``WANDB__DISABLE_META``."""
    return "WANDB_" + setting.removeprefix("x").upper()
