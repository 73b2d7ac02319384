"""Files of ``torch.save``, read as data: whole as they were written, and nothing in them is run."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from declip_pl.errors import UserError


def load_file(path: Path) -> Any:
    """Return the content of a file of ``torch.save``; tensors are a memory map where they can be.

    Every part of the archive is compared with the checksum that was written with it: torch itself
    would take zeros in the place of weights.

    Raises:
        UserError: If it is missing, damaged, something else, or holds objects other than tensors.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        is_archive = zipfile.is_zipfile(path)
        broken = _broken_part(path) if is_archive else None
        if not broken:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        # torch's own message advises to load it without this protection.
        raise UserError(
            f"{path}: no checkpoint, or a damaged one, or one with pickled objects other than "
            "tensors, which could run anything and are not read"
        ) from error
    except Exception as error:  # whatever bytes from anywhere make of a reader
        reason = (str(error) or type(error).__name__).split("\n", 1)[0]
        raise UserError(f"{path}: no checkpoint, or a damaged one ({reason})") from error
    raise UserError(
        f"{path} is damaged: {broken} is not what was written; take another copy of the file"
    )


def check_weights(
    weights: Any, path: Path | str, whose: str = "the decoder's"
) -> dict[str, Tensor]:
    """Return a state dict that may be anything, once it has proved to be names and numbers.

    Args:
        weights: The state dict.
        path: The file that it was read from, for errors.
        whose: Weights they are, likewise.

    Raises:
        UserError: If it holds anything else, or NaN or infinite numbers.
    """
    if not isinstance(weights, Mapping):
        raise UserError(f"{path}: the weights are no state dict (names and tensors)")
    for name, weight in weights.items():
        dense = isinstance(weight, Tensor) and weight.layout is torch.strided
        if not (isinstance(name, str) and dense) or weight.is_quantized or weight.is_complex():
            raise UserError(f"{path}: {name!r} among the weights is no tensor of real numbers")
        if not weight.float().isfinite().all():  # as the decoder takes it, in fp32
            raise UserError(f"{path}: NaN or infinite numbers in {whose} {name}")
    return dict(weights)


def _broken_part(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()
