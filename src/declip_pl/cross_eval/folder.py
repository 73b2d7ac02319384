"""The folder of a cross-evaluation: which one it is, and what stands there already."""

import hashlib
import os
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
from declip_pl.cross_eval.methods import Method
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.transforms import key_of
from declip_pl.errors import UserError
from declip_pl.files import short_hash, shortened
from declip_pl.training.run_folder import MOST


def choose_folder(data: LocalizationDataModule, models: str, name: str | None = None) -> Path:
    """Return the folder for a data set and models; another data set of that name has its own.

    Args:
        data: What is scored on.
        models: What the models are called.
        name: What the user calls it.
    """
    if name:
        return ROOT / shortened(name, MOST)
    changes = ""
    if data.perturbation != UNPERTURBED:
        changes = f"-perturbed-{short_hash(key_of(data.perturbation))}"
    folder = ROOT / shortened(f"{data.root.name}-{models}{changes}", MOST)
    there = _matrix_in(folder)
    if there is None or _is_of(there, data):
        return folder
    place = fingerprint(data.root)[:6]
    return ROOT / shortened(f"{data.root.name}-{place}-{models}{changes}", MOST)


def further_folder(data: LocalizationDataModule, models: Sequence[Method]) -> Path:
    """Return the folder of models on a data set that they are scored on as well.

    Args:
        data: The data set.
        models: All models that can be read.
    """
    return choose_folder(data, name_of(models))


def name_of(models: Sequence[Method]) -> str:
    """Return a name for just these models: the name of the only one, or a hash of all."""
    if len(models) == 1:
        return models[0].name
    names = "\n".join(sorted(model.name for model in models))
    return f"{len(models)}-models-{short_hash(names)}"


def check_folder(folder: Path, data: LocalizationDataModule) -> Matrix | None:
    """Return what stands in a folder.

    Raises:
        UserError: If that is of another data set or perturbation.
    """
    there = _matrix_in(folder)
    if there is None:
        return None
    if not _is_of(there, data):
        raise UserError(
            f"{folder} is of the data {there.data.name} in another place than {data.root}; name "
            "another folder (--name; make: RUN=)"
        )
    if there.perturbation != key_of(data.perturbation):
        raise UserError(
            f"{folder} is of photos with the perturbation {there.perturbation}, not "
            f"{key_of(data.perturbation)}; name another folder (--name; make: RUN=)"
        )
    return there


def fingerprint(root: Path) -> str:
    """Return what tells whether a data set is the same folder, and does not name that folder."""
    return hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]


def _is_of(matrix: Matrix, data: LocalizationDataModule) -> bool:
    # Version 0.1 wrote the path itself.
    return matrix.data.root in (fingerprint(data.root), str(data.root.absolute()))


def _matrix_in(folder: Path) -> Matrix | None:
    """Return a folder's matrix; None where there is none, or where it has to be made anew."""
    try:
        return read_matrix(folder) if (folder / FILE).exists() else None
    except DamagedMatrixError:
        print(f"{folder / FILE} is damaged: it is made anew from the finished cells")
        (folder / FILE).unlink()
        return None
