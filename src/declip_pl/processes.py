"""What is asked of the system: how processes end, and that freed memory goes back."""

import ctypes
import signal
import sys
from contextlib import suppress
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which a cluster asks a process to end before it is killed: as by Ctrl-C."""


def raise_on_sigterm() -> None:
    """Have SIGTERM raise :class:`Terminated`, once: what is done then is not interrupted."""
    signal.signal(signal.SIGTERM, _terminate)


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed; for ``preexec_fn``."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def return_large_blocks() -> None:
    """Have glibc give freed blocks of 1 MiB and more back to the system.

    By default the limit grows to the largest block that was freed. Batches of maps then lie on the
    heap, and the small objects that are kept of each batch hold on to much of it.
    """
    if sys.platform == "linux":
        m_mmap_threshold = -3  # malloc.h
        with suppress(AttributeError):  # another libc
            ctypes.CDLL(None).mallopt(m_mmap_threshold, 2**20)


def _terminate(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise Terminated
