"""What a matrix is about and how it was made, without naming a folder of this machine."""

import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from declip_pl.cross_eval.failures import on_record
from declip_pl.cross_eval.folder import fingerprint
from declip_pl.cross_eval.matrix import About, Data, Failure, Made
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.transforms import key_of
from declip_pl.privacy import all_without_folders
from declip_pl.training.results import circumstances


def describe(
    folder: Path,
    data: LocalizationDataModule,
    results: dict[str, Any],
    failures: Sequence[Failure],
    start: float,
) -> About:
    """Return what a matrix is about and how it was made.

    Args:
        folder: The cross-evaluation's.
        data: What was scored on.
        results: ``tests`` by name, and ``device``.
        failures: What went wrong.
        start: When it began, by ``time.monotonic()``.
    """
    return About(
        name=folder.name,
        notice=data.notice or None,
        perturbation=key_of(data.perturbation),
        data=Data(fingerprint(data.root), data.root.name, results["tests"]),
        failed=on_record(failures),
        made=made(start, results["device"]),
    )


def made(start: float, device: str) -> Made:
    """Return how something comes about.

    Args:
        start: When it began, by ``time.monotonic()``.
        device: Where it ran.
    """
    return Made(
        command=_command(),
        seconds=round(time.monotonic() - start, 1),
        machine=f"{platform.system()} {platform.machine()}",
        device=device,
        **circumstances(),
    )


def _command() -> str:
    program, *arguments = sys.argv
    if Path(program).parts[-2:] == ("declip_pl", "__main__.py"):  # python -m declip_pl
        program = "declip-pl"
    return shlex.join(all_without_folders([program, *arguments]))
