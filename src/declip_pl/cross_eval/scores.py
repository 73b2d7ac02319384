"""The scores of all cells as arrays, photos aligned by name, and the statistics of each cell."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from declip_pl.cross_eval.cell import Cell
from declip_pl.cross_eval.statistics import (
    BINS,
    Array,
    Indices,
    Statistic,
    calibration_error,
    detection,
    image_histogram,
    means_of,
)
from declip_pl.data.layout import REAL
from declip_pl.metrics import THRESHOLD, Metric, Thresholds, map_metrics, untouched_metrics
from declip_pl.model.network import Pooling


class Measure(NamedTuple):
    """What computes some metrics of a row's cells at once.

    Attributes:
        metrics: Of each the test sets that it stands beside, and its name.
        photos: How many photos each is made of.
        statistic: Returns a score for each.
    """

    metrics: tuple[tuple[tuple[str, ...], str], ...]
    photos: tuple[int, ...]
    statistic: Statistic


class Scored(Protocol):
    """A model, or what stands where a model stands."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def row(self) -> str:
        """Its row in the matrix."""

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The generators of its training photos."""


class Scores:
    """The cells of all models.

    Args:
        models: The localizers.
        cells: By model and test set; those that failed are absent.
        thresholds: By model.
        pooling: How an image's score is pooled from its map.
    """

    def __init__(
        self,
        models: Sequence[Scored],
        cells: Mapping[tuple[str, str], Cell],
        thresholds: Mapping[str, Thresholds],
        pooling: Pooling,
    ) -> None:
        self.cells = cells
        self.thresholds = thresholds
        self.pooling = pooling
        rows: dict[str, list[Scored | None]] = {}
        for model in models:
            rows.setdefault(model.row, []).append(model)
        self.seeds = max(len(found) for found in rows.values())
        # A row with fewer seeds than others gets empty ones, which means leave out.
        self.models = {
            row: found + [None] * (self.seeds - len(found)) for row, found in rows.items()
        }
        self.trained_on = {model.row: tuple(model.trained_on) for model in models}
        names = sorted({name for cell in cells.values() for name in cell.photos})
        self.position = {name: index for index, name in enumerate(names)}
        self._places = {
            pair: np.array([self.position[photo] for photo in cell.photos], np.intp)
            for pair, cell in cells.items()
        }

    def found(self, row: str, column: str) -> list[Cell | None]:
        """Return the cells of a row's seeds on a test set, None where one failed."""
        return [self.cells.get((m.name, column)) if m else None for m in self.models[row]]

    def of_maps(self, row: str, test: str, metric: str) -> Array:
        """Return ``[S, P]`` scores of maps in percent, NaN where there is none."""
        return self._table(row, test, lambda cell: cell.scores.get(metric))

    def of_images(self, row: str, test: str) -> Array:
        """Return ``[S, P]`` image scores in [0, 1], NaN where there is none."""
        return self._table(row, test, lambda cell: cell.image_scores.get(self.pooling))

    def pixel_histograms(self, row: str, test: str) -> Array:
        """Return ``[S, P, 3, BINS]``: count, sum of probabilities, count of fakes."""
        table = np.zeros((self.seeds, len(self.position), 3, BINS))
        for counts, (cell, places) in zip(table, self._placed(row, test), strict=True):
            if cell:
                counts[places] = cell.histogram
        return table

    def image_histograms(self, row: str, test: str) -> Array:
        """Return ``[S, P, 3, BINS]``: a photo's fake and its real together."""
        pairs = zip(self.of_images(row, test), self.of_images(row, REAL), strict=True)
        return np.stack(
            [
                image_histogram(fake, np.ones(len(fake)))
                + image_histogram(real, np.zeros(len(real)))
                for fake, real in pairs
            ]
        )

    def marked(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Return which photos have one of some names, ``[P]``."""
        found = np.zeros(len(self.position), bool)
        found[[self.position[name] for name in names if name in self.position]] = True
        return found

    def has_reals(self, row: str) -> bool:
        """Whether a row was scored on any real photo."""
        return count_photos(self.of_images(row, REAL)) > 0

    def measures(self, row: str, tests: Sequence[str]) -> Iterator[Measure]:
        """Yield what computes the metrics of a row; those that nothing defines are left out."""
        for test in tests:
            yield from self._means(row, test, (test,), map_metrics(tuned=True, decided=True))
            histogram = self.pixel_histograms(row, test)
            counted = int(histogram[:, :, 0].any(axis=(0, 2)).sum())
            name = ((test,), "pixel_ece")
            yield Measure((name,), (counted,), calibration_error(histogram))
        if self.has_reals(row):
            yield from self._of_images(row, tests)
            # The metrics of untouched photos are the same beside each test set.
            yield from self._means(row, REAL, tuple(tests), untouched_metrics(decided=True))

    def _means(
        self, row: str, test: str, beside: tuple[str, ...], metrics: Sequence[Metric]
    ) -> Iterator[Measure]:
        """Yield what computes the means over photos of those metrics that any photo has."""
        table = {entry.name: self.of_maps(row, test, entry.name) for entry in metrics}
        counts = {name: count for name, found in table.items() if (count := count_photos(found))}
        if counts:
            scored = means_of(np.stack([table[name] for name in counts]))
            names = tuple((beside, name) for name in counts)
            yield Measure(names, tuple(counts.values()), scored)

    def _of_images(self, row: str, tests: Sequence[str]) -> Iterator[Measure]:
        fakes = np.stack([self.of_images(row, test) for test in tests])
        reals = self.of_images(row, REAL)
        thresholds = {"image_accuracy": [THRESHOLD] * len(reals)}
        if tuned := self._image_thresholds(row):
            thresholds["image_accuracy_tuned"] = tuned
        metrics = ("image_ap", "image_auroc", *thresholds)
        counts = [count_photos(found) + count_photos(reals) for found in fakes]
        yield Measure(
            tuple(((test,), metric) for test in tests for metric in metrics),
            tuple(count for count in counts for _ in metrics),
            detection(fakes, reals, list(thresholds.values())),
        )
        for test, count in zip(tests, counts, strict=True):
            error = calibration_error(self.image_histograms(row, test))
            yield Measure((((test,), "image_ece"),), (count,), error)

    def _image_thresholds(self, row: str) -> list[float] | None:
        """Return the image thresholds of a row's seeds; None unless each has one."""
        chosen = [
            self.thresholds[m.name].image[self.pooling] if m and m.name in self.thresholds
            else THRESHOLD  # nothing was scored
            for m in self.models[row]
        ]  # fmt: skip
        defined = [threshold for threshold in chosen if threshold is not None]
        return defined if len(defined) == len(chosen) else None

    def _table(self, row: str, test: str, column: Callable[[Cell], Array | None]) -> Array:
        table = np.full((self.seeds, len(self.position)), np.nan)
        for scores, (cell, places) in zip(table, self._placed(row, test), strict=True):
            if cell and (found := column(cell)) is not None:
                scores[places] = found
        return table

    def _placed(self, row: str, column: str) -> list[tuple[Cell | None, Indices | None]]:
        """Return the cells of :meth:`found`, each with the places of its photos."""
        keys = [(model.name, column) if model else None for model in self.models[row]]
        return [
            (self.cells.get(key), self._places.get(key)) if key else (None, None) for key in keys
        ]


def count_photos(scores: Array) -> int:
    """Return how many photos have any of ``[S, P]`` scores."""
    return int(np.isfinite(scores).any(axis=0).sum())
