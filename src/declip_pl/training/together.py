"""Processes that train together end together: one of them says why, and none waits for the others.

Lightning leaves processes behind that wait for one that has failed, or kills the first without a
word; each prints what its own end of a broken connection looked like. Here each process watches a
store of torch's that all of them reach. The first to fail notes it there and says why; the others
see the note and end in silence. Of a process that was killed the one that started it says so.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from subprocess import Popen
from threading import Event, RLock, Thread
from time import monotonic, sleep
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.utilities.exceptions import SIGTERMException

from declip_pl.errors import UserError

PAUSE = 0.2
"""Seconds between two looks at the others."""

GRACE = 10
"""Seconds that a process has to end by itself once another has failed."""

FAILED, NOTED = "declip-pl/failed", "declip-pl/noted"
"""Keys of the store: how many have failed, and how many know that one has."""

CONSEQUENCES = ("gloo", "NCCL", "monitoredBarrier")
"""What errors say that tell of another process's end."""

GONE = (
    "the first process of this run is gone: was it killed, or its machine short of memory? "
    "Finished epochs are kept"
)
LOST = GONE.replace("the first", "another")


class Together:
    """This process among those that train together; alone if there are no others."""

    def __init__(self) -> None:
        self._trainer: L.Trainer | None = None
        self._children: list[Popen[bytes]] = []
        self._store: Any = None
        self._spoken = self._noted = False
        self._over = Event()
        """Whether this process has ended its work, or is about to say why it has not."""
        self._lock = RLock()

    def follow(self, trainer: L.Trainer) -> None:
        """Watch the other processes of a trainer from now on."""
        if trainer.world_size > 1:
            self._trainer = trainer
            trainer.callbacks.append(_Terminated())  # type: ignore[attr-defined]
            Thread(target=self._watch, daemon=True).start()

    def run(self, work: Callable[[], None]) -> None:
        """Do this process's part.

        Raises:
            BaseException: What the part raises, in the process that is to say it.
            SystemExit: In all others.
        """
        failure: BaseException | None = None
        try:
            work()
        except BaseException as error:
            failure = error
        self._over.set()
        if failure is None:
            return
        if self._trainer is None:
            raise failure
        said = self._to_say(failure)
        self._note()
        self._end_others(at_once=said is not None)
        raise said or SystemExit(1)

    def _to_say(self, failure: BaseException) -> BaseException | None:
        """Return what this process says; None where another says it."""
        if not isinstance(failure, Exception):  # a signal, which may have come to all of them
            self._is_first_to_speak()
            return failure if self._rank == 0 else None
        is_consequence = isinstance(failure, dist.DistError) or (
            type(failure) is RuntimeError and any(word in str(failure) for word in CONSEQUENCES)
        )
        end, news = monotonic() + GRACE, self._news()
        while is_consequence and news is None and monotonic() < end:
            sleep(PAUSE)
            news = self._news()
        if news is not None:
            return UserError(news) if news else None
        if not self._is_first_to_speak():
            return None
        return UserError(LOST) if is_consequence else failure

    def _watch(self) -> None:
        """End this process if another fails; all but the first are killed by a wait in vain."""
        while not self._over.wait(PAUSE):
            news = self._news()
            if news is None or (news == GONE and self._over.wait(GRACE)):
                continue
            if news:
                print(f"error: {news}", file=sys.stderr, flush=True)
            self._note()
            if not self._over.wait(GRACE):
                self._end_others(at_once=True)
                os._exit(1)

    def _news(self) -> str | None:
        """Return what happened to another process and is to be said here.

        "" if another process has said it, None if nothing happened.
        """
        with self._lock:
            self._adopt()
            self._connect()
            for number, child in enumerate(self._children, start=self._rank + 1):
                status = child.poll()
                if status and status > 0:
                    return ""
                if status:
                    name = signal.Signals(-status).name
                    line = (
                        f"process {number} of {self._world} was ended by {name}: is the machine "
                        "short of memory? Finished epochs are kept"
                    )
                    return line if self._is_first_to_speak() else ""
            try:
                return "" if self._store and self._store.check([FAILED]) else None
            except RuntimeError:
                return GONE if self._rank == 1 else ""

    def _is_first_to_speak(self) -> bool:
        """Return whether no process has failed before; then this one speaks.

        Before processes have met, each speaks for itself.
        """
        with self._lock:
            if self._spoken:
                return False
            self._spoken = True
            try:
                return self._store is None or self._store.add(FAILED, 1) == 1
            except RuntimeError:
                return self._rank == 1

    def _note(self) -> None:
        """Note that this process knows of the failure.

        The first, which ends with the store, waits until those that others have started know it.
        """
        if self._store is None or self._noted:
            return
        self._noted = True
        end = monotonic() + GRACE
        with suppress(RuntimeError):
            self._store.add(NOTED, 1)
            if self._rank == 0 and self._world > 1 + len(self._children):
                while self._store.add(NOTED, 0) < self._world and monotonic() < end:
                    sleep(PAUSE)

    def _end_others(self, at_once: bool) -> None:
        """End the processes that this one has started."""
        end = monotonic() + (0 if at_once else 2 * GRACE)
        for child in self._children:
            while child.poll() is None and monotonic() < end:
                sleep(PAUSE)
            child.kill()

    def _adopt(self) -> None:
        """Take over the processes that Lightning has started, once all of them are."""
        assert self._trainer is not None
        started = getattr(self._trainer.strategy.launcher, "procs", [])
        if not self._children and len(started) == self._trainer.num_devices - 1:
            self._children = list(started)
            started[:] = [_Child(process, self._is_first_to_speak) for process in started]

    def _connect(self) -> None:
        """Reach the store by which the processes have met."""
        if self._store is None and dist.is_available() and dist.is_initialized():
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            try:
                self._store = dist.TCPStore(  # type: ignore[attr-defined]  # it is documented
                    address, port, timeout=timedelta(seconds=GRACE), wait_for_workers=False
                )
            except RuntimeError:  # tried again
                return

    @property
    def _rank(self) -> int:
        assert self._trainer is not None
        return int(self._trainer.global_rank)

    @property
    def _world(self) -> int:
        assert self._trainer is not None
        return int(self._trainer.world_size)


class _Terminated(L.Callback):
    """End a process on SIGTERM by an exception.

    Lightning's handler, which it replaces, talks to the other processes: from within whatever they
    are saying to each other just then, so that both fail.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signal."""
        signal.signal(signal.SIGTERM, _terminate)

    on_sanity_check_start = on_validation_start = on_test_start = on_train_start


def _terminate(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a cluster may send it to every process of a job
    raise SIGTERMException


class _Child:
    """A process as Lightning's observer sees it: one that never fails.

    The observer would kill all processes, the first as well, before anybody has said why.
    """

    returncode = 0

    def __init__(self, process: "Popen[bytes]", about_to_speak: Callable[[], object]) -> None:
        self._process = process
        self._about_to_speak = about_to_speak

    def poll(self) -> int:
        """Return that it is fine."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Pass a signal on; Lightning kills where this process is interrupted, and says so."""
        if number == signal.SIGKILL:
            self._about_to_speak()
        self._process.send_signal(number)
