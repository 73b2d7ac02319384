"""The feature cache: what a frozen encoder sees in a photo is computed once and kept on disk.

One folder for each encoder (by the hash of its weights), layer, input size and preprocessing (with
an augmentation, for each view of the photos); in it shards of at most 64 photos, safetensors files
of ``[n, tokens, C]`` fp16. Photos are known by the SHA-256 of their files, so that a changed photo
is a new one and equal files are encoded once, whatever data set, run or generator they belong to.

Shards are read through a memory map; a GPU can have them preloaded into its own memory.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from declip_pl import parts
from declip_pl.data.images import read_photo
from declip_pl.data.transforms import PREPROCESSING, Changes, build_transform, key_of
from declip_pl.errors import UserError
from declip_pl.files import atomic_path, cache_folder, expanded, sha256, write_text
from declip_pl.model.features import Features
from declip_pl.model.frozen import Encoder

SHARD = 64
"""Photos in a shard. They are encoded as one batch, so that a build that was killed and started
again computes the same batches, hence the same bytes."""

FORMAT = 2
"""Raise it with any change to what a shard holds."""

META, LOCK = "meta.json", ".lock"
GIB = 2**30


class CachedFeatures:
    """Read-only features of photos, by path; nothing is loaded before it is asked for.

    Args:
        places: For each photo its shard and its row there.
        grid_size: Side of the feature map.
    """

    def __init__(self, places: Mapping[Path, tuple[Path, int]], grid_size: int) -> None:
        self.places = dict(places)
        self.grid_size = grid_size
        self._shards: dict[Path, Any] = {}

    def __getitem__(self, photo: Path) -> Features:
        """Return fp16 features of one photo: grid ``[C, h, w]``, class token ``[C]`` or None.

        Raises:
            UserError: If the cache was deleted meanwhile.
        """
        shard, row = self.places[photo]
        if shard not in self._shards:
            self._shards[shard] = _open(shard).get_slice("tokens")
        return _features(self._shards[shard][row], self.grid_size)

    @property
    def nbytes(self) -> int:
        """Size of all shards that the photos lie in."""
        return sum(shard.stat().st_size for shard in self._used())

    def preload(self, device: torch.device) -> None:
        """Put the shards into a device's memory; features come from there from now on.

        On a CPU they stay a memory map, all of which the kernel may keep in memory.

        Raises:
            UserError: If the cache was deleted meanwhile.
        """
        self._shards = {
            shard: _open(shard).get_tensor("tokens").to(device) for shard in self._used()
        }

    def unload(self) -> None:
        """Free what :meth:`preload` took; features are read from the disk again."""
        self._shards = {}

    def _used(self) -> list[Path]:
        return sorted({shard for shard, _ in self.places.values()})

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out of what is sent to other processes."""
        return self.__dict__ | {"_shards": {}}


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
        self.folder = (root or features_folder()) / f"{name}-{digest}"

    def fetch(self, photos: Sequence[Path], device: torch.device) -> CachedFeatures:
        """Return the features of photos; those that are missing are encoded first.

        A build may be killed at any time: finished shards stay. Of several processes one
        encodes and the others wait for it.

        Args:
            photos: Image files.
            device: Where the encoder runs meanwhile.

        Raises:
            UserError: If a photo can't be decoded, the disk is too small, or a shard is damaged.
        """
        with ThreadPoolExecutor() as pool:
            key_of = dict(zip(photos, pool.map(sha256, photos), strict=True))
        photo_of = {key: photo for photo, key in key_of.items()}
        index = self._index()
        if not photo_of.keys() <= index.keys():
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / LOCK):
                known = self._index()  # another process may have encoded them meanwhile
                missing = {k: photo for k, photo in photo_of.items() if k not in known}
                self._encode(missing, device)
            index = self._index()
        places = {photo: index[key] for photo, key in key_of.items()}
        return CachedFeatures(places, self.encoder.shape.grid_size)

    def _index(self) -> dict[str, tuple[Path, int]]:
        """Return shard and row of every photo that is there, by the SHA-256 of its file."""
        return {
            key: (shard, row)
            for shard in _shards(self.folder)
            for row, key in enumerate(_keys(shard))
        }

    def _encode(self, missing: dict[str, Path], device: torch.device) -> None:
        if not missing:
            return
        for leftover in self.folder.glob(".*.safetensors"):  # of a build that was killed
            leftover.unlink()
        write_text(self.folder / META, json.dumps(self.meta, indent=2) + "\n")
        keys = list(missing)
        encoder = self.encoder
        home = _device_of(encoder)
        encoder.to(device)
        bar = tqdm(total=len(keys), desc="encoding photos", unit="photo")
        try:
            for index, pixels in enumerate(self._decoded(missing)):
                tokens = _tokens(encoder(pixels.to(device)))
                if index == 0:
                    self._announce(len(keys), tokens[0].nbytes)
                self._write(keys[index * SHARD : (index + 1) * SHARD], tokens)
                bar.update(len(tokens))
        finally:
            bar.close()
            encoder.to(home)

    def _decoded(self, photos: dict[str, Path]) -> Iterator[Tensor]:
        """Yield photos in batches of one shard, ``[B, 3, S, S]`` normalised, one batch ahead."""

        def read(item: tuple[str, Path]) -> Tensor:
            transform = build_transform(
                self.encoder.preprocessing, self.augmentation, self.perturbation
            )
            # The photo and the view alone decide, so that a rebuilt shard has the same bytes.
            transform.set_random_seed(int(item[0][:8], 16) + self.view)
            pixels: Tensor = transform(image=read_photo(item[1]))["image"]
            return pixels

        items = list(photos.items())
        with ThreadPoolExecutor() as pool:  # PIL decodes and resizes outside the interpreter lock
            ahead = pool.map(read, items[:SHARD])
            for start in range(SHARD, len(items) + SHARD, SHARD):
                batch = list(ahead)
                ahead = pool.map(read, items[start : start + SHARD])
                yield torch.stack(batch)

    def _announce(self, photos: int, bytes_each: int) -> None:
        """Say how much is going to be written, or that it is too much."""
        needed, free = photos * bytes_each, shutil.disk_usage(self.folder).free
        sizes = f"{needed / GIB:.2f} GiB for {photos} photos, {free / GIB:.1f} GiB are free"
        if needed > free:
            raise UserError(
                f"features do not fit into {self.folder}: {sizes}; name another folder "
                "(DECLIP_FEATURES=...) or go without them (--data.cache false)"
            )
        tqdm.write(f"features: {self.folder}: {sizes}")

    def _write(self, keys: Sequence[str], tokens: Tensor) -> None:
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        try:
            with atomic_path(self.folder / f"{name}.safetensors") as temporary:
                save_file({"tokens": tokens}, temporary, {"photos": json.dumps(keys)})
        except (OSError, SafetensorError) as error:
            if shutil.disk_usage(self.folder).free > tokens.nbytes:
                raise
            raise UserError(
                f"the disk is full: {self.folder} ({os.strerror(errno.ENOSPC)}); finished shards "
                "stay. Make room or name another folder (DECLIP_FEATURES=...)"
            ) from error


