"""The feature cache: what a frozen encoder sees in a photo is computed once and kept on disk.

One folder for each encoder (by the hash of its weights), layer, input size and preprocessing (with
an augmentation, for each view of the photos); in it shards of at most 64 photos
(:mod:`declip_pl.data.shards`). Photos are known by the SHA-256 of their files, so that a changed
photo is a new one and equal files are encoded once, whatever data set, run or generator they belong
to.

Every time photos are looked up, the shards that they lie in are read once against their checksums.
A damaged shard is named and deleted, and its photos are encoded again. Then shards are read through
a memory map; a GPU can have them preloaded into its own memory.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from declip_pl import parts
from declip_pl.data.cache_folders import GIB, META, features_folder, writing
from declip_pl.data.cached_features import CachedFeatures, Place
from declip_pl.data.images import read_photo
from declip_pl.data.ranks import ALONE, Ranks
from declip_pl.data.shards import (
    FORMAT,
    Shard,
    inspect_all,
    write_shard,
)
from declip_pl.data.transforms import PREPROCESSING, Changes, build_transform, key_of
from declip_pl.errors import UserError
from declip_pl.files import (
    LOCK,
    NAME_BYTES,
    all_sha256,
    locked,
    remove_leftovers,
    sha256,
    shortened,
    write_text,
)
from declip_pl.model.features import Features
from declip_pl.model.frozen import Encoder

SHARD = 64
"""Photos in a shard. They are encoded as one batch, so that a build that was killed and started
again computes the same batches, hence the same bytes."""


class Found(NamedTuple):
    """Where photos lie, by the SHA-256 of their files, and damaged shards that were met."""

    places: dict[str, Place]
    damaged: list[Shard]


class _Plan(NamedTuple):
    """What a build does.

    Attributes:
        there: Photos that are there by now, each with its shard's name and its row there.
        batches: Which others are encoded, and together.
    """

    there: dict[str, tuple[str, int]]
    batches: list[list[str]]


class FeatureCache:
    """Features on disk of one encoder.

    Args:
        encoder: Frozen encoder.
        augmentation: Random changes of each photo after the resize.
        view: Which of the photo's random versions; each is a cache of its own.
        perturbation: Changes of each photo at its own size.
        root: Folder of all caches; by default ``$DECLIP_FEATURES`` or ``features`` in
            ``$DECLIP_CACHE`` (``~/.cache/declip-pl``).
    """

    def __init__(
        self,
        encoder: Encoder,
        augmentation: Changes = "none",
        view: int = 0,
        perturbation: Changes = "none",
        root: Path | None = None,
    ) -> None:
        self.encoder = encoder
        self.augmentation = augmentation
        self.view = view
        self.perturbation = perturbation
        self.meta: dict[str, Any] = {
            "format": FORMAT,
            "encoder": asdict(encoder.identity),
            "preprocessing": {"how": PREPROCESSING, **asdict(encoder.preprocessing)},
        }
        name = f"{encoder.name}-{encoder.layer}-{encoder.preprocessing.image_size}px"
        if augmentation != "none":
            self.meta |= {"augmentation": key_of(augmentation), "view": view}
            name += f"-{_word(augmentation)}{view}"
        if perturbation != "none":
            self.meta |= {"perturbation": key_of(perturbation)}
            name += f"-perturbed-{_word(perturbation)}"
        # Wherever the weights were found, their hash and the arithmetic decide.
        decisive = {k: v for k, v in self.meta["encoder"].items() if k not in ("source", "name")}
        key = parts.as_text({**self.meta, "encoder": decisive})
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        name = shortened(name, NAME_BYTES - len(digest) - 1)  # many layers make it long
        self.folder = (root or features_folder()) / f"{name}-{digest}"

    def fetch(
        self,
        photos: Sequence[Path],
        device: torch.device,
        hashes: Callable[[Iterable[Path]], Mapping[Path, str]] = all_sha256,
        ranks: Ranks = ALONE,
    ) -> CachedFeatures:
        """Return the features of photos; those that are missing are encoded first.

        A build may be killed at any time: finished shards stay. Processes of one run share the
        batches out; of several runs one encodes and the others wait for it. Photos of a damaged
        shard are encoded again.

        Args:
            photos: Image files.
            device: Where the encoder runs meanwhile.
            hashes: Returns the SHA-256 of each of some files.
            ranks: The processes that call this together, for the same photos.

        Raises:
            UserError: If a photo can't be decoded or changes meanwhile, or the folder can't be
                read or written.
        """
        key_of = hashes(photos)
        photo_of = {key: photo for photo, key in key_of.items()}
        places, damaged = self.look_up(photo_of)
        missing = {key: photo for key, photo in photo_of.items() if key not in places}
        if any(ranks.gather(bool(missing))):  # nobody writes before all have looked
            for shard in damaged if ranks.first else ():
                print(f"{shard.path} is damaged ({shard.fault}); its photos are encoded again")
            places |= self._complete(photo_of, missing, device, ranks)
        return CachedFeatures(
            {photo: places[key] for photo, key in key_of.items()}, self.encoder.shape.grid_size
        )

    def look_up(self, keys: Collection[str]) -> Found:
        """Return where photos lie; a damaged shard holds none."""
        found = Found({}, [])
        for shard in inspect_all(self.folder, keys):
            if shard.fault:
                found.damaged.append(shard)
            else:
                rows = enumerate(shard.photos)
                found.places.update({k: (shard.path, row) for row, k in rows if k in keys})
        return found

    def _complete(
        self,
        photo_of: dict[str, Path],
        missing: dict[str, Path],
        device: torch.device,
        ranks: Ranks,
    ) -> dict[str, Place]:
        """Encode missing photos and return where they lie; the folder is locked meanwhile.

        The first process holds the lock and says who encodes what: each every n-th batch, so that
        the shards are those that one process would have written.
        """
        plan = _Plan({}, [])
        with self.locked() if ranks.first else nullcontext():
            if ranks.first:
                plan = self._plan(missing)
            plan = ranks.of_first(plan)
            own = plan.batches[ranks.rank :: ranks.world]
            total = sum(map(len, plan.batches)) if ranks.first else 0
            shards = ranks.gather(self._encode(photo_of, own, device, total))
        places = {key: (self.folder / shard, row) for key, (shard, row) in plan.there.items()}
        for number, batch in enumerate(plan.batches):
            shard = self.folder / shards[number % ranks.world][number // ranks.world]
            places |= {key: (shard, row) for row, key in enumerate(batch)}
        written = {shard for shard, _ in places.values()}
        if places.keys() >= missing.keys() and all(shard.exists() for shard in written):
            return places
        return self._complete(photo_of, missing, device, ALONE)  # the first has another disk

    def _plan(self, missing: dict[str, Path]) -> "_Plan":
        """Return what is to be encoded; what a killed build left is deleted."""
        places, damaged = self.look_up(missing)  # another process may have encoded them meanwhile
        left = [key for key in missing if key not in places]
        with _writing(self.folder):
            remove_leftovers(self.folder)
            for shard in damaged:
                shard.path.unlink()
        there = {key: (shard.name, row) for key, (shard, row) in places.items()}
        return _Plan(there, batches_of(left, damaged))

    def _encode(
        self, photos: dict[str, Path], batches: list[list[str]], device: torch.device, said: int
    ) -> list[str]:
        """Encode photos and return the names of the shards of their batches.

        Args:
            photos: By the SHA-256 of their files.
            batches: Which of them are encoded here, and together.
            device: Where.
            said: How many photos all processes encode; 0 where another process says so.
        """
        shards: list[str] = []
        if not batches:
            return shards
        self.begin()
        encoder = self.encoder
        home = device_of(encoder)
        encoder.to(device)
        own = sum(map(len, batches))
        bar = tqdm(total=own, desc="encoding photos", unit="photo", disable=not said)
        try:
            for keys, pixels in zip(batches, self.decoded(photos, batches), strict=True):
                tokens = tokens_of(encoder(pixels.to(device)))
                if said and not shards:
                    self.announce(said, tokens[0].nbytes)
                shards.append(self.add(keys, tokens).name)
                bar.update(len(tokens))
        finally:
            bar.close()
            encoder.to(home)
        return shards

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes from writing there."""
        with ExitStack() as stack:
            with _writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder / LOCK, "encoding photos"))
            yield

    def begin(self) -> None:
        """Say in the folder whose features it holds."""
        with _writing(self.folder):
            write_text(self.folder / META, json.dumps(self.meta, indent=2) + "\n")

    def add(self, keys: Sequence[str], tokens: Tensor) -> Path:
        """Write photos' features and return their shard; the folder is locked meanwhile.

        Args:
            keys: SHA-256 of each photo's file.
            tokens: As of :func:`tokens_of`.
        """
        with _writing(self.folder):
            return write_shard(self.folder, keys, tokens)

    def decoded(self, photos: dict[str, Path], batches: list[list[str]]) -> Iterator[Tensor]:
        """Yield photos in batches, ``[B, 3, S, S]`` normalised, one batch ahead."""

        def read(key: str) -> Tensor:
            transform = build_transform(
                self.encoder.preprocessing, self.augmentation, self.perturbation
            )
            # The photo and the view alone decide, so that a rebuilt shard has the same bytes.
            transform.set_random_seed(int(key[:8], 16) + self.view)
            pixels: Tensor = transform(image=read_photo(photos[key]))["image"]
            if sha256(photos[key]) != key:  # read after it was decoded, from the kernel's memory
                raise UserError(
                    f"{photos[key]} changed while it was encoded; start again, and touch the file "
                    "if that does not help"
                )
            return pixels

        with ThreadPoolExecutor() as pool:  # PIL decodes and resizes outside the interpreter lock
            ahead = pool.map(read, batches[0])
            for following in [*batches[1:], []]:
                batch = list(ahead)
                ahead = pool.map(read, following)
                yield torch.stack(batch)

    def announce(self, photos: int, bytes_each: int) -> None:
        """Say how much is going to be written, or that it is too much."""
        needed, free = photos * bytes_each, shutil.disk_usage(self.folder).free
        sizes = f"{needed / GIB:.2f} GiB for {photos} photos, {free / GIB:.1f} GiB are free"
        if needed > free:
            raise UserError(
                f"features do not fit into {self.folder}: {sizes}; name another folder "
                "(DECLIP_FEATURES=...) or go without them (--data.cache false)"
            )
        tqdm.write(f"features: {self.folder}: {sizes}")


