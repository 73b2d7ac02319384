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


class AntialiasedResize(A.DualTransform):  # type: ignore[misc]
    """Squash an image to a square exactly as PIL's bilinear filter does; masks stay binary.

    PIL's filter widens with the scale, OpenCV's does not: the aliases it leaves are traces that a
    localizer would see.

    Args:
        image_size: Side of the image in pixels.
        mask_size: Side of the mask in pixels, or None to leave masks at their own size.
    """

    def __init__(self, image_size: int, mask_size: int | None = None) -> None:
        super().__init__(p=1.0)
        self.image_size = image_size
        self.mask_size = mask_size

    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """Resize ``[H, W, 3]`` bilinearly to ``[image_size, image_size, 3]``."""
        return _resize(img, self.image_size, Image.Resampling.BILINEAR)

    def apply_to_mask(self, mask: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """Resize ``[H, W]`` to the nearest pixel, ``[mask_size, mask_size]``."""
        if self.mask_size is None:
            return mask
        return _resize(mask, self.mask_size, Image.Resampling.NEAREST)


def build_transform(
    image_size: int, mask_size: int | None = None, augmentation: Augmentation = "none"
) -> A.Compose:
    """Return the transform from uint8 arrays to tensors.

    Call it with ``image=[H, W, 3]`` and ``mask=[H, W]``; the result holds a normalised float
    ``[3, image_size, image_size]`` and a uint8 mask of ``mask_size`` (or its own size).

    Args:
        image_size: Side of the image in pixels.
        mask_size: Side of the mask in pixels, or None to leave masks at their own size.
        augmentation: Applied after the resize, with the paper's strengths.
    """
    return A.Compose(
        [
            AntialiasedResize(image_size, mask_size),
            *_augmentations(augmentation),
            A.Normalize(CLIP_MEAN, CLIP_STD),
            ToTensorV2(),
        ],
        is_check_shapes=False,  # a mask may have another size than its image
    )


def _augmentations(name: Augmentation) -> list[A.ImageOnlyTransform]:
    """Strengths as in the public implementation's options."""
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


def _resize(array: NDArray[np.uint8], side: int, filter_: Image.Resampling) -> NDArray[np.uint8]:
    # A copy, as torch warns of arrays it may not write to.
    return np.array(Image.fromarray(array).resize((side, side), filter_))
