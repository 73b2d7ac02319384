"""Whether all features that a run is going to encode fit on their disk, asked before it begins."""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from declip_pl.data.cache_folders import GIB
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.shards import inspect, shard_files
from declip_pl.errors import UserError
from declip_pl.files import existing

BYTES = 2
"""Of a number in fp16."""


def check_room(wanted: Sequence[tuple[FeatureCache, Collection[str]]]) -> None:
    """Make sure that features that are not there yet fit on the disk.

    Args:
        wanted: Caches, which lie on one disk, and the SHA-256 of the photos' files; what is wanted
            twice is written once.

    Raises:
        UserError: If they do not fit.
    """
    photos_of: dict[Path, set[str]] = {}
    cache_of = {cache.folder: cache for cache, _ in wanted}
    for cache, photos in wanted:
        photos_of.setdefault(cache.folder, set()).update(photos)
    missing = {folder: len(keys - _there(folder)) for folder, keys in photos_of.items()}
    needed = sum(missing[folder] * _bytes_each(cache) for folder, cache in cache_of.items())
    if not needed:
        return
    folder = next(iter(cache_of)).parent
    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise UserError(
            f"features do not fit into {folder}: {needed / GIB:.2f} GiB for all that this run "
            f"encodes ({sum(missing.values())} photos), {free / GIB:.1f} GiB are free; make room, "
            "name another folder (DECLIP_FEATURES=...) or go without them (--data.cache false)"
        )


def _there(folder: Path) -> set[str]:
    """Return the photos in a cache by what its shards say; they are not read to their ends."""
    return {photo for file in shard_files(folder) for photo in inspect(file, ()).photos}


def _bytes_each(cache: FeatureCache) -> int:
    """Return the size of a photo's features, with a class token, which not all encoders have."""
    channels, side = cache.encoder.shape[:2]
    return BYTES * channels * (side**2 + 1)
