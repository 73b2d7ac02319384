"""Which photos of a cell are drawn, and drawing them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from declip_pl.cross_eval.columns import Column
from declip_pl.cross_eval.figures import Panel
from declip_pl.files import atomic_path, sha256

PANELS = ("best", "median", "worst")
"""The photos that every cell has drawn."""

SAMPLES = 6
"""How many further photos are drawn: one of each sixth of the photos in the order of their IoU."""


def draw_panels(
    folder: Path,
    cell: tuple[str, str],
    photos: Sequence[str],
    iou: Column,
    draw: Callable[[int], Image.Image],
) -> dict[str, Panel]:
    """Draw the best, the median and the worst photo of a cell, and samples of all the others.

    Args:
        folder: The cross-evaluation's.
        cell: The model's name and the test set's.
        photos: Their names.
        iou: Of each photo in percent, ``[P]``.
        draw: Returns the picture of one of the photos, by its place.
    """
    drawn = {}
    for kind, index in chosen(iou, photos, cell).items():
        # A sample is only looked at in the report; as WebP it takes a fifth of the disk.
        file = Path("panels", *cell, kind + (".png" if kind in PANELS else ".webp"))
        with atomic_path(folder / file) as temporary:
            draw(index).save(temporary, compress_level=1)  # of PNG: a third of the time
        score = None if np.isnan(iou[index]) else float(iou[index])
        drawn[kind] = Panel(str(file), photos[index], score, sha256(folder / file))
    return drawn


def chosen(iou: Column, names: Sequence[str], cell: tuple[str, str]) -> dict[str, int]:
    """Return the places of the photos to draw.

    Samples are drawn by lot, another one for each cell, so that a report shows different photos.

    Args:
        iou: Of each photo, ``[P]``; one without counts as 0.
        names: Of the photos.
        cell: Says which lots are drawn.
    """
    order = [int(place) for place in np.argsort(-np.nan_to_num(iou), kind="stable")]
    kept = dict(zip(PANELS, (order[0], order[len(order) // 2], order[-1]), strict=True))

    def lot(place: int) -> bytes:
        return hashlib.sha256(os.fsencode("\n".join((*cell, names[place])))).digest()

    for number, part in enumerate(np.array_split(order, SAMPLES), 1):
        left = [int(place) for place in part if place not in kept.values()]
        if left:
            kept[f"sample-{number}"] = min(left, key=lot)
    return kept
