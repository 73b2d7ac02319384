"""What checksums of cached features cost.

    python -m benchmarks.checksums --shards 30

Writes shards of ViT-L/14's size with random numbers and times, in photos a second: reading the
headers alone, reading all shards against their checksums as every look-up of photos does, and one
epoch that does nothing but read the features.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from declip_pl.data.cached_features import CachedFeatures
from declip_pl.data.feature_cache import SHARD
from declip_pl.data.shards import inspect, shard_files, write_shard

TOKENS, CHANNELS, GRID = 257, 1024, 16


def write(folder: Path, shards: int) -> None:
    """Write shards of as many photos as the cache puts into one."""
    for shard in range(shards):
        photos = [f"{shard * SHARD + row:064x}" for row in range(SHARD)]
        write_shard(folder, photos, torch.randn(SHARD, TOKENS, CHANNELS).half())


def look_up(folder: Path, wanted: tuple[str, ...] | None) -> None:
    """Read headers, and of wanted photos (None: all) the whole shards."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(partial(inspect, wanted=wanted), shard_files(folder))
        assert not any(shard.fault for shard in found)


def epoch(folder: Path) -> None:
    """Read every photo's features once, in the order of the disk."""
    places = {
        Path(photo): (path, row)
        for path in shard_files(folder)
        for row, photo in enumerate(inspect(path, ()).photos)
    }
    features = CachedFeatures(places, GRID)
    for photo in places:
        features[photo].grid.contiguous()


def main(args: list[str] | None = None) -> None:
    """Print photos a second, the best of three."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=30)
    shards = parser.parse_args(args).shards
    with tempfile.TemporaryDirectory(prefix="checksums-") as name:
        folder = Path(name)
        write(folder, shards)
        size = sum(path.stat().st_size for path in shard_files(folder)) / shards / 1e6
        print(f"{shards * SHARD} photos in {shards} shards of {size:.0f} MB")
        work: dict[str, Callable[[], None]] = {
            "headers": partial(look_up, folder, ()),
            "checksums": partial(look_up, folder, None),
            "an epoch that only reads": partial(epoch, folder),
        }
        for what, do in work.items():
            best = min(seconds(do) for _ in range(3))
            print(f"{what:<26}{shards * SHARD / best:12,.0f} photos/s")


def seconds(do: Callable[[], None]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
