"""Two of the same command at once: one waits or is refused in one line, and nothing is lost."""

import pytest
from fault_trials import COUNT, row

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    "name", ["train", "cache", "cross-eval", "evaluate", "ablate", "forge", "predict"]
)
def test_two_at_once(faults, name):
    command, place, said = faults.command(name), faults.place, row(name, "two at once")
    faults.reference(name)
    for _ in range(COUNT):
        place.clear(command)
        both = [place.await_(started) for started in [place.start(command) for _ in range(2)]]
        failed = [ended for ended in both if ended.status]
        wrong = [ended.said[-3000:] for ended in failed if not ended.in_one_line]
        # Where both were refused a part, the same command makes it.
        last = failed[0] if len(failed) == len(both) else None
        fault = "\n".join(wrong) or faults.fault_of(name, last or both[0]._replace(status=0))
        said.note("", fault, refused=bool(failed))
    said.end()
