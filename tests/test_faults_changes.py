"""Files that change or vanish while they are read, and a clock that goes backwards."""

import itertools
import shutil
import time
from pathlib import Path

import pytest
from fault_trials import COUNT, Watch, moments, row

pytestmark = pytest.mark.faults

READ = {
    "train": "dolos", "cache": "dolos", "evaluate": "dolos", "forge": "photos", "predict": "photos"
}  # fmt: skip
"""What commands read."""


class Meanwhile:
    """Does something to a file when it is opened for a certain time.

    Args:
        number: At which opening of a file; with ``again`` of those that were opened before.
        again: See above.
        folder: Below which the file lies.
        change: What is done to it.
        log: Where the file's name is written.
    """

    def __init__(self, number: int, again: bool, folder: Path, change, log: Path) -> None:
        self.number, self.again, self.folder = number, again, folder
        self.change, self.log = change, log
        self.seen: set[str] = set()
        self.begin = Watch(folder, self, reads=True).begin

    def __call__(self, _: int, what: str) -> None:
        if not self.again or what in self.seen:
            self.number -= 1
            if self.number == -1:
                self.log.write_text(what.removeprefix("open "))
                self.change(self.folder / what.removeprefix("open "))
        self.seen.add(what)


def replace(path: Path) -> None:
    """Put another picture in a file's place."""
    others = (other for other in sorted(path.parent.iterdir()) if other.name != path.name)
    shutil.copy(next(others), path)


@pytest.mark.parametrize("change", [Path.unlink, replace])
@pytest.mark.parametrize("name", READ)
def test_between_check_and_use(faults, name, change):
    """It is named in one line (``predict`` goes on without it), or nothing comes of it.

    What is replaced before it was ever read is another file, which nobody could notice.
    """
    again = change is replace
    data, log, place = faults.folder / READ[name], faults.folder / "changed", faults.place
    reads = [what for what in faults.reference(name).reads if what.startswith(f"open {data.name}/")]
    most = len(reads) - (len(set(reads)) if again else 0)
    if not most:
        pytest.skip("it opens no file twice")
    command = faults.command(name)
    said = row(name, "a file changes" if again else "a file vanishes")
    as_it_was = faults.folder / f"{data.name}-as-it-was"
    if not as_it_was.exists():
        shutil.copytree(data, as_it_was)
    draw = moments(command, change.__name__)
    for _ in range(COUNT):
        place.clear(command)
        log.write_text("")
        number = draw.randrange(most)
        ended = place.run(command, Meanwhile(number, again, data, change, log).begin)
        shutil.rmtree(data)
        shutil.copytree(as_it_was, data)
        file = log.read_text()
        what = f"{file or 'no file'} at opening {number} of {most}"
        named = Path(file).name in ended.said and "Traceback" not in ended.said
        fault = faults.fault_of(name, ended) if named or not ended.status else ended.said[-3000:]
        said.note(what, fault, refused=bool(ended.status) and named)
    said.end()


@pytest.mark.parametrize("name", ["train", "cache", "evaluate", "forge", "predict"])
def test_a_clock_that_goes_backwards(faults, name):
    command, place, said = faults.command(name), faults.place, row(name, "clock goes backwards")
    faults.reference(name)

    def backwards() -> None:
        seconds = map(float, itertools.count(time.time(), -60))
        time.time = lambda: next(seconds)
        time.time_ns = lambda: int(1e9 * next(seconds))

    place.clear(command)
    ended = place.run(command, backwards)
    fault = faults.fault_of(name, ended) if ended.status == 0 else ended.said[-3000:]
    said.note("an hour a minute", fault)
    said.end()
