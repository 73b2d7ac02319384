"""The folder of a cross-evaluation: which one it is, and what stands there already."""

from collections.abc import Sequence
from pathlib import Path

from declip_pl.cross_eval.matrix import (
    FILE,
    ROOT,
    UNPERTURBED,
    DamagedMatrixError,
    Matrix,
    read_matrix,
)
from declip_pl.cross_eval.models import Model
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.transforms import key_of
from declip_pl.errors import UserError
from declip_pl.files import short_hash


def choose_folder(data: LocalizationDataModule, models: str) -> Path:
    """Return the folder for a data set and models; another data set of that name has its own."""
    changes = ""
    if data.perturbation != UNPERTURBED:
        changes = f"-perturbed-{short_hash(key_of(data.perturbation))}"
    folder = ROOT / f"{data.root.name}-{models}{changes}"
    root = str(data.root.absolute())
    there = _matrix_in(folder)
    if there and there.data.root != root:
        return ROOT / f"{data.root.name}-{short_hash(root)}-{models}{changes}"
    return folder


def name_of(models: Sequence[Model]) -> str:
    """Return a name for just these models."""
    names = "\n".join(sorted(model.name for model in models))
    return f"{len(models)}-models-{short_hash(names)}"


def check_folder(folder: Path, data: LocalizationDataModule) -> Matrix | None:
    """Return what stands in a folder; refuse to replace that of other data or perturbations."""
    there = _matrix_in(folder)
    if not there:
        return None
    if there.data.root != str(data.root.absolute()):
        raise UserError(f"{folder} is of the data {there.data.root}; name another folder (RUN=...)")
    if there.perturbation != key_of(data.perturbation):
        raise UserError(
            f"{folder} is of photos with the perturbation {there.perturbation}, not "
            f"{key_of(data.perturbation)}; name another folder (RUN=...)"
        )
    return there


def _matrix_in(folder: Path) -> Matrix | None:
    """Return a folder's matrix; None where there is none, or where it has to be made anew."""
    try:
        return read_matrix(folder) if (folder / FILE).exists() else None
    except DamagedMatrixError:
        print(f"{folder / FILE} is damaged: it is made anew from the finished cells")
        (folder / FILE).unlink()
        return None
