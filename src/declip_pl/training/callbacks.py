"""What is kept of a training while it runs: the table of epochs, and pictures."""

import math
from pathlib import Path
from typing import Annotated, Any

import lightning as L
from annotated_types import Interval
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from declip_pl.csv_files import write_csv
from declip_pl.data.dataset import Batch, LocalizationDataset
from declip_pl.files import atomic_path, file_name
from declip_pl.panels import panel
from declip_pl.training.kept_epochs import KeptEpoch
from declip_pl.training.wandb_runs import summarised

PANELS = "panels"
"""Where a run's folder keeps pictures of validation photos."""


class History(Callback):
    """Write ``metrics.csv``, one row for each epoch.

    The rows are part of every checkpoint, so a resumed run continues the table. An epoch that was
    not validated has no validation figures.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._validated = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rows of the run that is being resumed: the file may be damaged or gone."""
        if self.rows:
            self._write(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that this epoch was validated; Lightning goes on showing the last one's figures."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add this epoch's figures and rewrite the file."""
        figures = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if not name.endswith(("_step", "_epoch"))  # Lightning's doubles of train/loss
            and (self._validated or not name.startswith("val/"))
        }
        self._validated = False
        self.rows.append({"epoch": trainer.current_epoch, **figures})
        self._write(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Have W&B's summary hold the figures of the best epoch, as ``best/...``."""
        kept = [c for c in trainer.callbacks if isinstance(c, KeptEpoch) and c.monitor]  # type: ignore[attr-defined]
        rows = [row for row in self.rows if kept and kept[0].monitor in row]
        if rows and trainer.is_global_zero:
            choose = max if kept[0].mode == "max" else min
            best = choose(rows, key=lambda row: row[str(kept[0].monitor)])
            names = (name for name in best if name == "epoch" or name.startswith("val/"))
            summarised(trainer.logger, {f"best/{n.removeprefix('val/')}": best[n] for n in names})

    def _write(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and not is_trial(trainer):
            _write_table(Path(trainer.default_root_dir) / "metrics.csv", self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows."""
        self.rows = list(state_dict["rows"])


DRAWN = 8
"""Validation photos that are drawn, by default."""


class Panels(Callback):
    """Draw the same few validation photos whenever an epoch is the best so far.

    The pictures lie in ``panels/`` and go to the logger, so they always show the best checkpoint.

    Args:
        count: Photos, evenly spread over the validation set.
        monitor: Logged figure that decides on the best epoch.
        mode: Whether the figure should rise (``max``) or fall (``min``).
    """

    def __init__(
        self,
        count: Annotated[int, Interval(ge=1, le=1000)] = DRAWN,
        monitor: str = "val/score",
        mode: str = "max",
    ) -> None:
        self.count = count
        self.monitor = monitor
        self.sign = 1 if mode == "max" else -1
        self.best = -self.sign * math.inf
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
        drawing = training and trainer.is_global_zero and not is_trial(trainer)
        if dataloader_idx or not drawing:
            return
        photos, chosen = _validated(trainer), self._chosen(trainer)
        for path, mask, probabilities in zip(batch["path"], batch["mask"], outputs, strict=True):
            if path in chosen:
                name = f"{chosen.index(path):02d}_{Path(path).stem}"
                heat = probabilities[0].float().cpu().numpy()
                self._drawn[name] = panel(photos.shown(path), mask.cpu().numpy(), heat)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save and log the pictures if this epoch is the best so far."""
        drawn, self._drawn = self._drawn, {}
        score = float(trainer.callback_metrics.get(self.monitor, math.nan))
        if not drawn or not self.sign * score > self.sign * self.best:
            return
        self.best = score
        for name, picture in drawn.items():
            path = Path(trainer.default_root_dir) / PANELS / file_name(name, ".png")
            with atomic_path(path) as temporary:
                picture.save(temporary, compress_level=1)  # a third of the time
        log_images(trainer, PANELS, drawn)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, so that a resumed run does not redraw a worse epoch."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score."""
        self.best = state_dict["best"]

    def _chosen(self, trainer: L.Trainer) -> list[str]:
        data = _validated(trainer)
        # Of each source photo one: several generators may have manipulated it.
        first = {sample.name: str(sample.image) for sample in reversed(data.samples)}
        paths = list(first.values())[::-1]
        step = max(1, len(paths) // self.count)
        return paths[::step][: self.count]


def _validated(trainer: L.Trainer) -> LocalizationDataset:
    """Return the set that validation decides by."""
    assert trainer.val_dataloaders is not None
    data: LocalizationDataset = trainer.val_dataloaders[0].dataset
    return data


class MovedRun(Callback):
    """Let a run be resumed where its folder is now, under whatever name.

    Lightning would forget which epoch was the best and keep a worse one.
    """

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say in the states of the callbacks that keep epochs where their files are now."""
        states = checkpoint["callbacks"]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, KeptEpoch):
                key = callback.state_key
                if key not in states:  # as version 0.1 called it
                    before = key.replace(KeptEpoch.__name__, ModelCheckpoint.__name__)
                    states[key] = states.pop(before)
                states[key] = _moved(states[key], callback)


def _moved(state: dict[str, Any], callback: ModelCheckpoint) -> dict[str, Any]:
    """Return a state with the folder of a callback, for the files that are in it."""
    folder = Path(callback.dirpath or "")

    def place(path: str) -> str:
        here = folder / Path(path).name
        return str(here) if path and here.is_file() else path

    paths = ("best_model_path", "kth_best_model_path", "last_model_path")
    moved = {name: place(state[name]) for name in paths}
    kept = {place(path): score for path, score in state["best_k_models"].items()}
    return state | moved | {"best_k_models": kept, "dirpath": callback.dirpath}


def is_trial(trainer: L.Trainer) -> bool:
    """Whether this is ``fast_dev_run``, of which nothing is kept."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def log_images(trainer: L.Trainer, key: str, images: dict[str, Image.Image]) -> None:
    """Send pictures to the logger, where it takes any (W&B does)."""
    if isinstance(trainer.logger, WandbLogger):
        trainer.logger.log_image(key, list(images.values()), caption=list(images))


def _write_table(path: Path, rows: list[dict[str, float]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, [[row.get(name) for name in columns] for row in rows])
