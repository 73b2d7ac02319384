"""Bringing predictions to the size of the masks they are scored against."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from declip_pl.metrics.batches import check_bool, check_range, check_shape

PIXELS_AT_ONCE = 2**22
"""64 maps of 256 x 256."""


def by_size(
    probabilities: Tensor, masks: Sequence[Tensor]
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Resize predictions to the masks' own sizes, those of equal size together.

    Args:
        probabilities: ``[B, 1, h, w]`` float in [0, 1].
        masks: B bool masks ``[H, W]``, True = fake.

    Yields:
        Positions in the batch, ``[b, H, W]`` probabilities and masks; as many at once as have
        :data:`PIXELS_AT_ONCE`, so that large photos need no more memory than many small ones.

    Raises:
        ValueError: If an argument is anything else.
    """
    check_shape("probabilities", probabilities, "[B, 1, h, w]")
    if len(masks) != len(probabilities):
        raise ValueError(
            f"expected a mask for each of {len(probabilities)} predictions; found {len(masks)}"
        )
    positions: dict[torch.Size, list[int]] = defaultdict(list)
    for index, mask in enumerate(masks):
        check_shape(f"mask {index}", mask, "[H, W]")
        check_bool(mask)
        positions[mask.shape].append(index)
    for size, same in positions.items():
        step = max(1, PIXELS_AT_ONCE // size.numel())
        for chosen in (same[start : start + step] for start in range(0, len(same), step)):
            resized = resize_to(probabilities[chosen], size).squeeze(1)
            yield chosen, resized, torch.stack([masks[i] for i in chosen])


def resize_to(probabilities: Tensor, size: torch.Size) -> Tensor:
    """Resize maps bilinearly, antialiased where they shrink.

    Args:
        probabilities: ``[B, 1, h, w]`` float in [0, 1].
        size: Height and width.

    Raises:
        ValueError: If the probabilities have another shape or range.
    """
    check_shape("probabilities", probabilities, "[B, 1, h, w]")
    check_range("probabilities", probabilities)
    if probabilities.shape[-2:] == size:
        return probabilities
    return F.interpolate(probabilities, size=size, mode="bilinear", antialias=True).clamp(0, 1)
