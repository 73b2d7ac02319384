"""What the machine can do, and how much of its memory is taken."""

import ctypes
import gc
import mmap
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from torch import nn

from benchmarks.settings import times

SMALL = 256
"""Side of a matrix product that is quick on every machine."""

PATIENCE = 5.0
"""Seconds that one large product may take."""


@dataclass(frozen=True)
class Machine:
    """A device.

    Attributes:
        device: Its name.
        torch: Version of torch.
        peak: FLOP/s that a large matrix product or convolution reaches, by data type.
    """

    device: str
    torch: str
    peak: dict[str, float]


def describe(device: torch.device) -> Machine:
    """Describe a device and measure its peak."""
    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads"
    kinds = (torch.float32, torch.bfloat16)
    peak = {str(kind).removeprefix("torch."): _peak(kind, device) for kind in kinds}
    return Machine(name, torch.__version__, peak)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Measure how much memory is taken at most beyond what is taken now, in bytes.

    On a CPU that of this process; those that decode photos beside it are not counted. The list
    that is yielded holds the figure once the block has ended.
    """
    gc.collect()
    peak = [float(mmap.PAGESIZE)]  # the tests' networks fit into what is free
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() - before
        return
    if platform.system() == "Linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what the last network took
    with _watched_process(peak):
        yield peak


@contextmanager
def _watched_process(peak: list[float]) -> Iterator[None]:
    """Raise ``peak[0]`` to the most memory that this process takes beyond what it has now."""
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _peak(dtype: torch.dtype, device: torch.device) -> float:
    side = 8192 if device.type == "cuda" else 2048
    small = _product(SMALL, dtype, device, 2)
    if 2 * side**3 / small > PATIENCE:  # a CPU without units for this type takes minutes
        return small
    product = _product(side, dtype, device, 5)
    # On some CPUs convolutions have the better kernels.
    layer = nn.Conv2d(512, 512, 5, padding=2).to(device, dtype)
    layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    grid = torch.randn(4, 32, 32, 512, device=device).to(dtype).movedim(-1, 1)
    with torch.inference_mode():
        seconds = min(times(lambda: layer(grid), device, 5))
    return max(product, 2 * 25 * 512**2 * 4 * 32**2 / seconds)


def _product(side: int, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """Return the FLOP/s of a matrix product."""
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / min(times(lambda: a @ a, device, repeats))
