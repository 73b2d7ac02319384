"""A method that is known by its heat maps alone: a folder of them, one for each test photo."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from declip_pl.cross_eval.heat_maps import Localized, TestSet
from declip_pl.cross_eval.map_names import (
    Photo,
    content_of,
    in_short,
    map_files,
    photos_by_name,
    stem_of,
)
from declip_pl.cross_eval.matrix import ChosenThresholds, GivenMaps, ScoredModel
from declip_pl.csv_files import read_csv
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.images import upright_size
from declip_pl.data.layout import REAL, Sample, find_samples
from declip_pl.data.map_files import SUFFIXES, checked_score, has_score, read_map
from declip_pl.data.masks import Polarity
from declip_pl.errors import UserError
from declip_pl.files import sha256
from declip_pl.metrics import Thresholds
from declip_pl.model.network import POOLINGS, map_score
from declip_pl.names import check_name
from declip_pl.records import json_hash

PHOTO, SCORE = "photo", "score"
"""Columns of a table of photos' scores."""

KIND = "heat maps"
"""What such a method is called where models are told apart by their networks."""


@dataclass(frozen=True)
class MapOptions:
    """How other methods' maps are read.

    Args:
        scores: Of maps: table of the photos' own scores in CSV, with the columns photo and score.
            By default those inside the maps' files (score in NPZ), or else pooled from the maps.
        map_polarity: Of maps: which values mean fake, white (high ones) or black (low ones).
        resize: Of maps: bring those of another size than their photo to it, bilinearly.
        partial: Of maps: leave out photos that have no map.
    """

    scores: Path | None = None
    map_polarity: Polarity = "white"
    resize: bool = False
    partial: bool = False


@dataclass(frozen=True)
class MapFolder:
    """Heat maps of a data set's test photos, made by another method.

    Attributes:
        folder: Where they are.
        row: What the matrix calls the method.
        options: How they are read.
        files: The map of each photo that has one.
        missing: How many photos have none.
        content: Hash of all maps in the folder.
        own_scores: The photos' scores that a table gives; None without one.
    """

    folder: Path
    row: str
    options: MapOptions
    files: Mapping[Photo, Path]
    missing: int
    content: str
    own_scores: Mapping[Photo, float] | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.absolute().name

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Nothing: a map does not say what its method was trained on."""
        return ()

    @property
    def seed(self) -> int:
        """There is one, whatever the method's was."""
        return 0

    @property
    def kind(self) -> tuple[str, ...]:
        """That it is known by its maps."""
        return (KIND,)

    @cached_property
    def sha256(self) -> str:
        """Hash of the maps and of how they are read."""
        scores = self.options.scores and sha256(self.options.scores)
        return json_hash([self.content, scores, self.options.map_polarity, self.options.resize])

    @property
    def thresholds(self) -> Thresholds:
        """None were chosen."""
        return Thresholds(None, dict.fromkeys(POOLINGS))

    @property
    def pooling(self) -> None:
        """A map does not say how it is pooled."""
        return

    @cached_property
    def scores_inside(self) -> bool:
        """Whether all maps' files have their photos' own scores.

        Raises:
            UserError: If only some have.
        """
        there = [has_score(path) for path in self.files.values()]
        if any(there) and not all(there) and self.own_scores is None:
            raise UserError(
                f"{self.folder}: {sum(there)} of {len(there)} maps have a score in their file; "
                "give all scores in a table (--scores)"
            )
        return all(there) and self.own_scores is None

    def in_row(self, row: str) -> Self:
        """Return the same under another row's name."""
        return replace(self, row=row)

    def described(self, chosen: ChosenThresholds) -> ScoredModel:
        """Return what a matrix says of it."""
        scores = "pooled from the maps"
        if self.options.scores:
            scores = self.options.scores.name
        elif self.scores_inside:
            scores = "in the maps' files"
        said = GivenMaps(
            len(self.files), self.missing, self.content, self.options.map_polarity,
            self.options.resize, scores,
        )  # fmt: skip
        texts = dict.fromkeys(("encoder", "encoder_source", "layer", "decoder", "supervision"), "")
        return ScoredModel(
            name=self.name, row=self.row, trained_on=(), seed=0, image_size=0, **texts,
            checkpoint=self.folder.absolute().name, checkpoint_sha256=self.sha256,
            thresholds=chosen, maps=said,
        )  # fmt: skip

    def covers(self, test: TestSet) -> bool:
        """Return whether any photo of a set has a map."""
        return any((test.name, sample.name) in self.files for sample in test.data.samples)

    def of_photos(self, test: TestSet) -> Iterator[Localized]:
        """Yield the heat maps of a set's photos, one at a time and at their own sizes."""
        for place, sample in enumerate(tqdm(test.data.samples, f"scoring on {test.name}",
                                            leave=False, disable=None)):  # fmt: skip
            if (test.name, sample.name) not in self.files:
                continue
            heat, score = self._of(test, sample)
            probabilities = torch.from_numpy(heat)[None, None]
            own = None if score is None else torch.tensor([score])
            yield Localized(
                probabilities,
                {p: map_score(probabilities, p) if own is None else own for p in POOLINGS},
                [self._mask(test, place, heat)],
                torch.tensor([float(sample.mask is not None)]),
                [sample.name],
                [place],
            )

    def of_photo(self, test: TestSet, place: int) -> NDArray[np.float32]:
        """Return the heat map of one photo."""
        return self._of(test, test.data.samples[place])[0]

    def check(self, tests: Sequence[TestSet]) -> None:
        """Read all maps of some sets once, before any is scored.

        Raises:
            UserError: If any can't be used; the first are named.
        """
        wanted = [(test, s) for test in tests for s in test.data.samples
                  if (test.name, s.name) in self.files]  # fmt: skip
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda pair: self._checked(*pair), wanted)
            checked = list(tqdm(found, f"reading {self.name}", len(wanted), False, disable=None))
        if problems := [text for text, _ in checked if text]:
            named = in_short(problems, "; ")
            raise UserError(f"{len(problems)} of {len(wanted)} maps can't be used: {named}")
        highest = max((high for _, high in checked if high is not None), default=None)
        if highest == 1:
            raise UserError(
                f"{self.folder}: no map has a level above 1, where 255 (of 16 bits 65535) means "
                "fake: save masks with that, or as bool arrays"
            )

    def _checked(self, test: TestSet, sample: Sample) -> tuple[str, int | None]:
        """Return what is wrong with a map, if anything, and its highest level."""
        path = self.files[test.name, sample.name]
        try:
            found = read_map(path, self.options.map_polarity)
            size = found.probabilities.shape[::-1]
            photo = upright_size(sample.image)
            allowed = {photo} | ({upright_size(sample.mask)} if sample.mask else set())
        except UserError as error:
            return str(error), None
        if size in allowed or self.options.resize:
            return "", found.highest
        turned = " (turned: EXIF says how the photo stands)" if size == photo[::-1] else ""
        return (
            f"{path}: {_px(size)}{turned}, its photo has {_px(photo)} (--resize enlarges or "
            "shrinks it)"
        ), None

    def _of(self, test: TestSet, sample: Sample) -> tuple[NDArray[np.float32], float | None]:
        """Return a photo's map and, where it has one, its own score."""
        photo = (test.name, sample.name)
        found = read_map(self.files[photo], self.options.map_polarity)
        if self.own_scores is not None:
            return found.probabilities, self.own_scores[photo]
        return found.probabilities, found.score if self.scores_inside else None

    def _mask(self, test: TestSet, place: int, heat: NDArray[np.float32]) -> torch.Tensor:
        if test.name == REAL:  # nothing is fake, at whatever size
            return torch.zeros(heat.shape, dtype=torch.bool)
        return test.data.mask(place)


