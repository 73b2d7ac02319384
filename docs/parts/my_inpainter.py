"""An inpainter and a source of masks of your own."""

import numpy as np

from declip_pl.data.inpainting.doors import INPAINTERS, MASKS


@INPAINTERS.register("mean")
def mean(photo: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fill with the mean colour of what is known, and some noise."""
    filled = rng.normal(photo[~mask].mean(0), 5, photo.shape)
    return np.where(mask[..., None], filled.clip(0, 255), photo).astype(np.uint8)


@MASKS.register("dark")
def dark(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Return what is darker than half of the mean; None leaves out a photo without it."""
    mask = photo.mean(2) < photo.mean() / 2
    return mask if mask.any() else None
