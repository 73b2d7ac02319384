"""What a training says while it runs: a line an epoch, and a bar where somebody watches."""

import os
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ProgressBar, TQDMProgressBar

from declip_pl.training.callbacks import is_trial

MEANT = (
    "LightningCLI's args parameter",  # `train` hands over other arguments than those typed
    r"Found \d+ module\(s\) in eval mode",  # the frozen encoder
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"It is recommended to use `self.log\(.*sync_dist=True",  # the metrics have gathered already
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # inside Lightning
    # Where no job of SLURM runs, that its commands are there means nothing.
    *([] if "SLURM_JOB_ID" in os.environ else ["The `srun` command is available"]),
)
"""Warnings about what is meant to be so."""


class Bar(TQDMProgressBar):
    """A bar of the epoch that runs now, which goes when it is done."""

    def __init__(self) -> None:
        super().__init__(leave=False)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return none: they stand in the line of the epoch."""
        return {}


def quiet(trainer: dict[str, Any]) -> dict[str, Any]:
    """Return options of the trainer in place of Lightning's own bars and tables.

    Args:
        trainer: The options as they were given; what the user says there stays.
    """
    found: dict[str, Any] = {}
    if trainer["enable_model_summary"] is None:
        found["enable_model_summary"] = False  # its table counts no operations: 0 FLOPs
    callbacks = trainer["callbacks"] or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    if trainer["enable_progress_bar"] is not None or any(
        isinstance(callback, ProgressBar) for callback in callbacks
    ):
        return found
    if sys.stderr.isatty():
        return found | {"callbacks": [*callbacks, Bar()]}
    return found | {"enable_progress_bar": False}


class EpochLines(Callback):
    """Print a line for each epoch, with a star where it is the best so far, and name the best.

    Args:
        monitor: Logged figure that decides on the best epoch.
        mode: Whether the figure should rise (``max``) or fall (``min``).
    """

    def __init__(self, monitor: str = "val/score", mode: str = "max") -> None:
        self.monitor = monitor
        self.sign = 1 if mode == "max" else -1
        self.best: tuple[int, float] | None = None
        self._start = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is trained, and where."""
        weights = list(pl_module.parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        total = sum(weight.numel() for weight in weights)
        _say(trainer, f"training {trained:,} of {total:,} weights on {pl_module.device}")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the epoch's line."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch, most = trainer.current_epoch + 1, trainer.max_epochs or 0
        of = f"/{most}" if most > 0 else ""
        words = [f"epoch {epoch:>{len(str(most))}}{of}"]
        if "train/loss" in figures:
            words.append(f"loss {figures['train/loss']:.4f}")
        score = figures.get(self.monitor)
        is_best = score is not None and (
            self.best is None or self.sign * score > self.sign * self.best[1]
        )
        if score is not None:
            words.append(f"{self.monitor} {score:.2f}{' *' if is_best else '  '}")
            self.best = (epoch, score) if is_best else self.best
        words.append(f"{time.monotonic() - self._start:.0f} s")
        _say(trainer, "  ".join(words))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Name the best epoch."""
        if self.best:
            _say(trainer, f"best: epoch {self.best[0]}, {self.monitor} {self.best[1]:.2f}")

    def state_dict(self) -> dict[str, Any]:
        """Return the best epoch, so that a resumed run gives no worse one a star."""
        return {"best": self.best and list(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch."""
        best = state_dict["best"]
        self.best = best and (best[0], best[1])


def _say(trainer: L.Trainer, line: str) -> None:
    if not trainer.is_global_zero or is_trial(trainer):
        return
    bar = trainer.progress_bar_callback
    if isinstance(bar, Bar):
        bar.print(line)  # above the bar
    else:
        print(line, flush=True)
