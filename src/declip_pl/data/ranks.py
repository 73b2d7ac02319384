"""The processes of one run: what they say to each other, however long one takes to say it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

PATIENCE = timedelta(days=365)
"""How long processes wait for each other: photos may take days to encode, a training step's own
limit is half an hour."""

Said = TypeVar("Said")


class Ranks:
    """One process, or several that do the same, each on a device of its own.

    Every method is called by all of them, in the same order.

    Args:
        rank: Which of them this one is, from 0.
        world: How many there are.
        group: By which they talk; None for one.
    """

    def __init__(self, rank: int = 0, world: int = 1, group: Any = None) -> None:
        self.rank = rank
        self.world = world
        self._group = group

    @property
    def first(self) -> bool:
        """Whether this is the one that plans and prints."""
        return self.rank == 0

    def gather(self, said: Said) -> list[Said]:
        """Return what each process says, in their order."""
        if self._group is None:
            return [said]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, said, group=self._group)
        return found

    def of_first(self, said: Said) -> Said:
        """Return what the first process says; what the others hand over does not count."""
        if self._group is None:
            return said
        found = [said]
        dist.broadcast_object_list(found, src=0, group=self._group)
        return found[0]


ALONE = Ranks()


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """Yield the processes of this run; all of them have to call it."""
    if not (dist.is_available() and dist.is_initialized()):
        yield ALONE
        return
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), group)
    finally:
        dist.destroy_process_group(group)
