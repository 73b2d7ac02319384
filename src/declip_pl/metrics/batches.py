"""What public metric functions demand of their input; errors say what was expected and found."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from declip_pl.metrics.ranking import Map, Mask


def check_maps(probabilities: Tensor, masks: Tensor) -> None:
    """Check a batch of maps and their masks.

    Args:
        probabilities: ``[B, H, W]`` float in [0, 1].
        masks: ``[B, H, W]`` bool on the same device.

    Raises:
        ValueError: If they are anything else.
    """
    check_shape("probabilities", probabilities, "[B, H, W]")
    if masks.shape != probabilities.shape:
        raise ValueError(
            f"expected masks of the probabilities' shape {list(probabilities.shape)}; found "
            f"{list(masks.shape)}"
        )
    check_bool(masks)
    if masks.device != probabilities.device:
        raise ValueError(
            f"expected probabilities and masks on one device; found {probabilities.device} and "
            f"{masks.device}"
        )
    check_range("probabilities", probabilities)


def check_shape(name: str, values: Tensor, expected: str) -> None:
    """Check that a tensor has as many axes as ``expected`` names, and something in it.

    Args:
        name: What the tensor holds.
        values: The tensor.
        expected: Its shape, such as ``[B, 1, h, w]``; a number is an axis of that length.

    Raises:
        ValueError: If it has another shape.
    """
    axes = expected.strip("[]").split(", ")
    fits = values.ndim == len(axes) and all(
        not axis.isdigit() or int(axis) == size
        for axis, size in zip(axes, values.shape, strict=True)
    )
    if not fits or not values.numel():
        raise ValueError(f"expected {name} {expected}, not empty; found {list(values.shape)}")


def check_bool(masks: Tensor) -> None:
    """Check that masks are bool: integers would be read as something else.

    Raises:
        ValueError: If they are not.
    """
    if masks.dtype != torch.bool:
        raise ValueError(f"expected masks of torch.bool, True = fake; found {masks.dtype}")


def check_range(name: str, values: Tensor) -> None:
    """Check that floats are in [0, 1].

    Raises:
        ValueError: If they are not, or no floats.
    """
    if not values.is_floating_point():
        raise ValueError(f"expected {name} of a floating-point type; found {values.dtype}")
    lowest, highest = values.aminmax()
    if not (lowest >= 0 and highest <= 1):  # False for NaN too
        raise ValueError(f"expected {name} in [0, 1]; found NaN or values outside")


def each_map(score: Callable[[Map], Any], probabilities: Tensor) -> Tensor:
    """Check maps and return what ``score`` returns for each of them.

    Args:
        score: Takes a map ``[H, W]`` and returns numbers.
        probabilities: ``[B, H, W]`` float in [0, 1].

    Returns:
        ``[B, ...]`` float32 on the CPU.

    Raises:
        ValueError: If the probabilities are anything else.
    """
    check_shape("probabilities", probabilities, "[B, H, W]")
    check_range("probabilities", probabilities)
    return _in_threads(score, torch.float32, _as_maps(probabilities))


def each_image(
    score: Callable[[Map, Mask], Any],
    probabilities: Tensor,
    masks: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Check a batch and return what ``score`` returns for each of its images.

    Args:
        score: Takes a map and a mask, ``[H, W]`` each, and returns numbers.
        probabilities: ``[B, H, W]`` float in [0, 1].
        masks: ``[B, H, W]`` bool.
        dtype: Of the result.

    Returns:
        ``[B, ...]`` on the CPU.

    Raises:
        ValueError: If :func:`check_maps` refuses the batch.
    """
    check_maps(probabilities, masks)
    return _in_threads(score, dtype, _as_maps(probabilities), masks.cpu().numpy())


def _as_maps(probabilities: Tensor) -> Map:
    maps: Map = probabilities.detach().float().cpu().numpy()
    return maps


def _in_threads(score: Callable[..., Any], dtype: torch.dtype, *images: NDArray[Any]) -> Tensor:
    # numpy and OpenCV count outside the interpreter lock: an image in each thread.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return torch.tensor(np.array(list(pool.map(score, *images))), dtype=dtype)
