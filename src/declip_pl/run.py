"""A run's folder: its name, who may write to it, and how it is resumed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from declip_pl.errors import UserError

RESULTS = "test_metrics.json"
LAST = "checkpoints/last.ckpt"
BEST = "checkpoints/best.ckpt"


@dataclass
class Run:
    """Where a run writes, and what may happen to what is there.

    Args:
        root: Folder of all training runs.
        name: Name of the run's folder; by default encoder-layer-decoder-generator, with the
            supervision and the seed where they are not the default.
        resume: Continue an interrupted run from its last epoch.
        overwrite: Delete what stands in the folder and start anew.
    """

    root: str = "outputs/train"
    name: str | None = None
    resume: bool = False
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """The run's folder."""
        assert self.name is not None
        return Path(self.root) / self.name

    def claim(self) -> Path | None:
        """Make the folder ours and return the checkpoint to resume from, if any.

        Raises:
            UserError: If a run stands there and neither ``resume`` nor ``overwrite`` was asked for,
                or if it is finished and there is nothing to resume.
        """
        last = self.folder / LAST
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            # Of several processes the first has claimed the folder for all.
            return last if last.exists() and self.resume and not self.overwrite else None
        if self.overwrite:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif (self.folder / RESULTS).exists():
            raise UserError(
                f"a finished run stands in {self.folder}; name another (NAME=..., --run.name) or "
                "replace it (OVERWRITE=1, --run.overwrite true)"
            )
        elif last.exists() and not self.resume:
            raise UserError(
                f"an unfinished run stands in {self.folder}; continue it (RESUME=1, --run.resume "
                "true) or replace it (OVERWRITE=1, --run.overwrite true)"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        return last if last.exists() else None


def run_name(
    encoder: str, layer: str, decoder: str, generator: str, supervision: str, seed: int
) -> str:
    """Return ``<encoder>-<layer>-<decoder>-<generator>``, short and safe as a folder name."""
    short = "+".join(Path(part.split(":", 1)[0]).name.lower() for part in encoder.split("+RN50"))
    short = short.rstrip("+") + ("+rn50" if "+RN50" in encoder else "")
    parts = [short, layer, decoder, generator]
    parts += [supervision] if supervision != "full" else []
    parts += [f"seed{seed}"] if seed else []
    return "-".join(parts)
