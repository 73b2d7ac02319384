"""How checkpoints of runs are written: whole or not at all, and without the encoder."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from declip_pl.files import atomic_path
from declip_pl.model.checkpoint import ENCODER_PREFIX, KEY, describe_lightning, load_lightning
from declip_pl.model.description import TestedOn


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


def note_test(path: Path, tested_on: TestedOn) -> None:
    """Write what a checkpoint was tested on into it.

    Raises:
        UserError: If it can't be read.
    """
    content = load_lightning(path)
    said = replace(describe_lightning(content, path), tested_on=tested_on)
    WholeCheckpoints().save_checkpoint(content | {KEY: said.as_dict()}, path)


def write_whole_checkpoints(trainer: L.Trainer) -> None:
    """Have all checkpoints of a trainer written whole, unless it has a writer of the user's own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()


def keep_encoder_out(task: L.LightningModule) -> None:
    """Keep the frozen encoder out of a task's state: it never changes, and may be offloaded.

    A state without them can be loaded strictly; one with them does not change the encoder.
    """
    task.register_state_dict_post_hook(_leave_out_encoder)  # type: ignore[no-untyped-call]
    task.register_load_state_dict_pre_hook(_put_encoder_back)  # type: ignore[no-untyped-call]


def _leave_out_encoder(task: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix + ENCODER_PREFIX)]:
        del state[name]


def _put_encoder_back(task: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    state |= task.network.encoder.state_dict(prefix=prefix + ENCODER_PREFIX)
