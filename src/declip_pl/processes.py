"""How processes end: those that this one starts with it, and this one when it is asked to."""

import ctypes
import signal
import sys
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


def _terminate(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise Terminated
