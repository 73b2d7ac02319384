"""Faults on purpose: a command runs in a process that something happens to, and then again.

Each trial works in the same new folder, so that paths in results are the same. The process is a
fork of the tests', which has imported everything, and so are the trainings that it starts: what
happens falls into the work, not into Python's start.
"""

import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EROFS
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import NamedTuple

import torch
from conftest import PATIENCE, blank_plot
from matplotlib.figure import Figure

from declip_pl import cli
from declip_pl.cross_eval import models
from declip_pl.cross_eval.columns import read_columns
from declip_pl.errors import UserError

COUNT = int(os.environ.get("FAULTS_COUNT", "20"))
"""How often each fault is tried on each command."""

SEED = int(os.environ.get("FAULTS_SEED", "0"))
"""Decides on the moments."""

TIMED = {"made", "seconds", "sha256"}
"""Entries that tell when or how long; a checksum of them differs as well. Of reports and PDF files,
which tell it inside, only that they are there is compared."""


class Ended(NamedTuple):
    """How a process ended: its status, negative for a signal, and what it printed."""

    status: int
    said: str

    @property
    def errors(self) -> list[str]:
        """The lines that say what went wrong."""
        return [line for line in self.said.splitlines() if line.startswith("error: ")]

    @property
    def in_one_line(self) -> bool:
        """Whether it was refused by a message rather than by a traceback.

        Of a command that starts others, each of those may have said its own before.
        """
        return bool(self.errors) and "Traceback" not in self.said


@dataclass(frozen=True)
class Command:
    """A command to try faults on.

    Attributes:
        name: What it is called in the table.
        run: Runs it, in the folder of a trial.
        results: Globs of what has to come out the same.
        begin: A folder whose content the trial begins with.
    """

    name: str
    run: Callable[[], object]
    results: tuple[str, ...]
    begin: Path | None = None


class Reference(NamedTuple):
    """A command that nothing happened to.

    Attributes:
        content: What came out.
        events: What it did to files below the trial's folder, in order.
        reads: Which files it opened to read, in order; below the folder that the trial's lies in.
        seconds: How long it took.
    """

    content: dict[str, object]
    events: list[str]
    reads: list[str]
    seconds: float


@dataclass
class Row:
    """A line of the table: how the tries of a fault on a command ended."""

    command: str
    fault: str
    tries: int = 0
    equal: int = 0
    refused: int = 0
    failed: list[str] = field(default_factory=list)

    def note(self, what: str, fault: str = "", *, refused: bool = False) -> None:
        """Note a try.

        Args:
            what: What happened to the command.
            fault: What is wrong with what came of it; nothing, where it is as it should be.
            refused: Whether it said in one line what was wrong.
        """
        self.tries += 1
        self.refused += refused
        if fault:
            self.failed.append(f"{what}: {fault}")
        else:
            self.equal += 1

    def end(self) -> None:
        """Fail if a try did."""
        assert not self.failed, "\n\n".join(self.failed)


def row(command: str, fault: str) -> Row:
    """Begin a line of the table."""
    ROWS.append(Row(command, fault))
    return ROWS[-1]


ROWS: list[Row] = []
"""Lines of the test that runs; at its end they go to the table, which is printed at the end."""


def table(rows: Iterable[Row]) -> str:
    """Return all that was tried as a table in Markdown: a line for each fault."""
    found = {(row.fault, row.command): row for row in rows}
    faults, commands = (sorted(set(names)) for names in zip(*found, strict=True))
    lines = [["fault", *commands], ["---"] * (len(commands) + 1)]
    lines += [[fault, *(_in_short(found.get((fault, c))) for c in commands)] for fault in faults]
    return "\n".join(
        [
            *(f"| {' | '.join(line)} |" for line in lines),
            "",
            "Of the tries, how many ended as they should; in brackets, how many were refused in a",
            f"line. Moments drawn with FAULTS_SEED={SEED}.",
        ]
    )


def _in_short(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.equal}/{row.tries}" + (f" ({row.refused})" if row.refused else "")


