"""Whether a photo is like those of a training, by what the frozen encoder sees of it.

The mean of a photo's feature map shows the camera, the processing and the subject. Photos of one
kind lie near the plane that the first principal components of their means span; photos of other
kinds lie further off. How far photos of the same kind lie off is measured on validation photos by
planes that were fitted without them.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor

from declip_pl.errors import UserError
from declip_pl.model.features import Features
from declip_pl.model.safe_load import check_weights

LEAST, MOST = 20, 500
"""Validation photos: of fewer nothing is fitted, of more so many are taken."""

COMPONENTS, PHOTOS_EACH = 20, 4
"""Principal components: at most so many, and so many photos for each of them. Those of three layers
of ViT-B/16 then take 92 kB."""

FOLDS = 5
"""Parts of the validation photos, each of which is measured by a fit to the others."""

WITHIN = 0.95
"""Share of the validation photos that lie within the cut-off."""

_LEAST_SCALE = 0.01
"""Least scale of a channel, as a share of the channels' mean: one that does not vary in a few
photos would outweigh all others."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """What a photo's distance from the photos of a training is measured by.

    Attributes:
        mean: ``[C]``, of the validation photos' mean features.
        scale: ``[C]``, their standard deviation, above 0.
        components: ``[K, C]``, their first principal components once standardised, orthonormal.
        cutoff: A scalar: the distance within which :data:`WITHIN` of the validation photos lie.
        photos: A scalar: how many these were.
    """

    mean: Tensor
    scale: Tensor
    components: Tensor
    cutoff: Tensor
    photos: Tensor

    def distances(self, features: Features) -> list[float]:
        """Return how far B photos are from the plane, each as the root of the mean over channels.

        The unit is a standard deviation of the validation photos.
        """
        means = mean_features(features).cpu()
        parts = (tensor.double().numpy() for tensor in (self.mean, self.scale, self.components))
        found: list[float] = _distances(means.double().numpy(), *parts).tolist()
        return found

    def check(self, channels: int, path: Path) -> None:
        """Refuse features of another encoder.

        Raises:
            UserError: If they have another number of channels.
        """
        if len(self.mean) != channels:
            raise UserError(
                f"{path}: its likeness is of {len(self.mean)} channels; its encoder has {channels}"
            )

    def as_tensors(self) -> dict[str, Tensor]:
        """Return it for a file; :func:`read_likeness` reads it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def mean_features(features: Features) -> Tensor:
    """Return the ``[B, C]`` means of B feature maps, in fp32.

    They are summed in 64 bits, so that they do not depend on how photos were batched.
    """
    # Apple's GPUs have no 64 bits.
    exact = torch.float32 if features.grid.device.type == "mps" else torch.float64
    return features.grid.mean((2, 3), dtype=exact).float()


def fit_likeness(means: Tensor) -> Likeness | None:
    """Fit to validation photos; their order does not matter.

    Args:
        means: ``[N, C]``, of :func:`mean_features`; equal rows count as one photo.

    Returns:
        What was fitted; None of fewer than :data:`LEAST` photos.
    """
    rows = np.unique(means.cpu().double().numpy(), axis=0)  # sorted
    count, channels = rows.shape
    if count < LEAST:
        return None
    keep = max(1, min(COMPONENTS, count // PHOTOS_EACH, channels // 2))
    fold = np.arange(count) % FOLDS
    parts = [(rows[fold == part], rows[fold != part]) for part in range(FOLDS)]
    distances = [_distances(held_out, *_fit(others, keep)) for held_out, others in parts]
    mean, scale, components = map(torch.from_numpy, _fit(rows, keep))
    cutoff = float(np.quantile(np.concatenate(distances), WITHIN))
    # 16 bits are enough for directions, and keep a saved localizer small.
    return Likeness(
        mean.float(), scale.float(), components.half(), torch.tensor(cutoff), torch.tensor(count)
    )


def read_likeness(said: Any, path: Path | str) -> Likeness | None:
    """Read what :meth:`Likeness.as_tensors` returned, from a file that anybody may have written.

    Args:
        said: It, or None or nothing where there is none.
        path: The file, for errors.

    Raises:
        UserError: If a tensor is missing, unknown, or not what it should be; it is named.
    """
    if not said:
        return None
    found = check_weights(said, path, "the likeness's")
    expected = {field.name for field in fields(Likeness)}
    for name in sorted(found.keys() ^ expected):
        what = "there is an unknown" if name in found else "there is no"
        raise UserError(f"{path}: its likeness is damaged: {what} {name}")
    mean, components = found["mean"], found["components"]
    channels = mean.numel()
    right = {
        "mean": mean.ndim == 1 and channels > 0,
        "scale": found["scale"].shape == mean.shape and bool((found["scale"] > 0).all()),
        "components": components.shape[1:] == (channels,) and 0 < len(components) <= channels,
        "cutoff": found["cutoff"].ndim == 0 and bool(found["cutoff"] > 0),
        "photos": found["photos"].ndim == 0 and bool(found["photos"] >= LEAST),
    }
    for name, holds in right.items():
        if not holds:
            raise UserError(
                f"{path}: its likeness is damaged: {name} of shape {list(found[name].shape)} is "
                "not what is fitted to photos"
            )
    return Likeness(**{name: tensor.detach().clone() for name, tensor in found.items()})


def _fit(rows: NDArray[np.float64], keep: int) -> tuple[NDArray[np.float64], ...]:
    """Return mean ``[C]``, scale ``[C]`` and components ``[K, C]`` of ``[N, C]`` rows."""
    mean, scale = rows.mean(0), rows.std(0)
    scale = scale.clip(min=_LEAST_SCALE * scale.mean())
    standard = (rows - mean) / scale
    count, channels = standard.shape
    # Of the two matrices with the same eigenvalues, the smaller.
    wide = channels > count
    square = standard @ standard.T if wide else standard.T @ standard
    size = len(square)
    _, vectors = eigh(square, subset_by_index=[size - keep, size - 1])
    directions = (standard.T @ vectors if wide else vectors).T[::-1]
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return mean, scale, directions / lengths


def _distances(
    rows: NDArray[np.float64],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    components: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the ``[N]`` distances of ``[N, C]`` rows from the plane."""
    standard = (rows - mean) / scale
    rest = standard - standard @ components.T @ components
    root: NDArray[np.float64] = np.sqrt((rest**2).mean(1))
    return root