def features_folder() -> Path:
    """Return the folder of all feature caches."""
    named = os.environ.get("DECLIP_FEATURES")
    return Path(expanded(named)) if named else cache_folder() / "features"


def caches() -> list[Path]:
    """Return the folders of all feature caches on this machine, sorted by name."""
    return sorted(meta.parent for meta in features_folder().glob(f"*/{META}") if _is_ours(meta))


def describe(folder: Path) -> str:
    """Return a cache's name, its photos, its size on disk and whose features it holds."""
    shards = _shards(folder)
    size = sum(shard.stat().st_size for shard in shards)
    encoder = json.loads((folder / META).read_text(encoding="utf-8"))["encoder"]
    try:
        photos = f"{sum(len(_keys(shard)) for shard in shards)} photos"
    except UserError as error:
        photos = str(error)
    return f"{folder.name}: {photos}, {size / GIB:.2f} GiB, encoder from {encoder['source']}"


def delete(folder: Path) -> None:
    """Delete a cache; what is needed again is encoded again.

    Raises:
        UserError: If a process is encoding into it.
    """
    try:
        with FileLock(folder / LOCK, timeout=0):
            shutil.rmtree(folder)
    except Timeout as error:
        raise UserError(f"{folder} is being written by another process") from error


def _word(changes: Changes) -> str:
    return changes if isinstance(changes, str) else f"{len(changes)}-changes"


def _is_ours(meta: Path) -> bool:
    """Whether a file describes a cache; others may keep a ``meta.json`` of theirs beside it."""
    try:
        return {"format", "encoder", "preprocessing"} <= set(json.loads(meta.read_bytes()))
    except (OSError, ValueError, TypeError):
        return False


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.safetensors"))  # a hidden one is half written


def _open(shard: Path) -> Any:
    try:
        return safe_open(shard, "pt")
    except FileNotFoundError as error:
        raise UserError(f"{shard} is gone: was the cache deleted? Start again") from error


class _locked(FileLock):  # noqa: N801 - used as a function
    """A lock that says whom it waits for."""

    def __enter__(self) -> "_locked":
        try:
            self.acquire(timeout=0)
        except Timeout:
            print(f"another process is encoding photos ({self.lock_file}); waiting for it")
            self.acquire()
        return self


def _device_of(encoder: Encoder) -> torch.device:
    weight = next(encoder.parameters(), None)  # some encoders have no weights
    return torch.device("cpu") if weight is None else weight.device


def _tokens(features: Features) -> Tensor:
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


def _features(tokens: Tensor, grid_size: int) -> Features:
    """Undo :func:`_tokens` for one photo, ``[tokens, C]``."""
    cls, patches = tokens[: -(grid_size**2)], tokens[-(grid_size**2) :]
    grid = patches.view(grid_size, grid_size, -1).permute(2, 0, 1)
    return Features(grid, cls[0] if len(cls) else None)


def _keys(shard: Path) -> list[str]:
    """Return the photos of a shard; none if it was deleted a moment ago."""
    try:
        with safe_open(shard, "pt") as opened:
            keys: list[str] = json.loads(opened.metadata()["photos"])
            return keys
    except FileNotFoundError:
        return []
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{shard} is damaged ({error}); delete it, it is made anew") from error