class Place:
    """Where trials take place.

    Args:
        here: The folder, made anew for each trial.
    """

    def __init__(self, here: Path) -> None:
        self.here = here
        self.seen = here.with_name("seen.json")

    def clear(self, command: Command) -> None:
        """Begin a trial."""
        shutil.rmtree(self.here, ignore_errors=True)
        if command.begin:
            shutil.copytree(command.begin, self.here)
        self.here.mkdir(exist_ok=True)

    def run(
        self,
        command: Command,
        fault: Callable[[], object] = lambda: None,
        meanwhile: Callable[[int], object] = lambda pid: None,
    ) -> Ended:
        """Run a command to its end in a process of its own.

        Args:
            command: What to run.
            fault: Called in the process before.
            meanwhile: Called here with the process's id, which is its group's as well.
        """
        return self.await_(self.start(command, fault), meanwhile)

    def start(
        self, command: Command, fault: Callable[[], object] = lambda: None
    ) -> tuple[int, list[str], Thread]:
        """Start a command; :meth:`await_` takes what is returned."""
        reading, writing = os.pipe()
        pid = _fork(partial(self._become, command, fault, reading, writing))
        os.close(writing)
        said: list[str] = []
        thread = Thread(target=lambda: said.append(_read(reading)), daemon=True)
        thread.start()
        return pid, said, thread

    def await_(
        self,
        started: tuple[int, list[str], Thread],
        meanwhile: Callable[[int], object] = lambda pid: None,
    ) -> Ended:
        """Return how a process that was started ended, and fail if anything of it is left."""
        pid, said, thread = started
        meanwhile(pid)
        end = time.monotonic() + PATIENCE
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.killpg(pid, signal.SIGKILL)
                raise AssertionError(f"no end in {PATIENCE} seconds")
            time.sleep(0.02)
        thread.join(PATIENCE)  # its children hold the pipe
        assert not thread.is_alive(), "a process that it started outlives it"
        return Ended(os.waitstatus_to_exitcode(status), said[0])

    def content(self, command: Command) -> dict[str, object]:
        """Return what came out, by file, without what tells the time."""
        files = {p for glob in command.results for p in self.here.glob(glob) if p.is_file()}
        kept = [path for path in sorted(files) if path.name != ".lock"]
        return {str(path.relative_to(self.here)): _content(path) for path in kept}

    def reference(self, command: Command) -> Reference:
        """Run a command that nothing happens to."""
        self.clear(command)
        done: list[str] = []
        read: list[str] = []

        def watched() -> None:
            Watch(self.here, lambda _, what: done.append(what)).begin()
            Watch(self.here.parent, lambda _, what: read.append(what), reads=True).begin()
            command.run()
            self.seen.write_text(json.dumps([done, read]))

        start = time.monotonic()
        ended = self.run(Command(command.name, watched, command.results))
        assert ended.status == 0, ended.said
        seconds = time.monotonic() - start
        return Reference(self.content(command), *json.loads(self.seen.read_text()), seconds)

    def _become(
        self, command: Command, fault: Callable[[], object], reading: int, writing: int
    ) -> None:
        """Do what a process does that a trial is about."""
        os.setsid()
        os.close(reading)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1) for number in (1, 2))
        Figure.savefig = blank_plot
        models.subprocess = Trainings
        torch.set_num_threads(1)  # anew, as its pool of threads is not forked
        os.chdir(self.here)
        os.environ["DECLIP_FEATURES"] = str(self.here / "features")
        os.environ["DECLIP_CACHE"] = str(self.here / "cache")
        fault()
        _answer_ctrl_c()
        command.run()


