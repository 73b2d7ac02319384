"""The cached forgeries of a data set: made once, and kept on disk with what they were made of.

One folder for each data set's name, seed, recipe and autoencoders; in it an image and a mask for
each photo and version. A file's name is a hash of all that decides on its pixels, so that further
photos and versions leave the others as they are. For each choice of photos and versions a manifest
lists the forgeries with the SHA-256 of their files: what differs is made again.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from declip_pl.data.cache_folders import writing
from declip_pl.data.forgeries.forge import RECIPE, forge, left_out
from declip_pl.data.forgeries.kept_autoencoders import autoencoders_of
from declip_pl.data.forgeries.manifest import (
    FORMAT,
    About,
    Forged,
    Manifest,
    read_about,
    read_manifest,
    write_forgery,
)
from declip_pl.data.forgeries.operations import OPERATIONS, Pixels
from declip_pl.data.forgeries.sources import Forgeries, Source, find_sources, index_of
from declip_pl.data.forgeries.views import draw_view
from declip_pl.data.images import read_photo
from declip_pl.data.index import DataIndex
from declip_pl.data.layout import FORGERIES, REAL, Layout, Sample, Split
from declip_pl.data.partners import partners
from declip_pl.errors import UserError
from declip_pl.files import (
    LOCK,
    NAME_BYTES,
    cache_folder,
    locked,
    remove_leftovers,
    sha256,
    shortened,
)
from declip_pl.parts import code_of
from declip_pl.records import json_hash, write_json


class Wanted(NamedTuple):
    """A forgery that is to be there: its file's name, the photo, another one, and the version."""

    name: str
    source: Source
    other: Source
    version: int


