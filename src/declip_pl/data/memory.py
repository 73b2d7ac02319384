"""How much memory is free for what is preloaded."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

MINE, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Linux: the control groups of this process, and where all of them are."""


def free_memory(device: torch.device) -> int:
    """Return how many bytes of a device's memory (for ``cpu``, of what we may use) are free."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # torch keeps what the encoder took
        return torch.cuda.mem_get_info(device)[0]
    return min([int(psutil.virtual_memory().available), *left_in_groups()])


def left_in_groups(mine: Path = MINE, groups: Path = GROUPS) -> Iterator[int]:
    """Yield how many bytes each limit of a container or a scheduler's job leaves.

    Limits hold for a control group and all above it; files that the kernel may drop from memory
    at once do not count as used. Nothing where there are no control groups.

    Args:
        mine: Lists this process's groups.
        groups: Where versions 1 and 2 keep them.
    """
    try:
        lines = mine.read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            names, roots = ("memory.max", "memory.current", "inactive_file"), ["", "unified"]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            roots = ["memory"]
        else:
            continue
        for root in roots:
            # A container sees itself at the top, not at the path that its host knows it by.
            own = groups / root / path.lstrip("/")
            for group in (own, *own.parents):
                if not group.is_relative_to(groups / root):
                    break
                yield from _left(group, *names)


def _left(group: Path, limit: str, used: str, droppable: str) -> Iterator[int]:
    """Yield what a group's limit leaves; nothing where it has none."""
    try:
        most, now = (group / limit).read_text().strip(), int((group / used).read_text())
        said = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if most != "max":
        yield max(0, int(most) - now + int(said.get(droppable, 0)))
