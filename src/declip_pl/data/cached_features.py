"""Features that are on disk already, by photo: what a data set reads in place of pixels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from declip_pl.data.shards import open_shard
from declip_pl.model.features import Features

Place = tuple[Path, int]
"""A shard and a row in it."""


class CachedFeatures:
    """Read-only features of photos, by path; nothing is loaded before it is asked for.

    Args:
        places: For each photo its shard and its row there.
        grid_size: Side of the feature map.
    """

    def __init__(self, places: Mapping[Path, Place], grid_size: int) -> None:
        self.places = dict(places)
        self.grid_size = grid_size
        self._shards: dict[Path, Any] = {}

    def __getitem__(self, photo: Path) -> Features:
        """Return fp16 features of one photo: grid ``[C, h, w]``, class token ``[C]`` or None.

        Raises:
            UserError: If the cache was deleted or damaged meanwhile.
        """
        shard, row = self.places[photo]
        if shard not in self._shards:
            self._shards[shard] = open_shard(shard).get_slice("tokens")
        return _features(self._shards[shard][row], self.grid_size)

    @property
    def nbytes(self) -> int:
        """Size of all shards that the photos lie in."""
        return sum(shard.stat().st_size for shard in self._used())

    def preload(self, device: torch.device) -> None:
        """Put the shards into a device's memory; features come from there from now on.

        On a CPU they stay a memory map, all of which the kernel may keep in memory.

        Raises:
            UserError: If the cache was deleted or damaged meanwhile.
        """
        self._shards = {
            shard: open_shard(shard).get_tensor("tokens").to(device) for shard in self._used()
        }

    def unload(self) -> None:
        """Free what :meth:`preload` took; features are read from the disk again."""
        self._shards = {}

    def _used(self) -> list[Path]:
        return sorted({shard for shard, _ in self.places.values()})

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out of what is sent to other processes."""
        return self.__dict__ | {"_shards": {}}


def _features(tokens: Tensor, grid_size: int) -> Features:
    """Undo :func:`declip_pl.data.feature_cache.tokens_of` for one photo, ``[tokens, C]``."""
    cls, patches = tokens[: -(grid_size**2)], tokens[-(grid_size**2) :]
    grid = patches.view(grid_size, grid_size, -1).permute(2, 0, 1)
    return Features(grid, cls[0] if len(cls) else None)
