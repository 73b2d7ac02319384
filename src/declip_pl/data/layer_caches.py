"""Features of several layers of one encoder by one pass of each photo."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from tqdm import tqdm

from declip_pl.data.feature_cache import FeatureCache, batches_of, device_of, tokens_of
from declip_pl.files import all_sha256
from declip_pl.model.frozen import Encoder


def words_of(layers: Iterable[str]) -> list[str]:
    """Return each layer that is named, alone or joined with others, once."""
    return list(dict.fromkeys(word for layer in layers for word in layer.split("+")))


def fill(
    caches: Sequence[FeatureCache],
    together: Encoder,
    photos: Sequence[Path],
    device: torch.device,
    hashes: Callable[[Iterable[Path]], Mapping[Path, str]] = all_sha256,
) -> None:
    """Encode the photos that any of the caches lacks, once for all of them.

    Finished shards stay when this is killed; later each cache finds its features as always.

    Args:
        caches: Of one encoder at several layers, each perhaps joined of several by ``+``.
        together: The same encoder at all these layers, in the order of :func:`words_of`.
        photos: Image files.
        device: Where the encoder runs meanwhile.
        hashes: Returns the SHA-256 of each of some files.

    Raises:
        UserError: If a photo can't be decoded or changes meanwhile, or a folder can't be written.
    """
    photo_of = {key: photo for photo, key in hashes(photos).items()}
    if not any(_missing(cache, photo_of) for cache in caches):
        return
    with ExitStack() as stack:
        for cache in sorted(caches, key=lambda cache: cache.folder):  # always in the same order
            stack.enter_context(cache.locked())
        missing = [_missing(cache, photo_of) for cache in caches]
        wanted = [key for key in photo_of if any(key in keys for keys in missing)]
        _encode(caches, missing, together, {key: photo_of[key] for key in wanted}, device)


def _missing(cache: FeatureCache, photo_of: Mapping[str, Path]) -> set[str]:
    return photo_of.keys() - cache.look_up(photo_of).places.keys()


def _encode(
    caches: Sequence[FeatureCache],
    missing: Sequence[set[str]],
    together: Encoder,
    photos: dict[str, Path],
    device: torch.device,
) -> None:
    channels = [_channels(cache, together) for cache in caches]
    batches, home, first = batches_of(photos, ()), device_of(together), True
    together.to(device)
    try:
        with tqdm(total=len(photos), desc=f"encoding photos at {len(caches)} layers") as bar:
            for keys, pixels in zip(batches, caches[0].decoded(photos, batches), strict=True):
                tokens = tokens_of(together(pixels.to(device)))
                for cache, lacks, own in zip(caches, missing, channels, strict=True):
                    rows = [row for row, key in enumerate(keys) if key in lacks]
                    part = tokens[rows][:, :, own].contiguous()
                    if first:
                        cache.begin()
                        cache.announce(len(lacks), part[0].nbytes if rows else 0)
                    if rows:
                        cache.add([keys[row] for row in rows], part)
                first = False
                bar.update(len(keys))
    finally:
        together.to(home)


def _channels(cache: FeatureCache, together: Encoder) -> list[int]:
    """Return which of all channels are those of a cache's layers, in its own order."""
    words = together.layer.split("+")
    width = together.shape.channels // len(words)
    starts = [words.index(word) * width for word in cache.encoder.layer.split("+")]
    return [channel for start in starts for channel in range(start, start + width)]
