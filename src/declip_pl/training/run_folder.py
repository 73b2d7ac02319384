"""A run's folder: its name, who may write to it, and how it is resumed."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from declip_pl import parts
from declip_pl.data.transforms import Changes
from declip_pl.errors import UserError
from declip_pl.files import LOCK, remove_leftovers
from declip_pl.model.encoder import short_name
from declip_pl.model.own_encoder import NO_LAYER
from declip_pl.names import check_name
from declip_pl.parts import Spec

CONFIG = "config.yaml"
RESULTS = "test_metrics.json"
LAST = "checkpoints/last.ckpt"


@dataclass
class Run:
    """Where a run writes, and what may happen to what is there.

    Args:
        root: Folder of all training runs.
        name: Name of the run's folder; by default encoder-layer-decoder-generator, with the
            supervision, the augmentation and the seed where they are not the default.
        resume: Continue an interrupted run from its last epoch.
        overwrite: Delete what stands in the folder and start anew.
    """

    root: str = "outputs/train"
    name: str | None = None
    resume: bool = False
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """The run's folder.

        Raises:
            UserError: If the run's name is no folder's.
        """
        assert self.name is not None
        return Path(self.root) / check_name(self.name, "a run's name")

    def check(self) -> Path | None:
        """Return the checkpoint to resume from, if any; nothing is touched.

        Raises:
            UserError: If a run stands there and neither ``resume`` nor ``overwrite`` was asked for,
                if it is finished and there is nothing to resume, or if the name is no folder's.
        """
        if not is_first_process():
            # Of several processes the first decides; by now it may have begun to write.
            return self.last if self.resume and not self.overwrite else None
        if self.overwrite:
            return None
        if (self.folder / RESULTS).exists():
            raise UserError(
                f"a finished run stands in {self.folder}; name another (RUN=..., --run.name) or "
                "replace it (OVERWRITE=1, --run.overwrite true)"
            )
        if self.last and not self.resume:
            raise UserError(
                f"an unfinished run stands in {self.folder}; continue it (RESUME=1, --run.resume "
                "true) or replace it (OVERWRITE=1, --run.overwrite true)"
            )
        return self.last

    def begin(self) -> None:
        """Delete the run that ``overwrite`` replaces."""
        if self.overwrite and (self.folder / CONFIG).exists():
            for old in self.folder.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
                elif old.name != LOCK:
                    old.unlink()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and keep other processes from training there.

        Raises:
            UserError: If another process does.
        """
        with claim(self.folder, "training in"):
            yield

    @property
    def last(self) -> Path | None:
        """The checkpoint of the last finished epoch, if there is one."""
        path = self.folder / LAST
        return path if path.exists() else None


@contextmanager
def claim(folder: Path, doing: str) -> Iterator[None]:
    """Make a folder and keep every other process out that claims it.

    Files that a killed process left half written are deleted.

    Raises:
        UserError: If another process has it; ``doing`` says what it does there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            remove_leftovers(folder)
            yield
    except Timeout as error:
        raise UserError(f"another process is {doing} {folder}") from error


def is_first_process() -> bool:
    """Whether this is the only process, or the first of several that train together."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    ranks = [os.environ[name] for name in names if name in os.environ]
    return not ranks or ranks[0] == "0"


def run_name(
    encoder: Spec,
    layer: str,
    decoder: Spec,
    generator: str,
    supervision: str = "full",
    augmentation: Changes = "none",
    loss: Spec = "bce",
    seed: int = 0,
) -> str:
    """Return ``<encoder>-<layer>-<decoder>-<generator>``, short and safe as a folder name."""
    seen = "" if layer == NO_LAYER else layer
    words = [short_name(encoder).lower(), seen, parts.short(decoder), generator]
    words += [supervision] if supervision != "full" else []
    words += [f"augmented-{_word(augmentation)}"] if augmentation != "none" else []
    words += [parts.short(loss)] if loss != "bce" else []
    words += [f"seed{seed}"] if seed else []
    return "-".join(filter(None, words))


def _word(changes: Changes) -> str:
    """Return a word for changes of a photo; lists that differ have different ones."""
    if isinstance(changes, str):
        return changes
    return hashlib.sha256(parts.as_text(changes).encode()).hexdigest()[:8]
