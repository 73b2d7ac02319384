"""A run's folder: its name, who may write to it, and how it is resumed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from declip_pl import parts
from declip_pl.data.forgeries.sources import Forgeries
from declip_pl.data.layout import FORGERIES
from declip_pl.data.transforms import Changes
from declip_pl.errors import UserError
from declip_pl.files import LOCK, atomic_path, remove_leftovers, short_hash, shortened
from declip_pl.model.checkpoint import BEST, run_of
from declip_pl.model.encoder import short_name
from declip_pl.model.own_encoder import NO_LAYER
from declip_pl.names import check_name
from declip_pl.parts import Spec

CONFIG = "config.yaml"
RESULTS = "test_metrics.json"
MOST = 200
"""Bytes of a default name: names of its W&B run and of files about it are longer."""

LAST = "checkpoints/last.ckpt"

NAME = "--name; fit: --run.name; make: RUN="
RESUME = "--resume; fit: --run.resume true; make: RESUME=1"
OVERWRITE = "--overwrite; fit: --run.overwrite true; make: OVERWRITE=1"
"""What to type, for errors: an option of train, of fit, of make."""


@dataclass
class Run:
    """Where a run writes, and what may happen to what is there.

    Args:
        root: Folder of all training runs.
        name: Name of the run's folder; by default encoder-layer-decoder-generator, with the
            supervision, the augmentation, forgeries and the seed where they are not the default.
        resume: Continue an interrupted run from its last epoch.
        overwrite: Delete what stands in the folder and start anew.
        brief: Leave out which data and recipe were chosen, and close with one line in place of the
            summary, as a part of a command that says both.
    """

    root: str = "outputs/train"
    name: str | None = None
    resume: bool = False
    overwrite: bool = False
    brief: bool = False

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
            self._check_damaged_results()
        if self.last and not self.resume:
            raise UserError(
                f"an unfinished run stands in {self.folder}; continue it ({RESUME}) or replace it "
                f"({OVERWRITE})"
            )
        return self.last

    def _check_damaged_results(self) -> None:
        """Let a run be resumed whose results are damaged: its best epoch is tested again.

        Raises:
            UserError: If they are whole, or that was not asked for.
        """
        again = f"test its best epoch again ({RESUME}) or " if self.last else ""
        if not _is_json(self.folder / RESULTS):
            if self.last and self.resume:
                return
            raise UserError(
                f"{self.folder / RESULTS} is damaged; {again}replace the run ({OVERWRITE})"
            )
        raise UserError(
            f"a finished run stands in {self.folder}; name another ({NAME}) or replace it "
            f"({OVERWRITE})"
        )

    def begin(self, resumed: str | Path | None = None) -> None:
        """Delete the run that ``overwrite`` replaces, or the best epoch of one that kept no last.

        Args:
            resumed: The checkpoint that is gone on from; of another run, its best epoch comes here.
        """
        if self.overwrite:
            self._delete()
        elif self.last is None:
            (self.folder / BEST).unlink(missing_ok=True)
        there = run_of(Path(resumed)) if resumed else None
        if there and (there / BEST).exists() and not self.is_at(there):
            with atomic_path(self.folder / BEST) as temporary:
                shutil.copyfile(there / BEST, temporary)

    def is_at(self, folder: Path) -> bool:
        """Whether this is the run in a folder."""
        return self.folder.absolute() == folder.absolute()

    def _delete(self) -> None:
        if not any((self.folder / file).exists() for file in (CONFIG, LAST, BEST, RESULTS)):
            return
        (self.folder / LAST).unlink(missing_ok=True)  # first: half a run is not resumed
        for old in self.folder.iterdir():
            if old.is_dir() and not old.is_symlink():
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


def _is_json(path: Path) -> bool:
    """Whether a file holds an object in JSON, rather than what is left of one."""
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


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
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def run_name(
    encoder: Spec,
    layer: str,
    decoder: Spec,
    generator: str,
    supervision: str = "full",
    augmentation: Changes = "none",
    loss: Spec = "bce",
    seed: int = 0,
    forgeries: Forgeries | None = None,
) -> str:
    """Return ``<encoder>-<layer>-<decoder>-<generator>``, short and safe as a folder name."""
    seen = "" if layer == NO_LAYER else layer
    words = [short_name(encoder).lower(), seen, parts.short(decoder), generator]
    words += [supervision] if supervision != "full" else []
    words += [f"augmented-{_word(augmentation)}"] if augmentation != "none" else []
    words += [parts.short(loss)] if loss != "bce" else []
    words += [_forgeries_word(forgeries)] if forgeries else []
    words += [f"seed{seed}"] if seed else []
    return shortened("-".join(filter(None, words)), MOST)


def _forgeries_word(forgeries: Forgeries) -> str:
    """Return a word for forgeries; options that differ have different ones."""
    if forgeries == Forgeries():
        return FORGERIES
    return f"{FORGERIES}-{short_hash(parts.as_text(asdict(forgeries)))}"


def _word(changes: Changes) -> str:
    """Return a word for changes of a photo; lists that differ have different ones."""
    if isinstance(changes, str):
        return changes
    return hashlib.sha256(parts.as_text(changes).encode()).hexdigest()[:8]
