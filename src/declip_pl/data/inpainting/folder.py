"""A folder of forged data: what is there is kept, what is missing is made.

``forge.json`` lists all that is finished. While a generator's fakes are made, a hidden journal
beside it takes a line for each photo, from which a run that was killed goes on.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from declip_pl.data.inpainting.photos import Photo
from declip_pl.data.inpainting.picture import UNCHANGED, Plan, Result
from declip_pl.data.inpainting.record import (
    FILE,
    FORMAT,
    About,
    Made,
    Manifest,
    check_about,
    read_manifest,
)
from declip_pl.data.inpainting.workers import Task, results
from declip_pl.errors import UserError
from declip_pl.files import LOCK, file_name, locked, remove_leftovers, sha256, write_text
from declip_pl.records import from_json, to_json, write_json

V = TypeVar("V")

FIRST = 8
"""Photos after which an inpainter that changes nothing is refused."""


class ForgedFolder:
    """Data in the making.

    Args:
        plan: How they are made.
        abouts: What decides on the pixels, for each generator of the plan.
        versions: Of the software.
    """

    def __init__(
        self, plan: Plan, abouts: Mapping[str, About], versions: Mapping[str, str]
    ) -> None:
        self.plan = plan
        self.abouts = dict(abouts)
        self.versions = dict(versions)
        self._journal = plan.root / file_name(f".forge-{'+'.join(abouts)}", ".jsonl")

    def complete(self, tasks: Sequence[Task], workers: int) -> Manifest:
        """Make what is missing and return what the folder holds.

        Finished photos stay when this is killed. Of several processes one makes them and the
        others wait for it.

        Args:
            tasks: The photos, and for each another one where the inpainter takes one.
            workers: Processes; the result does not depend on it.

        Raises:
            UserError: If the folder holds something else, or a picture can't be made.
        """
        root = self.plan.root
        with self._locked():
            manifest = read_manifest(root, self.plan.settings)
            if manifest is None:
                manifest = Manifest(FORMAT, self.plan.settings, {}, {})
                write_json(root / FILE, manifest, indent=1)
            _check_photos(root, manifest, [photo for photo, _ in tasks])
            known = self._known(manifest)
            found = self._whole(known, tasks)
            left = [task for task in tasks if task[0].key not in found]
            if left:
                found |= self._make(left, workers, found, fresh=not known)
            manifest = self._merged(manifest, found, {photo.key for photo, _ in tasks})
            write_json(root / FILE, manifest, indent=1)
            self._journal.unlink(missing_ok=True)
        return manifest

    def _known(self, manifest: Manifest) -> dict[str, Result]:
        """Return what is on record, by split and name.

        Raises:
            UserError: If it was made in another way, or by nobody knows what.
        """
        begun = self._read_journal()
        found: dict[str, Result] = {}
        for generator, about in self.abouts.items():
            folder = self.plan.root / "fake" / generator
            made = manifest.generators.get(generator)
            if not folder.is_dir():  # its user has deleted it
                begun.pop(generator, None)
                continue
            if made:
                check_about(self.plan.root, generator, made.about, about)
                for key, forged in made.fakes.items():
                    result = found.setdefault(key, Result(key, manifest.photos[key], {}))
                    result.fakes[generator] = forged
            if generator in begun:
                there, more = begun[generator]
                check_about(self.plan.root, generator, there, about)
                for result in more:
                    found.setdefault(result.key, result).fakes[generator] = result.fakes[generator]
            elif not made and any(path.is_file() for path in folder.rglob("*")):
                raise UserError(
                    f"{folder} holds something that forge did not make; give this generator "
                    "another name (--name), or move that folder away"
                )
        return found

    def _read_journal(self) -> dict[str, tuple[About, list[Result]]]:
        """Return for each generator how it was begun and what was finished."""
        if not self._journal.is_file():
            return {}
        first, *lines = self._journal.read_text(encoding="utf-8").splitlines() or ["{}"]
        try:
            abouts = {name: from_json(About, said) for name, said in json.loads(first).items()}
        except ValueError:  # killed while the first line was written: nothing was made
            return {}
        made = []
        for line in lines:
            try:
                made.append(from_json(Result, json.loads(line)))
            except ValueError:  # killed while it was written: that photo is made again
                continue
        return {name: (about, made) for name, about in abouts.items()}

    def _whole(self, known: Mapping[str, Result], tasks: Iterable[Task]) -> dict[str, Result]:
        """Return what is on record of these photos and whole on disk."""

        def is_whole(task: Task) -> bool:
            photo, other = task
            result = known.get(photo.key)
            if result is None or result.original.source_sha256 != photo.sha256:
                return False
            if result.fakes.keys() != self.abouts.keys():
                return False
            others = {forged.other for forged in result.fakes.values()}
            return others == {other and other.sha256} and self._is_on_disk(result)

        tasks = list(tasks)
        with ThreadPoolExecutor() as pool:  # hashes are computed outside the interpreter lock
            whole = pool.map(is_whole, tasks)
            pairs = zip(tasks, whole, strict=True)
            return {photo.key: known[photo.key] for (photo, _), good in pairs if good}

    def _is_on_disk(self, result: Result) -> bool:
        expected = {self.plan.real(result.key): result.original.sha256}
        for generator, forged in result.fakes.items():
            expected[self.plan.image(generator, result.key)] = forged.sha256
            expected[self.plan.mask(generator, result.key)] = forged.mask_sha256
        try:
            return all(sha256(path) == digest for path, digest in expected.items())
        except UserError:  # one is missing
            return False

    def _make(
        self, tasks: Sequence[Task], workers: int, found: Mapping[str, Result], fresh: bool
    ) -> dict[str, Result]:
        """Make pictures, with a line in the journal for each photo."""
        self._write_journal(found)
        made: dict[str, Result] = {}
        bar = tqdm(
            results(self.plan, tasks, workers),
            f"forging {' and '.join(self.abouts)}",
            total=len(tasks) + len(found),
            initial=len(found),
            unit="photo",
            disable=None,
        )
        with self._journal.open("a", encoding="utf-8") as journal:
            for result in bar:
                made[result.key] = result
                if result.fakes:
                    journal.write(json.dumps(to_json(result)) + "\n")
                    journal.flush()
                if fresh and len(made) == min(FIRST, len(tasks)):
                    self._check_changes(list(made.values()))
        return made

    def _write_journal(self, found: Mapping[str, Result]) -> None:
        lines = [to_json(self.abouts), *map(to_json, found.values())]
        write_text(self._journal, "".join(json.dumps(line) + "\n" for line in lines))

    def _check_changes(self, made: Sequence[Result]) -> None:
        """Raise a UserError if an inpainter changes nothing where it should, and take all back."""
        fakes = [forged for result in made for forged in result.fakes.values()]
        name = next(iter(self.abouts.values())).inpainter
        fault = ""
        if all(result.left_out == UNCHANGED for result in made):
            fault = f"{name} changed no pixel inside the masks of the first {len(made)} photos"
        elif fakes and "regenerated" in self.plan.generators and not any(f.outside for f in fakes):
            fault = (
                f"{name} changed no pixel outside the masks of the first {len(made)} photos, so "
                "that a regenerated picture is the pasted one; say --outside paste"
            )
        if fault:
            for generator in self.abouts:
                shutil.rmtree(self.plan.root / "fake" / generator, ignore_errors=True)
            self._journal.unlink()
            raise UserError(fault)

    def _merged(
        self, manifest: Manifest, found: Mapping[str, Result], wanted: set[str]
    ) -> Manifest:
        there = self.plan.root / "fake"
        photos = manifest.photos | {key: result.original for key, result in found.items()}
        generators = {n: made for n, made in manifest.generators.items() if (there / n).is_dir()}
        for generator, about in self.abouts.items():
            made = generators.get(generator)
            kept = made.fakes if made else {}
            fakes = {key: forged for key, forged in kept.items() if key not in wanted}
            fakes |= {key: r.fakes[generator] for key, r in found.items() if r.fakes}
            left = {key: r.left_out for key, r in found.items() if r.left_out}
            generators[generator] = Made(about, self.versions, _sorted(fakes), _sorted(left))
        return replace(manifest, photos=_sorted(photos), generators=_sorted(generators))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the folder and keep other processes from writing there."""
        self.plan.root.mkdir(parents=True, exist_ok=True)
        with locked(self.plan.root / LOCK, "forging"):
            remove_leftovers(self.plan.root)
            yield


def _sorted(entries: Mapping[str, V]) -> dict[str, V]:
    return dict(sorted(entries.items()))


def _check_photos(root: Path, manifest: Manifest, photos: Sequence[Photo]) -> None:
    """Raise a UserError if a folder has other photos of these names, or these in other splits."""
    places = {original.source_sha256: key for key, original in manifest.photos.items()}
    for photo in photos:
        there = manifest.photos.get(photo.key)
        if there and there.source_sha256 != photo.sha256:
            raise UserError(
                f"{root} holds another photo called {photo.key} than {photo.path}: name another "
                "folder (--output)"
            )
        if places.get(photo.sha256, photo.key) != photo.key:
            raise UserError(
                f"{root} holds {photo.path} as {places[photo.sha256]} already, and it would be "
                f"{photo.key} now: name another folder (--output)"
            )
