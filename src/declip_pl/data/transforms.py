"""Photo and mask to tensors: the only module that uses albumentations."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from declip_pl import parts
from declip_pl.errors import UserError
from declip_pl.model.features import Preprocessing
from declip_pl.parts import Registry, Spec

_asks = "NO_ALBUMENTATIONS_UPDATE" not in os.environ
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for news on import
import albumentations as A  # noqa: E402
from albumentations.pytorch import ToTensorV2  # noqa: E402

if _asks:
    del os.environ["NO_ALBUMENTATIONS_UPDATE"]

Changes = str | list[Spec]
"""Random changes of a photo: ``none``, one of the paper's words, or a list of words and of
``class_path`` / ``init_args`` of albumentations."""

PREPROCESSING = "upright RGB, PIL bilinear to a square"
"""What happens to a photo before it is normalised; cached features depend on it."""


class AntialiasedResize(A.ImageOnlyTransform):  # type: ignore[misc]
    """Resize an image to a square exactly as PIL's bilinear filter does.

    PIL's filter widens with the scale, OpenCV's does not: the aliases it leaves are traces that a
    localizer would see.

    Args:
        image_size: Side of the image in pixels.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__(p=1.0)
        self.image_size = image_size

    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """Resize ``[H, W, 3]`` bilinearly to ``[image_size, image_size, 3]``."""
        # Rows, then columns: PIL 13 takes the columns of slender photos first and rounds otherwise.
        side, filter_ = self.image_size, Image.Resampling.BILINEAR
        rows = Image.fromarray(img).resize((side, img.shape[0]), filter_)
        return np.array(rows.resize((side, side), filter_))


def build_transform(
    preprocessing: Preprocessing, augmentation: Changes = "none", perturbation: Changes = "none"
) -> A.Compose:
    """Return the transform from a uint8 array to a tensor.

    Call it with ``image=[H, W, 3]``; the result holds a normalised float ``[3, S, S]``. Masks
    follow it by :func:`follow`.

    Args:
        preprocessing: The encoder's.
        augmentation: Applied after the resize, with the paper's strengths where it is a word.
        perturbation: Applied to the photo at its own size, before the resize.

    Raises:
        UserError: If a change is not known or moves pixels.
    """
    return A.Compose(
        [
            *make_changes(perturbation),
            AntialiasedResize(preprocessing.image_size),
            *make_changes(augmentation),
            A.Normalize(preprocessing.mean, preprocessing.std),
            ToTensorV2(),
        ]
    )


def make_changes(changes: Changes) -> list[A.ImageOnlyTransform]:
    """Return the transforms that a word or a list stands for.

    Raises:
        UserError: If one is not known, takes other arguments, or moves pixels.
    """
    if isinstance(changes, str):
        changes = list({"none": (), "all": ("jitter", "jpeg", "blur")}.get(changes, (changes,)))
    return [_make_change(spec) for spec in changes]


def key_of(changes: Changes) -> str:
    """Return one line that tells changes apart, for keys: the code of a user's own included."""
    if isinstance(changes, str):
        return changes
    codes = [parts.code_of(CHANGES.find(parts.read_spec(spec)[0])) for spec in changes]
    own = [code for code in codes if code]
    return parts.as_text(changes) + (f" code {' '.join(own)}" if own else "")


def follow(transform: A.Compose, picture: NDArray[Any]) -> NDArray[Any]:
    """Return a mask ``[H, W]``, or a photo ``[H, W, 3]``, cut as a transform cuts photos.

    Args:
        transform: Of :func:`build_transform`; a change that moves pixels has a method ``move``.
        picture: What follows it.
    """
    for change in transform.transforms:
        move = getattr(change, "move", None)
        picture = move(picture) if move else picture
    return picture


def resize_mask(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Resize ``[H, W]`` to ``[side, side]`` by nearest pixels, so that it stays binary."""
    # A copy, as torch warns of arrays it may not write to.
    return np.array(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))


CHANGES: Registry[Any] = Registry(
    "augmentation", trusted=("albumentations",), home="declip_pl.data.degradations"
)
"""Strengths as in the public implementation's options. Cached views depend on them: raise
``shards.FORMAT`` with any change."""


@CHANGES.register("jitter")
def _jitter() -> A.ImageOnlyTransform:
    return A.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.3, p=1.0)


@CHANGES.register("jpeg")
def _jpeg() -> A.ImageOnlyTransform:
    return A.ImageCompression(quality_range=(30, 100), p=1.0)


@CHANGES.register("blur")
def _blur() -> A.ImageOnlyTransform:
    return A.GaussianBlur(blur_limit=(5, 5), sigma_limit=(0.4, 2.0), p=1.0)


def _make_change(spec: Any) -> A.ImageOnlyTransform:
    try:
        # Arguments are checked there; albumentations itself only warns of unknown ones.
        made = CHANGES.make(spec)
    except (ValueError, TypeError) as error:
        raise UserError(f"augmentation {spec}: {' '.join(str(error).split())}") from error
    if not isinstance(made, A.ImageOnlyTransform):
        raise UserError(
            f"augmentation {spec} may move pixels, and masks would not follow; expected an "
            "ImageOnlyTransform, with a method move(mask) if it cuts photos"
        )
    return made
