"""Random numbers of training that a resumed run draws as if it had never stopped."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def drawing(device: torch.device, *place: int) -> Iterator[None]:
    """Have what torch draws depend on numbers alone; afterwards it goes on as if nothing was drawn.

    Args:
        device: Where numbers are drawn beside the CPU.
        place: Whole numbers from 0, such as seed, epoch and batch.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))
        yield
