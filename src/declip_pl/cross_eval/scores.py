"""The scores of all cells as arrays, photos aligned by name, and the statistics of each cell."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from declip_pl.cross_eval.cell import Cell
from declip_pl.cross_eval.models import Model
from declip_pl.cross_eval.statistics import (
    BINS,
    Array,
    Statistic,
    calibration_error,
    detection,
    image_histogram,
    mean_of_cells,
)
from declip_pl.data.layout import REAL
from declip_pl.metrics import THRESHOLD, Thresholds, map_metrics
from declip_pl.model.network import Pooling


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
        models: Sequence[Model],
        cells: Mapping[tuple[str, str], Cell],
        thresholds: Mapping[str, Thresholds],
        pooling: Pooling,
    ) -> None:
        self.cells = cells
        self.thresholds = thresholds
        self.pooling = pooling
        rows: dict[str, list[Model | None]] = {}
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

    def found(self, row: str, column: str) -> list[Cell | None]:
        """Return the cells of a row's seeds on a test set, None where one failed."""
        return [self.cells.get((m.name, column)) if m else None for m in self.models[row]]

    def of_maps(self, row: str, test: str, metric: str) -> Array:
        """Return ``[S, P]`` scores of maps in percent, NaN where there is none."""
        return self._table(
            [c.scores.get(metric) if c else None for c in self.found(row, test)], row, test
        )

    def of_images(self, row: str, test: str) -> Array:
        """Return ``[S, P]`` image scores in [0, 1], NaN where there is none."""
        found = self.found(row, test)
        return self._table(
            [c.image_scores.get(self.pooling) if c else None for c in found], row, test
        )

    def pixel_histograms(self, row: str, test: str) -> Array:
        """Return ``[S, P, 3, BINS]``: count, sum of probabilities, count of fakes."""
        table = np.zeros((self.seeds, len(self.position), 3, BINS))
        for counts, cell in zip(table, self.found(row, test), strict=True):
            if cell:
                parts = (cell.histogram.count, cell.histogram.probability, cell.histogram.fake)
                counts[self._places(cell)] = np.stack([np.array(p) for p in parts], axis=1)
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

    def has_reals(self, row: str) -> bool:
        """Whether a row was scored on any real photo."""
        return count_photos(self.of_images(row, REAL)) > 0

    def statistics(self, row: str, test: str) -> Iterator[tuple[str, Statistic, int]]:
        """Yield each metric of a cell, what computes it, and of how many photos."""
        for entry in map_metrics(tuned=True):
            scores = self.of_maps(row, test, entry.name)
            if count := count_photos(scores):
                yield entry.name, mean_of_cells(scores[None]), count
        histogram = self.pixel_histograms(row, test)
        counted = int(histogram[:, :, 0].any(axis=(0, 2)).sum())
        yield "pixel_ece", calibration_error(histogram), counted
        if self.has_reals(row):
            yield from self._image_statistics(row, test)

    def _image_statistics(self, row: str, test: str) -> Iterator[tuple[str, Statistic, int]]:
        fakes, reals = self.of_images(row, test), self.of_images(row, REAL)
        count = count_photos(fakes) + count_photos(reals)
        ranked: tuple[Literal["ap", "auroc"], ...] = ("ap", "auroc")
        for name in ranked:
            yield f"image_{name}", detection(name, fakes, reals), count
        fixed, tuned = [THRESHOLD] * len(fakes), self._image_thresholds(row)
        yield "image_accuracy", detection("accuracy", fakes, reals, fixed), count
        if tuned:
            yield "image_accuracy_tuned", detection("accuracy", fakes, reals, tuned), count
        yield "image_ece", calibration_error(self.image_histograms(row, test)), count

    def _image_thresholds(self, row: str) -> list[float] | None:
        """Return the image thresholds of a row's seeds; None unless each has one."""
        chosen = [
            self.thresholds[m.name].image[self.pooling] if m and m.name in self.thresholds
            else THRESHOLD  # nothing was scored
            for m in self.models[row]
        ]  # fmt: skip
        defined = [threshold for threshold in chosen if threshold is not None]
        return defined if len(defined) == len(chosen) else None

    def _table(self, columns: Sequence[list[float | None] | None], row: str, test: str) -> Array:
        table = np.full((self.seeds, len(self.position)), np.nan)
        for scores, column, cell in zip(table, columns, self.found(row, test), strict=True):
            if cell and column is not None:
                scores[self._places(cell)] = np.array(column, dtype=np.float64)  # None becomes NaN
        return table

    def _places(self, cell: Cell) -> list[int]:
        return [self.position[photo] for photo in cell.photos]


def count_photos(scores: Array) -> int:
    """Return how many photos have any of ``[S, P]`` scores."""
    return int(np.isfinite(scores).any(axis=0).sum())
