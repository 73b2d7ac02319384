"""Processes that this one starts."""

import ctypes
import signal
import sys


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed; for ``preexec_fn``."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
