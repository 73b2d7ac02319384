"""Localizers for tests, on disk as runs and saved folders are, without training."""

from pathlib import Path

import torch

from declip_pl.inference import saved_folder
from declip_pl.inference.recorded_scores import RecordedScores, ScoredOn
from declip_pl.metrics import Thresholds
from declip_pl.model.checkpoint import DECODER_PREFIX, KEY, Checkpoint
from declip_pl.model.description import TrainedOn
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


def save_localizer(
    folder: Path, clip: Path, seed: int, generator: str, notice: str | None, floor: float
) -> None:
    """Save a localizer whose random decoder knows nothing."""
    task = LocalizationTask(str(clip), "layer1", "linear", image_size=64, seed=seed)
    chosen = Thresholds(None, {task.description.pooling: 0.4321}, floor)
    data = TrainedOn((generator,), "full", "0" * 64, "some", notice or "")
    found = {generator: {"iou_n": 1, "image_threshold": 0.4321}}
    scores = RecordedScores(found, {generator: {}}, ScoredOn("some"), notice)
    saved_folder.save(checkpoint_of(task, trained_on=data, thresholds=chosen), folder, scores)