class Training:
    """A training as a cross-evaluation starts it, but a fork: it has imported everything.

    Args:
        command: The words of its command line.
        preexec_fn: What the process calls first.
    """

    def __init__(self, command: Sequence[str], preexec_fn: Callable[[], object]) -> None:
        self.pid = _fork(partial(self._become, list(command[3:]), preexec_fn))

    def _become(self, words: list[str], preexec_fn: Callable[[], object]) -> None:
        preexec_fn()
        _answer_ctrl_c()
        cli.main(words)  # without python -m declip_pl

    def wait(self, timeout: float = PATIENCE) -> int:
        """Return its status, negative for a signal."""
        end = time.monotonic() + timeout
        while not (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("train", timeout)
            time.sleep(0.02)
        return os.waitstatus_to_exitcode(found[1])

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


Trainings = SimpleNamespace(Popen=Training, TimeoutExpired=subprocess.TimeoutExpired)
"""Stands where a cross-evaluation has the module ``subprocess``."""


def _fork(run: Callable[[], object]) -> int:
    """Have a fork of this process do something, then end as Python would; return its id.

    Ctrl-C waits in it until it calls :func:`_answer_ctrl_c`, and never gets it back into the tests.
    """
    sys.stdout.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = _status_of(run)
            for process in active_children():  # loaders' workers, as Python's exit does
                process.terminate()
        finally:
            os._exit(status)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _answer_ctrl_c() -> None:
    """Have Ctrl-C interrupt this process; one that came already ends it."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _status_of(run: Callable[[], object]) -> int:
    """Do something and return the status that Python would end with, having said why."""
    status = 1
    try:
        run()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except UserError as error:  # of what is no command, and which the command line would print
        print(f"error: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


class Watch:
    """Sees what Python does to files below a folder, before it happens.

    Args:
        folder: Where.
        then: Called with the number of the event, from 0, and with what it is.
        reads: Whether reading counts as well.
    """

    CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.symlink")

    def __init__(
        self, folder: Path, then: Callable[[int, str], object], reads: bool = False
    ) -> None:
        self.folder = f"{folder}{os.sep}"
        self.then = then
        self.reads = reads
        self.count = 0

    def begin(self) -> None:
        """Watch this process from now to its end."""
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes == self.reads:
                return
        elif event in self.CHANGES and not self.reads:
            path = arguments[0]
        else:
            return
        if isinstance(path, int):
            return
        path = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links stay
        there = os.path.lexists(path)
        if (event == "os.mkdir" and there) or (event == "os.remove" and not there):
            return  # nothing changes
        if path.startswith(self.folder):
            number, self.count = self.count, self.count + 1
            self.then(number, f"{event.removeprefix('os.')} {path.removeprefix(self.folder)}")


def moments(command: Command, fault: str) -> random.Random:
    """Return the source of a command's moments; whatever ran before does not matter."""
    return random.Random(f"{SEED} {command.name} {fault}")


def kill_at(number: int, folder: Path) -> Callable[[], None]:
    """Return what has a process killed before it does something to a file for the n-th time.

    Its forks are not; they end with it.
    """

    def begin() -> None:
        pid = os.getpid()
        Watch(folder, lambda n, _: n == number and os.getpid() == pid and _kill(pid)).begin()

    return begin


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def fill_at(number: int, folder: Path) -> Callable[[], None]:
    """Return what leaves no room from the n-th event on: to no file can be written a byte more.

    That is the kernel's own refusal, whatever library writes, in children as well.
    """

    def then(n: int, _: str) -> None:
        if n == number:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))

    return Watch(folder, then).begin


def read_only_at(number: int, folder: Path) -> Callable[[], None]:
    """Return what refuses every change from the n-th on, as a read-only file system does."""

    def then(n: int, what: str) -> None:
        if n >= number:
            raise OSError(EROFS, os.strerror(EROFS), str(folder / what.split(" ", 1)[1]))

    return Watch(folder, then).begin


def differences(found: dict[str, object], expected: dict[str, object]) -> str:
    """Return which files differ from what they should be, as text; nothing where none does."""
    parts = {
        "missing": expected.keys() - found.keys(),
        "too many": found.keys() - expected.keys(),
        "different": {k for k in found.keys() & expected.keys() if found[k] != expected[k]},
    }
    return "; ".join(f"{how}: {', '.join(sorted(names))}" for how, names in parts.items() if names)


def _read(pipe: int) -> str:
    with os.fdopen(pipe, encoding="utf-8", errors="replace") as file:
        return file.read()


def _content(path: Path) -> object:
    if path.suffix == ".ckpt":
        return _plain(torch.load(path, weights_only=True))
    # Photos that are looked at once more come in other batches, and differ in the last digits.
    if path.suffix == ".jsonl":  # a line that comes later replaces one of the same name
        records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return {record["name"]: _plain(record, digits=5) for record in records}
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
            return sorted(str(_plain(row, digits=5)) for row in rows)
    with suppress(ValueError, OSError):  # it holds no columns
        about, columns = read_columns(path)
        return _plain(about), {name: column.tobytes() for name, column in columns.items()}
    return None if path.suffix in (".html", ".pdf") else path.read_bytes()


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _plain(value: object, digits: int | None = None) -> object:
    """Return a value that can be compared, without what tells the time; numbers perhaps rounded."""
    if isinstance(value, dict):
        return {str(k): _plain(v, digits) for k, v in value.items() if k not in TIMED}
    if isinstance(value, (list, tuple)):
        return [_plain(item, digits) for item in value]
    if isinstance(value, float) and digits is not None:
        return round(value, digits)
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
