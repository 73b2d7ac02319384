"""What layouts share that list all photos of a data set once and then share them out to splits."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.folders import Stems, by_stem, subfolders
from declip_pl.data.layout import REAL, SPLITS, Sample, Split, expected
from declip_pl.data.masks import Polarity
from declip_pl.errors import UserError

Sharing = Literal["test", "hashed"]
"""How a set without splits is split: all photos are for testing, or by a hash of the source."""

Placed = tuple[Split | None, Sample]
"""A photo and its split, None where the data set does not tell."""

TEST, HASHED = "test", "hashed"

WHOLE = "none: all photos are test photos (or splits: hashed)"
BY_HASH = "80 : 10 : 10 by a hash of the source photo (or splits: test)"


class ListedLayout:
    """A data set whose photos are listed once.

    Args:
        root: Its folder, or the file that lists it.
        splits: How it is split, if it has no splits of its own; by default :attr:`shared`.

    Attributes:
        facts: What is known of the data set.
        polarity: Which grey value of its masks means fake.
        shared: The default of ``splits``.

    Raises:
        UserError: If the folder is not laid out as expected.
    """

    facts: DataSetFacts
    polarity: Polarity = "white"
    shared: Sharing = "test"

    def __init__(self, root: Path, splits: Sharing | None = None) -> None:
        if splits not in (None, TEST, HASHED):
            raise UserError(f"splits is {splits!r}; expected {TEST} or {HASHED}")
        self.root = root
        self._ignored: list[Path] = []
        self._guesses: list[str] = []
        self._samples = shared_out(self.listed(), splits or self.shared)
        if not any(self._samples.values()):
            raise UserError(f"{root} holds no photo{expected(self)}")

    def listed(self) -> Iterator[Placed]:
        """Yield all photos; what can't be used has a problem and no name."""
        raise NotImplementedError

    def generators(self) -> list[str]:
        """Return the names of the generators, sorted."""
        return sorted({s.generator for part in self._samples.values() for s in part} - {REAL})

    def samples(self, split: Split) -> list[Sample]:
        """Return the photos of a split."""
        return self._samples[split]

    def left_out(self, generators: Sequence[str]) -> list[Path]:
        """Return what lies in the folders of the data set and is no photo."""
        return sorted(self._ignored)

    def notices(self) -> list[str]:
        """Return what had to be guessed, one line each."""
        return self._guesses

    def folder(self, *names: str, inside: Path | None = None) -> Path:
        """Return the first folder of these names below the root, whatever their case.

        Args:
            names: What it may be called.
            inside: Where to look instead.

        Raises:
            UserError: If there is none.
        """
        found = self.find_folder(*names, inside=inside)
        if found is None:
            what = " or ".join(names)
            raise UserError(f"{inside or self.root}: there is no folder {what}{expected(self)}")
        return found

    def find_folder(self, *names: str, inside: Path | None = None) -> Path | None:
        """Return what :meth:`folder` returns, or None."""
        above = inside or self.root
        if not above.is_dir():
            raise UserError(f"{above} is no folder{expected(self)}")
        there = {name.lower(): name for name in subfolders(above)}
        known = [there[name.lower()] for name in names if name.lower() in there]
        return above / known[0] if known else None

    def photos(self, folder: Path, flat: bool = False) -> Stems:
        """Return what :func:`declip_pl.data.folders.by_stem` finds, and note what is left out."""
        found = by_stem(folder, flat)
        self._ignored += found.left_out
        return found

    def reals(self, listed: Stems, source: Callable[[str], str] = str) -> Iterator[Placed]:
        """Yield untouched photos, called as the photo that they are.

        Args:
            listed: The photos.
            source: From a photo's name to the source's.
        """
        for stem, path in listed.photos.items():
            yield None, Sample(source(stem), path, None, REAL, source=source(stem))
        yield from self.unusable(REAL, listed)

    def fakes(
        self,
        generator: str | Callable[[str], str],
        listed: Stems,
        masks: Stems,
        mask: Callable[[str], str],
        source: Callable[[str], str],
        name: Callable[[str], str] | None = None,
    ) -> Iterator[Placed]:
        """Yield forged photos with their masks; without one with that problem.

        Args:
            generator: What made them, or what tells it by a photo's name.
            listed: The photos.
            masks: The masks.
            mask: From a photo's name to its mask's.
            source: From a photo's name to that of the photo that it was made of.
            name: From a photo's name to the sample's; by default the source.
        """
        for stem, path in listed.photos.items():
            made = generator if isinstance(generator, str) else generator(stem)
            there = masks.photos.get(mask(stem))
            problem = None if there else f"{path}: there is no mask {mask(stem)}.*"
            called = (name or source)(stem)
            yield None, Sample(called, path, there, made, problem, source=source(stem))
        yield from self.unusable(generator, listed)

    def unusable(self, generator: str | Callable[[str], str], listed: Stems) -> Iterator[Placed]:
        """Yield the files that can't be used."""
        for path, text in listed.problems:
            made = generator if isinstance(generator, str) else generator(path.stem)
            yield None, Sample("", path, None, made, text, source=path.stem)

    def unused(
        self, generator: str | Callable[[str], str], masks: Stems, used: Iterable[str]
    ) -> Iterator[Placed]:
        """Yield the masks that no photo has, and those that can't be used."""
        for stem in sorted(masks.photos.keys() - set(used)):
            made = generator if isinstance(generator, str) else generator(stem)
            path = masks.photos[stem]
            yield None, Sample("", path, None, made, f"{path}: no photo has this mask", source=stem)
        yield from self.unusable(generator, masks)


def shared_out(photos: Iterable[Placed], splits: Sharing) -> Mapping[Split, list[Sample]]:
    """Return photos by split; of a generator in a split each has a name of its own.

    Of several photos of one name the second is called NAME-2, and so on.
    """
    found: dict[Split, list[Sample]] = {split: [] for split in SPLITS}
    taken: set[tuple[Split, str, str]] = set()
    last: Counter[tuple[Split, str, str]] = Counter()
    for given, sample in photos:
        split = given or ("test" if splits == TEST else hashed_split(sample.source or sample.name))
        key, name = (split, sample.generator, sample.name), sample.name
        while sample.problem is None and (*key[:2], name) in taken:
            last[key] = max(2, last[key] + 1)
            name = f"{sample.name}-{last[key]}"
        taken.add((*key[:2], name))
        found[split].append(replace(sample, name=name))
    return found


def hashed_split(source: str) -> Split:
    """Return the split of all that was made of one photo: 80 % train, 10 % valid, 10 % test."""
    place = int(hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) % 10
    return "test" if place == 0 else "valid" if place == 1 else "train"