def read_map_folder(folder: Path, options: MapOptions, data: LocalizationDataModule) -> MapFolder:
    """Find the heat map of each test photo.

    A map is called like its photo: ``<generator>/<name>``, ``<name>`` where no two test photos
    share it, or like the photo's file below the data set's folder; with or without the photo's own
    suffix. A folder of the data set's name inside the folder comes first.

    Args:
        folder: Where the maps are.
        options: How they are read.
        data: The data set.

    Raises:
        UserError: If photos have no map, two maps are called alike, or there is none.
    """
    check_name(folder.absolute().name, "the name of a folder of maps")
    if not any(map_files(folder)):
        raise UserError(
            f"there is no localizer at {folder}, and no heat map ({', '.join(SUFFIXES)})"
        )
    own = folder / data.root.name
    base = own if own.is_dir() and any(map_files(own)) else folder
    names = [*data.generators, *([REAL] if data.has_reals else [])]
    photos = {(s.generator, s.name): s for s in find_samples(data.layout, "test", *names)[0]}
    named = photos_by_name(photos, data.root)
    files: dict[Photo, Path] = {}
    others = []
    for path in sorted(map_files(base)):
        photo = named.get(stem_of(path.relative_to(base).as_posix()))
        if photo is None:
            others.append(path.relative_to(folder).as_posix())
        elif photo in files:
            raise UserError(f"{path} and {files[photo]} are maps of one photo; leave one of them")
        else:
            files[photo] = path
    _check_found(folder, photos, files, options)
    if others:
        print(f"{folder}: {len(others)} files are called like no test photo: {in_short(others)}")
    scores = _read_scores(options.scores, named, files) if options.scores else None
    missing = len(photos) - len(files)
    name = folder.absolute().name
    return MapFolder(folder, name, options, files, missing, content_of(folder), scores)


def _check_found(
    folder: Path, photos: Mapping[Photo, Sample], files: Mapping[Photo, Path], options: MapOptions
) -> None:
    missing = ["/".join(photo) for photo in photos if photo not in files]
    if missing and not files:
        examples = in_short([f"{name}{SUFFIXES[0]}" for name in missing])
        raise UserError(
            f"{folder} holds no localizer, and no map of any of {len(photos)} test photos, such as "
            f"{examples} (or {', '.join(SUFFIXES[1:])})"
        )
    if missing and not options.partial:
        raise UserError(
            f"{folder}: the map of {len(missing)} of {len(photos)} test photos is missing: "
            f"{in_short(missing)} (--partial scores the others, --generator one generator's)"
        )
    if missing:
        print(f"{folder}: {len(missing)} of {len(photos)} test photos have no map and are left out")


def _read_scores(
    path: Path, named: Mapping[str, Photo], files: Mapping[Photo, Path]
) -> dict[Photo, float]:
    """Return the photos' scores that a table gives.

    Raises:
        UserError: If it lacks a column or the score of a photo that has a map, names one twice, or
            has a score outside [0, 1]; the line is named.
    """
    found: dict[Photo, float] = {}
    for line, row in read_csv(path):
        where = f"{path}, line {line}"
        if PHOTO not in row or SCORE not in row:
            raise UserError(
                f"{path}: expected the columns {PHOTO} and {SCORE}; found {in_short(row)}"
            )
        photo = named.get(stem_of(row[PHOTO]))
        if photo in found:
            raise UserError(f"{where}: {row[PHOTO]} is there twice")
        if photo:
            found[photo] = checked_score(row[SCORE], where)
    if lacking := ["/".join(photo) for photo in files if photo not in found]:
        raise UserError(f"{path}: no score of {len(lacking)} photos: {in_short(lacking)}")
    return found


def _px(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} px"
