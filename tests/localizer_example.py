"""Localizers for tests, on disk as runs and saved folders are, without training."""

from pathlib import Path

import torch

from declip_pl.model.checkpoint import DECODER_PREFIX, KEY, Checkpoint
from declip_pl.training.task import LocalizationTask


def checkpoint_of(task: LocalizationTask, **changes) -> Checkpoint:
    """Return a task's localizer as it would be read, with some entries changed."""
    weights = task.network.decoder.state_dict()
    return Checkpoint(**{**vars(task.description), "weights": weights, **changes})


def content_of(checkpoint: Checkpoint) -> dict:
    """Return what Lightning would save of a localizer."""
    weights = {DECODER_PREFIX + name: weight for name, weight in checkpoint.weights.items()}
    return {"state_dict": weights, KEY: checkpoint.description().as_dict()}


def write_run(checkpoint: Checkpoint, path: Path) -> Path:
    """Write a localizer as a Lightning checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content_of(checkpoint), path)
    return path
