"""Bounds of Lightning's own options, which it takes, or stumbles over, as they are."""

import os
import re
from collections.abc import Mapping
from typing import Any

import lightning as L
from annotated_types import Interval

from declip_pl.errors import UserError
from declip_pl.model.description import SEEDS

MANY = 10**9

CASTING = ("16-true", "bf16-true", "64-true", "64")
"""Lightning's precisions that cast all weights of a network."""

MULTIPROCESSING = ("ddp_spawn", "ddp_fork", "ddp_notebook")
"""How the names of strategies begin whose processes hand no scores back to their parent."""

ELSEWHERE = ("MASTER_ADDR", "SLURM_NTASKS")
"""Variables of which one is set where several machines know of each other."""

DEVICES = Interval(ge=-1, le=4096)

TRAINER = {
    "num_nodes": Interval(ge=1, le=4096),
    "fast_dev_run": Interval(ge=0, le=MANY),
    "max_epochs": Interval(ge=-1, le=MANY),
    "min_epochs": Interval(ge=0, le=MANY),
    "max_steps": Interval(ge=-1, le=MANY),
    "min_steps": Interval(ge=0, le=MANY),
    "limit_train_batches": Interval(gt=0, le=MANY),
    "limit_val_batches": Interval(ge=0, le=MANY),
    "limit_test_batches": Interval(ge=0, le=MANY),
    "limit_predict_batches": Interval(ge=0, le=MANY),
    "overfit_batches": Interval(ge=0, le=MANY),
    "val_check_interval": Interval(gt=0, le=MANY),
    "check_val_every_n_epoch": Interval(ge=1, le=MANY),
    "num_sanity_val_steps": Interval(ge=-1, le=MANY),
    "log_every_n_steps": Interval(ge=0, le=MANY),
    "accumulate_grad_batches": Interval(ge=1, le=MANY),
    "gradient_clip_val": Interval(ge=0, le=MANY),
    "reload_dataloaders_every_n_epochs": Interval(ge=0, le=MANY),
}
"""By the name of the option of ``trainer``; -1 stands for no limit, or all."""


def check_lightning(seed: Any, trainer: Mapping[str, Any]) -> None:
    """Check the numbers in Lightning's own options.

    Args:
        seed: ``seed_everything``.
        trainer: Options of the trainer.

    Raises:
        UserError: If one is out of its bounds, or not finite, or the precision casts weights.
    """
    _check("seed_everything", seed, SEEDS)
    for name, bounds in TRAINER.items():
        _check(f"trainer.{name}", trainer.get(name), bounds)
    devices = str(trainer.get("devices"))  # which may be a list, too, and is parsed as text
    if re.fullmatch(r"-?\d+", devices):
        _check("trainer.devices", int(devices), DEVICES)
    if str(trainer.get("precision")) in CASTING:
        raise UserError(
            f"--trainer.precision {trainer['precision']} would change the frozen encoder's "
            "weights; choose 32-true, bf16-mixed or 16-mixed"
        )
    if str(trainer.get("strategy")).startswith(MULTIPROCESSING):
        raise UserError(
            f"--trainer.strategy {trainer['strategy']} would lose what its processes find; choose "
            "ddp, or leave it out"
        )
    if (trainer.get("num_nodes") or 1) > 1 and not any(name in os.environ for name in ELSEWHERE):
        raise UserError(
            f"--trainer.num_nodes is {trainer['num_nodes']}, and nothing says where the others "
            "are: start this by srun or torchrun, or on each machine with MASTER_ADDR, MASTER_PORT "
            "and NODE_RANK set"
        )


def check_processes(trainer: L.Trainer) -> None:
    """Refuse more processes on this machine's CPU than it has cores (two, to try it, on any).

    Raises:
        UserError: If so.
    """
    most = max(2, os.cpu_count() or 1)
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > most:
        raise UserError(
            f"--trainer.devices is {trainer.num_devices}; on a CPU each is a process, and this "
            f"machine takes at most {most}"
        )


def _check(name: str, value: Any, bounds: Interval) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    low: Any = bounds.gt if bounds.ge is None else bounds.ge
    high: Any = bounds.le
    # NaN is in no bounds.
    if not (low <= value <= high and value != bounds.gt):
        above = f"over {low}" if bounds.ge is None else f"{low}"
        raise UserError(f"--{name} is {value}; expected {above} to {high}")