class ForgeryFolder:
    """Forgeries on disk.

    Args:
        layout: The data set.
        options: Which photos are forged, and how often.
        index: What is known of photos and forgeries; by default what earlier runs have read.

    Raises:
        UserError: If a photo or folder can't be read, none is left for a split, or what is to be
            left out is not known.
    """

    def __init__(self, layout: Layout, options: Forgeries, index: DataIndex | None = None) -> None:
        self.options = options
        self.index = index or index_of(layout)
        self.sources = find_sources(layout, options.photos, self.index)
        home = forgeries_folder()
        with _writing(home):
            self.autoencoders = autoencoders_of(self.sources, options.seed, home / "autoencoders")
        self._hashes = {name: model.sha256 for name, model in self.autoencoders.items()}
        self._without = left_out(options.without, list(self.autoencoders))
        named = {name: code_of(OPERATIONS.find(name)) for name in OPERATIONS.names()}
        parts = [FORMAT, RECIPE, options.seed, self._hashes, named]
        key = json_hash(parts + ([self._without] if self._without else []))
        place = shortened(layout.root.absolute().name, NAME_BYTES - 17)
        self.folder = home / f"{place}-{key[:16]}"
        self._key = key

    @cached_property
    def manifest(self) -> Manifest:
        """Of all forgeries; see :meth:`complete`."""
        return self.complete()

    def complete(self, workers: int | None = None) -> Manifest:
        """Make what is missing and return the manifest of all.

        Finished forgeries stay when this is killed. Of several processes one makes them and the
        others wait for it.

        Args:
            workers: Threads; by default one for each core. The result does not depend on it.

        Raises:
            UserError: If a photo can't be decoded or changes meanwhile, or the disk is full.
        """
        wanted = self._wanted()
        path = self.folder / f"manifest-{json_hash([item.name for item in wanted])[:16]}.json"
        found = self._look_up(wanted, path)
        if not (path.is_file() and len(found) == len(wanted)):
            with _writing(self.folder), self._locked():
                remove_leftovers(self.folder)
                found = self._look_up(wanted, path)  # another process may have made them meanwhile
                left = [item for item in wanted if item.name not in found]
                found |= self._make_all(left, workers)
                manifest = self._manifest(wanted, found)
                write_json(path, manifest, indent=1)
                return manifest
        return self._manifest(wanted, found)

    def image(self, name: str) -> Path:
        """Return the file of a forgery's pixels."""
        return self.folder / "images" / f"{name}.png"

    def mask(self, name: str) -> Path:
        """Return the file of a forgery's mask, white = forged."""
        return self.folder / "masks" / f"{name}.png"

    def samples(self, split: Split) -> list[list[Sample]]:
        """Return the forgeries of a split, a list for each version, all of the same photos."""
        chosen = [forged for forged in self.manifest.forgeries if forged.split == split]
        return [
            [self._sample(forged) for forged in chosen if forged.version == version]
            for version in range(self.options.versions)
        ]

    def further_photos(self, split: Split) -> list[Sample]:
        """Return the photos of a split that are none of the data set's own, as they are."""
        chosen = [source for source in self.sources if source.further and source.split == split]
        return [Sample(source.photo.stem, source.photo, None, REAL) for source in chosen]

    def _sample(self, forged: Forged) -> Sample:
        name = f"{Path(forged.photo).stem}-{forged.version}"
        mask = self.mask(forged.name) if forged.about.mask_sha256 else None
        return Sample(name, self.image(forged.name), mask, FORGERIES, mask_rule="white")

    def _wanted(self) -> list[Wanted]:
        pairs = list(zip(self.sources, partners(self.sources), strict=True))
        return [
            Wanted(self._name(source, other, version), source, other, version)
            for version in range(self.options.versions)
            for source, other in pairs
        ]

    def _name(self, source: Source, other: Source, version: int) -> str:
        return json_hash([self._key, source.sha256, other.sha256, version])[:32]

    def _manifest(self, wanted: Sequence[Wanted], found: Mapping[str, Forged]) -> Manifest:
        folders = [source.folder for source in self.sources]
        return Manifest(
            format=FORMAT,
            recipe=RECIPE,
            seed=self.options.seed,
            versions=self.options.versions,
            photos={name: folders.count(name) for name in sorted(set(folders))},
            autoencoders=self._hashes,
            forgeries=tuple(found[item.name] for item in wanted),
        )

    def _look_up(self, wanted: Sequence[Wanted], path: Path) -> dict[str, Forged]:
        """Return the forgeries that are there and whole, by name."""
        listed: dict[str, Forged] = {}
        try:
            if path.is_file():
                listed = {forged.name: forged for forged in read_manifest(path).forgeries}
        except ValueError as error:
            print(f"{path} is damaged ({error}); it is made again")
            path.unlink()
        kept = partial(self._kept, listed)
        unread = {item.name for item in wanted if not self._is_known(listed.get(item.name))}
        known = map(kept, [item for item in wanted if item.name not in unread])
        with ThreadPoolExecutor() as pool:  # files are read outside the interpreter lock
            read = pool.map(kept, [item for item in wanted if item.name in unread])
            return {forged.name: forged for forged in chain(known, read) if forged}

    def _is_known(self, forged: Forged | None) -> bool:
        """Return whether the contents of a listed forgery's files are known."""
        files = [self.image(forged.name), self.mask(forged.name)] if forged else []
        if forged and not forged.about.mask_sha256:
            files.pop()
        return bool(files) and all(map(self.index.knows_hash, files))

    def _kept(self, listed: Mapping[str, Forged], item: Wanted) -> Forged | None:
        """Return a forgery if its files are whole; what is known of others is forgotten."""
        image, mask = self.image(item.name), self.mask(item.name)
        if not image.is_file():
            self.index.forget((image, mask))
            return None
        known = listed.get(item.name)
        try:
            about, digest = known.about if known else read_about(image), self.index.sha256(image)
            masked = self.index.sha256(mask) if about.mask_sha256 else None
            if masked == about.mask_sha256 and (known is None or known.sha256 == digest):
                return _forged(item, about, digest)
        except (OSError, ValueError, UserError):
            pass
        print(f"{image} or its mask is damaged: it is made again")
        self.index.forget((image, mask))
        return None

    def _make_all(self, left: Sequence[Wanted], workers: int | None) -> dict[str, Forged]:
        versions: dict[str, list[Wanted]] = {}
        for item in left:
            versions.setdefault(item.source.sha256, []).append(item)
        found: dict[str, Forged] = {}
        bar = tqdm(
            total=len(left), desc="forging photos", unit="photo", disable=None if left else True
        )
        # Threads, as the work is done by libraries that let go of Python's lock.
        with bar, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            try:
                for task in as_completed(pool.submit(self._make, v) for v in versions.values()):
                    made = task.result()
                    found |= {forged.name: forged for forged in made}
                    bar.update(len(made))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return found

    def _make(self, versions: Sequence[Wanted]) -> list[Forged]:
        """Make some versions of one photo."""
        source, other = versions[0].source, versions[0].other
        photo, another = read_photo(source.photo), read_photo(other.photo)
        for read in (source, other):  # after it was decoded, from the kernel's memory
            if sha256(read.photo) != read.sha256:
                raise UserError(
                    f"{read.photo} changed while it was forged; start again, and touch the file "
                    "if that does not help"
                )
        return [self._make_version(item, photo, another) for item in versions]

    def _make_version(self, item: Wanted, photo: Pixels, other: Pixels) -> Forged:
        rng = np.random.default_rng(int(item.name, 16))
        views = [draw_view(pixels, rng, native=item.version % 2 == 0) for pixels in (photo, other)]
        made = forge(views[0], views[1], rng, self.autoencoders, self._without)
        files = self.image(item.name), self.mask(item.name)
        return _forged(item, *write_forgery(made, *files))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the folder and keep other processes from writing there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / LOCK, "forging photos"):
            yield


def forgeries_folder() -> Path:
    """Return the folder of all forgeries and autoencoders."""
    return cache_folder() / "forgeries"


def _forged(item: Wanted, about: About, digest: str) -> Forged:
    source = item.source
    return Forged(
        item.name, source.photo.name, source.sha256, source.split, item.version, digest, about
    )


def _writing(folder: Path) -> AbstractContextManager[None]:
    advice = "Make room, or name another folder for the cache (DECLIP_CACHE=...)"
    return writing(folder, "forgeries", "finished ones", advice)
