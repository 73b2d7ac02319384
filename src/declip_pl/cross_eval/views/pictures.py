"""The drawn photos of a cross-evaluation, small enough to stand inside the report."""

import base64
import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from declip_pl.cross_eval.matrix import Matrix
from declip_pl.panels import HEIGHT

KINDS = ("best", "median", "worst")

_TILE = 200  # px, the height of each of a panel's four pictures in the page
_QUALITY = 72  # of WebP: about 20 kB a panel


class Picture(NamedTuple):
    """A photo's panel; ``source`` is a data URI, None where the file is missing or damaged."""

    kind: str
    photo: str
    iou: float | None
    file: str
    source: str | None
    size: tuple[int, int]


def pictures_of(matrix: Matrix, row: str, folder: Path) -> dict[str, list[Picture]]:
    """Return a row's pictures by test generator.

    Args:
        matrix: The cross-evaluation.
        row: One of its rows.
        folder: Where its panels are.
    """
    cells = matrix.panels.get(row, {})
    return {
        column: [
            Picture(kind, panel.photo, panel.iou, panel.file, *_data_uri(folder / panel.file))
            for kind in KINDS
            if (panel := cells[column].get(kind))
        ]
        for column in matrix.columns
        if column in cells
    }


def _data_uri(path: Path) -> tuple[str | None, tuple[int, int]]:
    """Return a panel as a small WebP and its size, None where it is missing or damaged.

    Its four pictures stand two by two, so that a phone shows them.
    """
    try:
        with Image.open(path) as opened:
            panel = opened.convert("RGB")
    except OSError:  # missing, or not a picture
        return None, (0, 0)
    top, side = panel.height - HEIGHT, panel.width // 4  # the titles are written by the page
    width = round(_TILE * side / HEIGHT)
    small = Image.new("RGB", (2 * width + 2, 2 * _TILE + 2), "white")
    for index in range(4):
        box = (index * side, top, (index + 1) * side, panel.height)
        tile = panel.resize((width, _TILE), Image.Resampling.LANCZOS, box)
        small.paste(tile, ((index % 2) * (width + 2), (index // 2) * (_TILE + 2)))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/webp;base64,{encoded}", small.size