def _word(changes: Changes) -> str:
    return changes if isinstance(changes, str) else f"{len(changes)}-changes"


def _writing(folder: Path) -> AbstractContextManager[None]:
    advice = (
        "Make room, name another folder (DECLIP_FEATURES=...) or go without them "
        "(--data.cache false)"
    )
    return writing(folder, "features", "finished shards", advice)


def batches_of(keys: Iterable[str], damaged: Iterable[Shard]) -> list[list[str]]:
    """Return which photos are encoded together: those of a damaged shard as they were before."""
    left = dict.fromkeys(keys)
    batches = []
    for shard in damaged:
        again = [key for key in dict.fromkeys(shard.photos) if key in left]
        left = {key: None for key in left if key not in again}
        batches.append(again)
    others = list(left)
    batches += [others[start : start + SHARD] for start in range(0, len(others), SHARD)]
    return [batch for batch in batches if batch]


def device_of(encoder: Encoder) -> torch.device:
    """Return where an encoder's weights are."""
    weight = next(encoder.parameters(), None)  # some encoders have no weights
    return torch.device("cpu") if weight is None else weight.device


def tokens_of(features: Features) -> Tensor:
    """Return ``[B, tokens, C]`` fp16 on the CPU, the class token first where there is one."""
    tokens = features.grid.flatten(2).transpose(1, 2)
    if features.cls is not None:
        tokens = torch.cat([features.cls[:, None], tokens], dim=1)
    stored = tokens.half().cpu().contiguous()
    if not stored.isfinite().all():
        raise UserError(
            "features are too large for fp16; go without the cache (--data.cache false)"
        )
    return stored
