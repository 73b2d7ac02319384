"""Workers for which there is too little memory: one line says so, and nothing is lost."""

import os
import signal

import psutil
import pytest
from conftest import wait_until
from fault_trials import COUNT, Command, Watch, moments, row

pytestmark = pytest.mark.faults


def killed() -> None:
    """As the kernel ends a process where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def refused() -> None:
    """As Python and libraries are refused more."""
    raise MemoryError


@pytest.mark.parametrize("how", [killed, refused])
def test_a_loader_of_photos(faults, how):
    """One of the two processes that read photos for a training without cached features."""
    train = faults.command("train with workers")
    said, draw = row("train", f"worker out of memory ({how.__name__})"), moments(train, "memory")
    data = faults.folder / "dolos"
    reads = [what for what in faults.reference(train.name).reads if what.startswith("open dolos/")]
    for _ in range(COUNT):
        faults.place.clear(train)
        number = draw.randrange(len(reads) // 2)

        def fault(number=number) -> None:
            main = os.getpid()
            Watch(
                data, lambda n, _: os.getpid() != main and n >= number and how(), reads=True
            ).begin()

        ended = faults.place.run(train, fault)
        fine = ended.status == 0 or (ended.in_one_line and "memory" in ended.errors[0])
        fault_of = faults.fault_of(train.name, ended) if fine else ended.said[-3000:]
        said.note(f"from opening {number} on", fault_of, refused=ended.in_one_line)
    said.end()


def test_a_worker_of_forge(faults):
    """Its processes are new ones of Python, in which nothing can be watched: one is killed."""
    one = faults.command("forge")
    forge = Command("forge", faults.forge_by_two, one.results)
    said, journal = row("forge", "worker out of memory (killed)"), "made/.forge-telea.jsonl"

    def kill(pid: int) -> None:
        wait_until((faults.place.here / journal).is_file)
        wait_until(lambda: len(workers(pid)) == 2)
        workers(pid)[0].kill()

    for _ in range(COUNT):
        faults.place.clear(forge)
        ended = faults.place.run(forge, meanwhile=kill)
        fine = ended.in_one_line and "memory" in ended.errors[0]
        fault = faults.fault_of("forge", ended) if fine else ended.said[-3000:]
        said.note("", fault, refused=ended.in_one_line)
    said.end()


def workers(pid: int) -> list[psutil.Process]:
    """Return the processes that make pictures."""
    found = psutil.Process(pid).children()
    return [process for process in found if "spawn_main" in " ".join(process.cmdline())]
