"""Schedules: what decides on the learning rate, and when training ends."""

import math
from typing import Annotated, Any

import lightning as L
import torch
from annotated_types import Interval
from lightning.pytorch.callbacks import Callback

from declip_pl.data.dataset import Batch
from declip_pl.errors import UserError


class Schedule(Callback):
    """Decides on the learning rate and on the end of training.

    Attributes:
        needs_end: Whether the rate depends on the number of epochs. A run can then not be resumed
            with more of them.
    """

    needs_end = True


class PaperSchedule(Schedule):
    """Divide the learning rate by 10 when validation stalls; stop when it gets too small (paper).

    The best ``monitor`` so far decides, as ``ReduceLROnPlateau`` sees it. This is a callback so
    that a checkpoint written at the end of an epoch already holds the epoch's decision: Lightning
    steps its own plateau schedulers after saving, and a resumed run would miss that step.

    Args:
        monitor: Logged figure that should rise.
        patience: Epochs without a gain before the learning rate drops.
        minimum: Training ends when the learning rate would fall under this.
    """

    needs_end = False

    def __init__(
        self,
        monitor: str = "val/score",
        patience: Annotated[int, Interval(ge=1, le=10**9)] = 5,
        minimum: Annotated[float, Interval(ge=0, le=100)] = 1e-6,
    ) -> None:
        self.monitor = monitor
        self.patience = patience
        self.minimum = minimum
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._restored: dict[str, Any] = {}
        self._validated = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bind to the optimiser."""
        self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            trainer.optimizers[0], "max", factor=0.1, patience=self.patience - 1, threshold=0.0
        )
        self._plateau.load_state_dict(self._restored)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that there is something to decide on."""
        self._validated = not trainer.sanity_checking

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once if the run that is being resumed had come to its end."""
        self._stop_if_finished(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the epoch's decision, before its checkpoint is written.

        Raises:
            UserError: If the figure that decides is not logged.
        """
        assert self._plateau is not None
        if not self._validated:  # not every epoch need validate (trainer.check_val_every_n_epoch)
            return
        self._validated = False
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise UserError(f"--schedule.monitor is {self.monitor}; expected one of {known}")
        self._plateau.step(float(trainer.callback_metrics[self.monitor]))
        self._stop_if_finished(trainer)

    def _stop_if_finished(self, trainer: L.Trainer) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        # 1e-3 divided by 10 three times is 1e-6 only up to rounding.
        if rate < self.minimum * (1 - 1e-6):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the plateau's state."""
        return self._plateau.state_dict() if self._plateau else self._restored

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the plateau's state until there is an optimiser to bind to."""
        self._restored = state_dict


class OneCycle(Schedule):
    """Warm up to the learning rate, then follow a cosine down to zero over all epochs.

    It reaches the paper schedule's validation score in fewer epochs, but has to know their number
    (``trainer.max_epochs``). The step alone decides on the rate, so there is nothing to resume.

    Args:
        warmup: Share of all steps in which the rate rises.
    """

    def __init__(self, warmup: Annotated[float, Interval(ge=0, lt=1)] = 0.2) -> None:
        if not 0 <= warmup < 1:
            raise UserError(f"warmup is a share of all steps, from 0 to below 1; found {warmup}")
        self.warmup = warmup
        self._steps = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the steps.

        Raises:
            UserError: If their number is not limited.
        """
        self._steps = trainer.estimated_stepping_batches
        if math.isinf(self._steps):
            raise UserError("OneCycle needs to know the end; set trainer.max_epochs")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Set the rate of the step to come."""
        done = (trainer.global_step + 0.5) / self._steps
        falling = (done - self.warmup) / (1 - self.warmup)
        part = done / self.warmup if falling < 0 else (1 + math.cos(math.pi * falling)) / 2
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = part * group["initial_lr"]
