"""A share of the photos that are encoded, while other machines encode the other shares.

No lock is held, as one on a shared disk may not be seen by other machines. None is needed: every
share writes shards of its own photos, each a whole file under a name that its photos decide.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from declip_pl.data.cache_folders import writing
from declip_pl.data.feature_cache import SHARD, FeatureCache, device_of, tokens_of


def encode_share(
    cache: FeatureCache,
    photos: Sequence[Path],
    number: int,
    of: int,
    device: torch.device,
    hashes: Callable[[Iterable[Path]], Mapping[Path, str]],
) -> int:
    """Encode what the cache lacks of every ``of``-th batch of photos.

    Args:
        cache: Where features are kept.
        photos: The photos of all shares, each once, in the same order for every share.
        number: Which share this is, from 1.
        of: How many there are.
        device: Where the encoder runs.
        hashes: Returns the SHA-256 of each of some files.

    Returns:
        How many photos were encoded.

    Raises:
        UserError: If a photo can't be decoded or changes meanwhile, or the folder can't be written.
    """
    batches = [photos[start : start + SHARD] for start in range(0, len(photos), SHARD)]
    own = batches[number - 1 :: of]
    key_of = hashes([photo for batch in own for photo in batch])
    photo_of = {key: photo for photo, key in key_of.items()}
    there = cache.look_up(photo_of).places
    # Equal files are one photo, which the first batch that has it encodes.
    left = {key: photo for key, photo in photo_of.items() if key not in there}
    wanted = [
        [key_of[photo] for photo in batch if left.get(key_of[photo]) == photo] for batch in own
    ]
    wanted = [keys for keys in wanted if keys]
    if wanted:
        _encode(cache, left, wanted, device)
    return len(left)


def _encode(
    cache: FeatureCache, photos: dict[str, Path], batches: list[list[str]], device: torch.device
) -> None:
    with writing(cache.folder, "features", "finished shards", "Name another (DECLIP_FEATURES=...)"):
        cache.folder.mkdir(parents=True, exist_ok=True)
    cache.begin()
    encoder, home, announced = cache.encoder, device_of(cache.encoder), False
    encoder.to(device)
    try:
        with tqdm(total=len(photos), desc="encoding photos", unit="photo") as bar:
            for keys, pixels in zip(batches, cache.decoded(photos, batches), strict=True):
                tokens = tokens_of(encoder(pixels.to(device)))
                if not announced:
                    cache.announce(len(photos), tokens[0].nbytes)
                    announced = True
                cache.add(keys, tokens)
                bar.update(len(keys))
    finally:
        encoder.to(home)
