"""Photo and mask to tensors: the only module that uses albumentations."""

import os
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for news on import
import albumentations as A
from albumentations.pytorch import ToTensorV2

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel statistics of CLIP's training images (OpenAI)."""

Augmentation = Literal["none", "blur", "jitter", "jpeg", "all"]
"""The paper's augmentations: one of three, or all in the order jitter, JPEG, blur."""


PREPROCESSING = "PIL bilinear to a square, CLIP mean and std"
"""What happens to a photo before the encoder sees it; cached features depend on it."""


class AntialiasedResize(A.ImageOnlyTransform):  # type: ignore[misc]
    """Squash an image to a square exactly as PIL's bilinear filter does.

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


def build_transform(image_size: int, augmentation: Augmentation = "none") -> A.Compose:
    """Return the transform from a uint8 array to a tensor.

    Call it with ``image=[H, W, 3]``; the result holds a normalised float ``[3, image_size,
    image_size]``. Nothing moves pixels, so masks have no part in it.

    Args:
        image_size: Side of the image in pixels.
        augmentation: Applied after the resize, with the paper's strengths.
    """
    return A.Compose(
        [
            AntialiasedResize(image_size),
            *_augmentations(augmentation),
            A.Normalize(CLIP_MEAN, CLIP_STD),
            ToTensorV2(),
        ]
    )


def resize_mask(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize ``[H, W]`` to ``[side, side]`` by nearest pixels, so that it stays binary."""
    # A copy, as torch warns of arrays it may not write to.
    return np.array(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))


def _augmentations(name: Augmentation) -> list[A.ImageOnlyTransform]:
    """Strengths as in the public implementation's options.

    Cached views depend on them: raise ``features.FORMAT`` with any change.
    """
    jitter = A.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.3, p=1.0)
    jpeg = A.ImageCompression(quality_range=(30, 100), p=1.0)
    blur = A.GaussianBlur(blur_limit=(5, 5), sigma_limit=(0.4, 2.0), p=1.0)
    chosen: dict[Augmentation, list[A.ImageOnlyTransform]] = {
        "none": [],
        "blur": [blur],
        "jitter": [jitter],
        "jpeg": [jpeg],
        "all": [jitter, jpeg, blur],
    }
    return chosen[name]
