"""Commands that are killed or interrupted at any moment: run again, they end with the same."""

import os
import signal
import time
from functools import partial

import pytest
from fault_trials import COUNT, kill_at, moments, row

pytestmark = pytest.mark.faults

COMMANDS = ("train", "cache", "cross-eval", "evaluate", "ablate", "forge", "predict")


def after(seconds: float, end, pid: int) -> None:
    """Wait, then end a process; one that has ended is not gone before it is awaited."""
    time.sleep(seconds)
    end(pid)


@pytest.mark.parametrize("name", COMMANDS)
def test_kill(faults, name):
    """In turn before something is done to a file, where most can go wrong, and after a time."""
    command, place, said = faults.command(name), faults.place, row(name, "kill -9")
    events, seconds = faults.reference(name).events, faults.reference(name).seconds
    draw = moments(command, "kill")
    for turn in range(COUNT):
        place.clear(command)
        if turn % 2 == 0:
            number = draw.randrange(len(events))
            what = f"before event {number}, {events[number]}"
            ended = place.run(command, kill_at(number, place.here))
        else:
            wait = draw.random() * seconds
            what = f"after {wait:.2f} s of {seconds:.2f}"
            ended = place.run(command, meanwhile=partial(after, wait, _kill))
        said.note(what, faults.fault_of(name, ended))
    said.end()


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "cache"])
def test_ctrl_c_twice(faults, name):
    """As a terminal sends it, to all processes of the command; no traceback comes of it."""
    command, place, said = faults.command(name), faults.place, row(name, "Ctrl-C twice")
    draw, seconds = moments(command, "Ctrl-C"), faults.reference(name).seconds

    def interrupt(between: float, pid: int) -> None:
        os.killpg(pid, signal.SIGINT)
        time.sleep(between)
        os.killpg(pid, signal.SIGINT)

    for _ in range(COUNT):
        place.clear(command)
        wait, between = draw.random() * seconds, draw.choice([0.0, 0.01, 0.1, 0.5])
        ended = place.run(command, meanwhile=partial(after, wait, partial(interrupt, between)))
        in_words = "Traceback" not in ended.said
        fault = faults.fault_of(name, ended) if in_words else ended.said[-3000:]
        said.note(
            f"after {wait:.2f} and {between} s", fault, refused=in_words and ended.status != 0
        )
    said.end()
