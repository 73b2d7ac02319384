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
    """What computes some metrics of a cell at once.

    Attributes:
        metrics: Their names.
        photos: How many photos each is made of.
        statistic: Returns a score for each.
    """

    metrics: tuple[str, ...]
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
        self._of_reals: tuple[str, list[Measure]] = "", []

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

    def measures(self, row: str, test: str) -> Iterator[Measure]:
        """Yield what computes the metrics of a cell; those that nothing defines are left out."""
        yield from self._means(row, test, map_metrics(tuned=True, decided=True))
        histogram = self.pixel_histograms(row, test)
        counted = int(histogram[:, :, 0].any(axis=(0, 2)).sum())
        yield Measure(("pixel_ece",), (counted,), calibration_error(histogram))
        if self.has_reals(row):
            yield from self._of_images(row, test)
            yield from self._untouched(row)

    def _untouched(self, row: str) -> list[Measure]:
        """Return what computes the metrics of untouched photos, the same beside each test set."""
        if self._of_reals[0] != row:
            found = self._means(row, REAL, untouched_metrics(decided=True))
            self._of_reals = row, list(found)
        return self._of_reals[1]

    def _means(self, row: str, test: str, metrics: Sequence[Metric]) -> Iterator[Measure]:
        """Yield what computes the means over photos of those metrics that any photo has."""
        table = {entry.name: self.of_maps(row, test, entry.name) for entry in metrics}
        counts = {name: count_photos(scores) for name, scores in table.items()}
        names = tuple(name for name, count in counts.items() if count)
        if names:
            scored = means_of(np.stack([table[name] for name in names]))
            yield Measure(names, tuple(counts[name] for name in names), scored)

    def _of_images(self, row: str, test: str) -> Iterator[Measure]:
        fakes, reals = self.of_images(row, test), self.of_images(row, REAL)
        count = count_photos(fakes) + count_photos(reals)
        thresholds = {"image_accuracy": [THRESHOLD] * len(fakes)}
        if tuned := self._image_thresholds(row):
            thresholds["image_accuracy_tuned"] = tuned
        names = ("image_ap", "image_auroc", *thresholds)
        ranked = detection(fakes, reals, list(thresholds.values()))
        yield Measure(names, (count,) * len(names), ranked)
        yield Measure(("image_ece",), (count,), calibration_error(self.image_histograms(row, test)))

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
