"""How Lightning's checkpoints are written: whole, or not at all."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from declip_pl.files import atomic_path


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its target, then put it in the target's place.

    Lightning writes to the system's temporary folder and copies from there where that is another
    file system; a process that is killed meanwhile leaves half a checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint. Addresses such as ``s3://`` are left to Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())  # the name must not reach the disk before the content


def write_whole_checkpoints(trainer: L.Trainer) -> None:
    """Have all checkpoints of a trainer written whole, unless it has a writer of the user's own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
