"""What happens around training: the schedules, panels, the table of epochs."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from declip_pl.data.dataset import Batch
from declip_pl.data.layout import read_image
from declip_pl.errors import UserError
from declip_pl.files import atomic_path, write_text
from declip_pl.panels import panel


class Schedule(Callback):
    """Decides on the learning rate and on the end of training."""


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

    def __init__(
        self, monitor: str = "val/score", patience: int = 5, minimum: float = 1e-6
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
        """Take the epoch's decision, before its checkpoint is written."""
        assert self._plateau is not None
        if not self._validated:  # not every epoch need validate (trainer.check_val_every_n_epoch)
            return
        self._validated = False
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

    def __init__(self, warmup: float = 0.2) -> None:
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


class History(Callback):
    """Write ``metrics.csv``, one row for each epoch.

    The rows are part of every checkpoint, so a resumed run continues the table.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add this epoch's figures and rewrite the file."""
        figures = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if not name.endswith(("_step", "_epoch"))  # Lightning's doubles of train/loss
        }
        self.rows.append({"epoch": trainer.current_epoch, **figures})
        if trainer.is_global_zero:
            write_text(Path(trainer.default_root_dir) / "metrics.csv", _as_csv(self.rows))

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows."""
        self.rows = list(state_dict["rows"])


class Panels(Callback):
    """Draw the same few validation photos whenever validation reaches a new best.

    The pictures lie in ``panels/`` and go to the logger, so they always show the best checkpoint.

    Args:
        count: Photos, evenly spread over the validation set.
        monitor: Logged figure that should rise.
    """

    def __init__(self, count: int = 8, monitor: str = "val/score") -> None:
        self.count = count
        self.monitor = monitor
        self.best = -math.inf
        self._drawn: dict[str, Image.Image] = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the chosen photos of this batch from the step's probabilities."""
        training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if dataloader_idx or not training or not trainer.is_global_zero:
            return
        chosen = self._chosen(trainer)
        for path, mask, probabilities in zip(batch["path"], batch["mask"], outputs, strict=True):
            if path in chosen:
                name = f"{chosen.index(path):02d}_{Path(path).stem}"
                heat = probabilities[0].float().cpu().numpy()
                self._drawn[name] = panel(read_image(Path(path)), mask.cpu().numpy(), heat)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save and log the pictures if this epoch is the best so far."""
        drawn, self._drawn = self._drawn, {}
        score = float(trainer.callback_metrics.get(self.monitor, -math.inf))
        if not drawn or score <= self.best:
            return
        self.best = score
        for name, picture in drawn.items():
            path = Path(trainer.default_root_dir) / "panels" / f"{name}.png"
            with atomic_path(path) as temporary:
                picture.save(temporary)
        log_images(trainer, "panels", drawn)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, so that a resumed run does not redraw a worse epoch."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score."""
        self.best = state_dict["best"]

    def _chosen(self, trainer: L.Trainer) -> list[str]:
        assert trainer.val_dataloaders is not None
        data = trainer.val_dataloaders[0].dataset
        step = max(1, len(data) // self.count)
        return [data.path(index) for index in range(0, len(data), step)][: self.count]


def log_images(trainer: L.Trainer, key: str, images: dict[str, Image.Image]) -> None:
    """Send pictures to the logger, where it takes any (W&B does)."""
    if isinstance(trainer.logger, WandbLogger):
        trainer.logger.log_image(key, list(images.values()), caption=list(images))


def _as_csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
