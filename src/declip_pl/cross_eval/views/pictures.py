"""The drawn photos of a cross-evaluation, small enough to stand inside the report."""

import base64
import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from declip_pl.cross_eval.drawing import PANELS
from declip_pl.cross_eval.matrix import Matrix
from declip_pl.panels import HEIGHT

MOST_EMBEDDED = 240
"""Pictures inside the page, about 27 kB each; further ones are links to the files beside it."""

_TILE = 200  # px, the height of each of a panel's four pictures in the page
_QUALITY = 72  # of WebP: about 20 kB a panel


class Picture(NamedTuple):
    """A photo's panel.

    Attributes:
        id: Its own in the page.
        kind: ``best``, ``median``, ``worst`` or a ``sample-...``.
        photo: Name of the photo.
        iou: In percent; None where it is not defined.
        file: Of the panel, from the cross-evaluation's folder.
        source: A data URI; None where the file is missing or damaged, or :attr:`linked`.
        size: Of the picture in pixels.
        linked: Whether the page has no room for it.
    """

    id: str
    kind: str
    photo: str
    iou: float | None
    file: str
    source: str | None
    size: tuple[int, int]
    linked: bool


def pictures_of(
    matrix: Matrix, folder: Path, most: int = MOST_EMBEDDED
) -> dict[str, dict[str, list[Picture]]]:
    """Return all pictures by row and test generator.

    Where there are more than ``most``, samples are linked first, and the worst photos last.

    Args:
        matrix: The cross-evaluation.
        folder: Where its panels are.
        most: How many are embedded.
    """
    there = [
        (row, column, kind)
        for row, cells in matrix.panels.items()
        for column in matrix.columns
        for kind in sorted(cells.get(column, {}), key=_rank)
    ]
    embedded = set(sorted(there, key=lambda place: _rank(place[2], first="worst"))[:most])
    found: dict[str, dict[str, list[Picture]]] = {}
    for number, place in enumerate(there, 1):
        row, column, kind = place
        panel = matrix.panels[row][column][kind]
        source, size = _data_uri(folder / panel.file) if place in embedded else (None, (0, 0))
        picture = Picture(
            f"picture-{number}", kind, panel.photo, panel.iou, panel.file, source, size,
            place not in embedded,
        )  # fmt: skip
        found.setdefault(row, {}).setdefault(column, []).append(picture)
    return found


def _rank(kind: str, first: str = PANELS[0]) -> tuple[int, str]:
    if kind == first:
        return -1, kind
    return PANELS.index(kind) if kind in PANELS else len(PANELS), kind


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
