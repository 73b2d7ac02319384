"""What the page of ``declip-pl demo`` shows of a photo, as HTML."""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from declip_pl.inference.demo_look import Look, data_uri, shrunk
from declip_pl.inference.demo_text import (
    NOT_LOOKED_AT,
    NOTHING_MARKED,
    SCORE,
    SHOWN_REGIONS,
    UNMARKED,
    WIPE_LEGEND,
)
from declip_pl.inference.evidence import sentences
from declip_pl.inference.localization import Localization, Region
from declip_pl.panels import heat_map

REGION_TITLES = ("left, top", "width x height", "share of the photo", "mean heat")


def score_html(name: str, found: Localization) -> str:
    """Return a photo's name, its score, what it is held against, and how much is marked."""
    *told, no_proof = sentences(found.score, found.evidence)
    unmarked = f'<p class="unmarked"><b>{NOTHING_MARKED}</b> {UNMARKED}</p>'
    return (
        f'<h2 class="name">{escape(name)}</h2>'
        f'<p><span class="score">{found.score:.2f}</span><br>{SCORE}</p>'
        f"<p><b>{escape(no_proof)}</b></p><p>{escape(' '.join(told))}</p>"
        f"<p>{marked(found)}</p>" + (unmarked if found.below_floor else "")
    )


def marked(found: Localization) -> str:
    """Return in a sentence how much of a photo is above the threshold."""
    height, width = found.mask.shape
    share = found.mask.mean()
    return f"{share:.1%} of the photo ({width} x {height} px) is above the threshold."


def stage_html(look: Look) -> str:
    """Return the photo, and over its right part the overlay.

    How far the overlay reaches and how large both are, the page's sliders say (``--wipe``,
    ``--zoom``). Gradio's own ``ImageSlider`` can't be moved by keys, has no text for those who
    don't see it, and takes the mouse's wheel from whoever scrolls by.
    """
    photo, name = shrunk(look.found.photo), escape(look.photo.name)
    height, width = photo.shape[:2]
    parts = len(look.found.regions)
    found = f"{parts} part{'s' if parts != 1 else ''} of it outlined in red"
    return (
        f'<figure class="stage" style="--ratio: {width / height:.4f}">'
        f'<div class="window" tabindex="0" role="group" aria-label="Photo and overlay">'
        f'<div class="pair"><img src="{data_uri(photo)}" alt="The photo {name}">'
        f'<img class="over" src="{data_uri(look.drawn())}" '
        f'alt="Overlay: {name} under its heat map, {found}"></div></div>'
        f"<figcaption>{WIPE_LEGEND}</figcaption></figure>"
    )


def heat_html(look: Look) -> str:
    """Return the heat map, and the true mask beside it where there is one."""
    name = escape(look.photo.name)
    figures = [_figure(heat_map(shrunk(look.found.heatmap)), f"Heat map of {name}", "Heat map")]
    if look.photo.truth is not None:
        truth = shrunk(255 * look.photo.truth.astype(np.uint8))
        alt = f"True mask of {name}: {look.photo.truth.mean():.1%} of it was changed"
        figures.append(_figure(truth, alt, "True mask: white was changed"))
    return f'<div class="figures">{"".join(figures)}</div>'


def regions_html(regions: Sequence[Region], pixels: int) -> str:
    """Return the largest regions as a table.

    Args:
        regions: Largest first.
        pixels: Of the photo.
    """
    if not regions:
        return "<p>No part of the photo is above the threshold.</p>"
    rows, more = region_cells(regions, pixels)
    head = "".join(f'<th scope="col">{title}</th>' for title in REGION_TITLES)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    table = (
        '<table class="regions"><caption>Parts above the threshold, in pixels of the photo'
        f"</caption><tr>{head}</tr>{body}</table>"
    )
    return table + (f"<p>and {more} smaller ones</p>" if more else "")


def region_cells(regions: Sequence[Region], pixels: int) -> tuple[list[tuple[str, ...]], int]:
    """Return the cells of the largest regions, and how many are left out.

    Args:
        regions: Largest first.
        pixels: Of the photo.
    """
    rows: list[tuple[str, ...]] = [
        (
            f"{left}, {top}",
            f"{right - left} x {bottom - top}",
            f"{area / pixels:.1%}",
            f"{probability:.2f}",
        )
        for (left, top, right, bottom), area, probability in regions[:SHOWN_REGIONS]
    ]
    return rows, len(regions) - len(rows)


def errors_html(errors: Iterable[str]) -> str:
    """Return which photos could not be looked at and why."""
    lines = "".join(f"<p>{escape(error)}</p>" for error in errors)
    return f'<div class="problem" role="alert"><p><b>{NOT_LOOKED_AT}</b></p>{lines}</div>'


def progress_html(done: int, total: int, left: str) -> str:
    """Return how many tiles of how many were looked at, and how long the rest takes."""
    return (
        f'<label class="tiles"><progress value="{done}" max="{total}"></progress> '
        f"tile {done} of {total}{escape(left)}</label>"
    )


def _figure(pixels: NDArray[np.uint8], alt: str, caption: str) -> str:
    return (
        f'<figure><img src="{data_uri(pixels)}" alt="{alt}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
