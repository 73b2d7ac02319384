"""A disk that is full, or read-only, from any write on: one line says so, and nothing is lost."""

import pytest
from fault_trials import COUNT, fill_at, moments, read_only_at, row

pytestmark = pytest.mark.faults

COMMANDS = ("train", "cache", "evaluate", "forge", "predict")
"""What ablate and cross-eval write is written by train and evaluate."""


@pytest.mark.parametrize(
    ("fault", "from_"), [("disk full", fill_at), ("disk read-only", read_only_at)]
)
@pytest.mark.parametrize("name", COMMANDS)
def test_disk(faults, name, fault, from_):
    """From an event on that is drawn; the first and the last are always among them."""
    command, place, said = faults.command(name), faults.place, row(name, fault)
    events = faults.reference(name).events
    draw = moments(command, fault)
    numbers = [0, len(events) - 1, *draw.sample(range(len(events)), min(COUNT, len(events)))]
    for number in numbers[:COUNT]:
        place.clear(command)
        ended = place.run(command, from_(number, place.here))
        what = f"from event {number} on, {events[number]}"
        if ended.status == 0 or ended.in_one_line:
            said.note(what, faults.fault_of(name, ended), refused=ended.in_one_line)
        else:
            said.note(what, ended.said[-3000:])
    said.end()
