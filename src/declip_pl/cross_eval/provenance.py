"""What a cross-evaluation is of and how it was made, without naming a folder of this machine."""

import hashlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from declip_pl.cross_eval.matrix import (
    FILE,
    UNPERTURBED,
    About,
    DamagedMatrixError,
    Data,
    Failure,
    Made,
    Matrix,
    read_matrix,
)
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.transforms import key_of
from declip_pl.errors import UserError
from declip_pl.files import short_hash, shortened
from declip_pl.privacy import all_without_folders, without_folders
from declip_pl.training.results import circumstances
from declip_pl.training.run_folder import MOST


def check_folder(folder: Path, data: LocalizationDataModule) -> Matrix | None:
    """Return the matrix that stands in a folder; None if there is none that can be read.

    Raises:
        UserError: If it is of another data set or perturbation, and not to be replaced.
    """
    there = _matrix_in(folder)
    if not there:
        return None
    if not _is_of(there, data):
        raise UserError(
            f"{folder} is of the data {there.data.name} in another place than {data.root}; name "
            "another folder (RUN=...)"
        )
    if there.perturbation != key_of(data.perturbation):
        raise UserError(
            f"{folder} is of photos with the perturbation {there.perturbation}, not "
            f"{key_of(data.perturbation)}; name another folder (RUN=...)"
        )
    return there


def own_folder(root: Path, data: LocalizationDataModule, models: str) -> Path:
    """Return the folder for a data set and models; another data set of that name has its own.

    Args:
        root: Of all cross-evaluations.
        data: What is scored on.
        models: What the models are called.
    """
    changes = ""
    if data.perturbation != UNPERTURBED:
        changes = f"-perturbed-{short_hash(key_of(data.perturbation))}"
    folder = root / shortened(f"{data.root.name}-{models}{changes}", MOST)
    there = _matrix_in(folder)
    if not there or _is_of(there, data):
        return folder
    place = _fingerprint(data.root)[:6]
    return root / shortened(f"{data.root.name}-{place}-{models}{changes}", MOST)


def describe(
    folder: Path,
    data: LocalizationDataModule,
    results: dict[str, Any],
    failures: Sequence[Failure],
    start: float,
) -> About:
    """Return what a matrix is about and how it was made.

    Args:
        folder: The cross-evaluation's.
        data: What was scored on.
        results: ``tests`` by name, and ``device``.
        failures: What went wrong.
        start: When it began, by ``time.monotonic()``.
    """
    return About(
        name=folder.name,
        notice=data.trained_on.notice or None,
        perturbation=key_of(data.perturbation),
        data=Data(_fingerprint(data.root), data.root.name, results["tests"]),
        failed=tuple(Failure(without_folders(f.what), without_folders(f.why)) for f in failures),
        made=Made(
            command=shlex.join(all_without_folders(sys.argv)),
            seconds=round(time.monotonic() - start, 1),
            machine=f"{platform.system()} {platform.machine()}",
            device=results["device"],
            **circumstances(),
        ),
    )


def _matrix_in(folder: Path) -> Matrix | None:
    """Return a folder's matrix; None where there is none, or where it has to be made anew."""
    try:
        return read_matrix(folder) if (folder / FILE).exists() else None
    except DamagedMatrixError:
        print(f"{folder / FILE} is damaged: it is made anew from the finished cells")
        (folder / FILE).unlink()
        return None


def _is_of(matrix: Matrix, data: LocalizationDataModule) -> bool:
    # Version 0.1 wrote the path itself.
    return matrix.data.root in (_fingerprint(data.root), str(data.root.absolute()))


def _fingerprint(root: Path) -> str:
    """Return what tells whether a data set is the same folder, and does not name that folder."""
    return hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]
