"""What is kept of a training while it runs: the table of epochs, and pictures."""

import math
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from declip_pl.csv_files import write_csv
from declip_pl.data.dataset import Batch, LocalizationDataset
from declip_pl.files import atomic_path
from declip_pl.panels import panel

PANELS = "panels"
"""Where a run's folder keeps pictures of validation photos."""


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
            _write_table(Path(trainer.default_root_dir) / "metrics.csv", self.rows)

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
        photos, chosen = _validated(trainer), self._chosen(trainer)
        for path, mask, probabilities in zip(batch["path"], batch["mask"], outputs, strict=True):
            if path in chosen:
                name = f"{chosen.index(path):02d}_{Path(path).stem}"
                heat = probabilities[0].float().cpu().numpy()
                self._drawn[name] = panel(photos.photo(path), mask.cpu().numpy(), heat)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save and log the pictures if this epoch is the best so far."""
        drawn, self._drawn = self._drawn, {}
        score = float(trainer.callback_metrics.get(self.monitor, -math.inf))
        if not drawn or score <= self.best:
            return
        self.best = score
        for name, picture in drawn.items():
            path = Path(trainer.default_root_dir) / PANELS / f"{name}.png"
            with atomic_path(path) as temporary:
                picture.save(temporary)
        log_images(trainer, PANELS, drawn)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, so that a resumed run does not redraw a worse epoch."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score."""
        self.best = state_dict["best"]

    def _chosen(self, trainer: L.Trainer) -> list[str]:
        data = _validated(trainer)
        step = max(1, len(data) // self.count)
        return [data.path(index) for index in range(0, len(data), step)][: self.count]


def _validated(trainer: L.Trainer) -> LocalizationDataset:
    """Return the set that validation decides by."""
    assert trainer.val_dataloaders is not None
    data: LocalizationDataset = trainer.val_dataloaders[0].dataset
    return data


def log_images(trainer: L.Trainer, key: str, images: dict[str, Image.Image]) -> None:
    """Send pictures to the logger, where it takes any (W&B does)."""
    if isinstance(trainer.logger, WandbLogger):
        trainer.logger.log_image(key, list(images.values()), caption=list(images))


def _write_table(path: Path, rows: list[dict[str, float]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, [[row.get(name) for name in columns] for row in rows])
