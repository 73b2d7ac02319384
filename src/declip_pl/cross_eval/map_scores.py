"""Heat maps and masks of a test set as the columns of a cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import cv2
import numpy as np
import torch
from torch import Tensor

from declip_pl.cross_eval.cell import FACTS
from declip_pl.cross_eval.columns import Column
from declip_pl.cross_eval.measured import LEVELS, Curve, PixelCounts
from declip_pl.metrics import (
    THRESHOLDS,
    Metric,
    Thresholds,
    by_size,
    calibration_histogram,
    level_counts,
    localization_scores,
    map_metrics,
    threshold_curves,
    untouched_scores,
)
from declip_pl.parts import code_of
from declip_pl.processes import return_large_blocks

SIZE = "size"
"""Table of :class:`Scored` that holds the photos' widths and heights, ``[B, 2]``."""

PIXELS = "pixels"
"""Table that counts pixels, ``[B, 2, LEVELS]``; of a test set it is the sum, ``[1, 2, LEVELS]``."""


@dataclass(frozen=True)
class Scored:
    """What scoring a test set gives; fields as of :class:`declip_pl.cross_eval.cell.Cell`."""

    photos: list[str]
    scores: dict[str, Column]
    image_scores: dict[str, Column]
    histogram: Column
    curve: Curve
    pixels: PixelCounts | None
    facts: dict[str, Column]

    @classmethod
    def of(cls, photos: list[str], table: Mapping[str, Tensor], is_fake: bool) -> "Scored":
        """Return what was scored.

        Args:
            photos: Their names.
            table: The tables of :func:`score_maps` and :func:`image_tables`, as of :class:`Rows`.
                :data:`SIZE` may be missing, and then there are no facts.
            is_fake: Whether the photos are fakes.
        """
        curves = {
            name: [_number(v) for v in values.double().mean(0).tolist()]
            for name, values in _group(table, "curve/")
        }
        facts: dict[str, Column] = {}
        if is_fake and SIZE in table:
            found = torch.cat([table[SIZE], table["regions"][:, None]], 1)
            facts = dict(zip(FACTS, found.double().T.contiguous().numpy(), strict=True))
        return cls(
            photos,
            scores={name: values.double().numpy() for name, values in _group(table, "scores/")},
            image_scores={k: values.double().numpy() for k, values in _group(table, "image/")},
            histogram=table["histogram"].double().numpy(),
            curve=Curve(list(THRESHOLDS), **curves),
            pixels=PixelCounts(*table[PIXELS][0].long().tolist()) if is_fake else None,
            facts=facts,
        )


class Rows:
    """The tables of a test set, filled batch by batch.

    Each table is one block of memory. Batches that are kept one by one would lie where maps have
    been freed, so that the next maps no longer fit there: a map's size is lost for each photo.

    Args:
        most: How many photos there are at most.
    """

    def __init__(self, most: int) -> None:
        return_large_blocks()
        self._most = most
        self._filled = 0
        self._blocks: dict[str, Tensor] = {}
        self._pixels = torch.zeros(1, 2, LEVELS, dtype=torch.float64)

    def add(self, table: Mapping[str, Tensor]) -> None:
        """Add the tables of some photos, all of the same names."""
        count = len(next(iter(table.values())))
        for name, values in table.items():
            if name == PIXELS:  # whole numbers in float64, whose sum is exact
                self._pixels = self._pixels + values.sum(0, keepdim=True)
                continue
            if name not in self._blocks:
                shape = (self._most, *values.shape[1:])
                self._blocks[name] = torch.empty(shape, dtype=values.dtype)
            self._blocks[name][self._filled : self._filled + count] = values
        self._filled += count

    def table(self) -> dict[str, Tensor]:
        """Return the tables of all photos that were added: a row for each, and of PIXELS one."""
        found = {name: block[: self._filled] for name, block in self._blocks.items()}
        return {**found, PIXELS: self._pixels}


def score_maps(
    probabilities: Tensor, masks: Sequence[Tensor], thresholds: Thresholds, is_fake: bool
) -> dict[str, Tensor]:
    """Score a batch of maps: per photo one row of each table.

    Args:
        probabilities: ``[B, 1, h, w]`` in [0, 1].
        masks: B masks ``[H, W]`` bool, True = fake.
        thresholds: The model's.
        is_fake: Whether the photos are fakes.
    """
    table: dict[str, Tensor] = {}
    for chosen, maps, truth in by_size(probabilities, masks):
        if is_fake:
            scores = localization_scores(maps, truth, thresholds.pixel, thresholds.floor)
        else:
            scores = untouched_scores(maps, thresholds.floor)
        parts = {f"scores/{name}": values for name, values in scores.items()}
        parts |= {f"curve/{k}": v for k, v in threshold_curves(maps, truth).items()}
        parts["histogram"] = calibration_histogram(maps, truth)
        parts[PIXELS] = level_counts(maps, truth, LEVELS)
        parts["regions"] = count_regions(truth)
        for name, values in parts.items():
            empty = values.new_empty(len(masks), *values.shape[1:])
            table.setdefault(name, empty)[chosen] = values
    return table


def image_tables(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tables of image scores, ``[B]`` for each pooling."""
    return {f"image/{pooling}": values for pooling, values in scores.items()}


def count_regions(masks: Tensor) -> Tensor:
    """Count in how many regions the fakes of ``[B, H, W]`` masks lie: ``[B]``.

    Pixels that touch at a corner are in one region.
    """
    found = [cv2.connectedComponents(mask.view(np.uint8))[0] - 1 for mask in masks.cpu().numpy()]
    return torch.tensor(found, dtype=torch.float64)


def metric_identities(thresholds: Thresholds) -> tuple[str, ...]:
    """Return the metrics that score maps with these thresholds: what a cell's key says of them."""
    pixel, floor = thresholds.pixel, thresholds.floor
    return tuple(map(_identity, map_metrics(pixel is not None, floor is not None)))


def _identity(entry: Metric) -> str:
    """Return a metric's name, and a hash of its code if that is a user's own."""
    return ":".join(filter(None, (entry.name, code_of(entry.score))))


def _group(table: Mapping[str, Tensor], prefix: str) -> list[tuple[str, Tensor]]:
    return [(k.removeprefix(prefix), v) for k, v in table.items() if k.startswith(prefix)]


def _number(value: float) -> float | None:
    """Return a figure for JSON, which has no NaN."""
    return None if isnan(value) else float(value)
