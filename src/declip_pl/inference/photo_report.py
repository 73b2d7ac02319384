"""A report on one photo: one page in HTML that needs no script, no network and no other file."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from declip_pl import __version__
from declip_pl.inference.demo_html import REGION_TITLES, marked, region_cells
from declip_pl.inference.demo_look import Look, data_uri, shrunk
from declip_pl.inference.demo_text import LIMITS, NOTHING_MARKED, SCORE
from declip_pl.inference.evidence import sentences
from declip_pl.panels import heat_map

SIDE = 1024
"""Pixels of the longer side of the pictures in it."""

TEMPLATE = "photo_report.html.j2"

DECISIONS = {
    "expected-iou": "the photo's own, of the highest expected IoU",
    "fixed": "the same whatever the photo, or set by hand",
}


class _Figure(NamedTuple):
    """A picture of the report, with its size in pixels."""

    source: str
    width: int
    height: int
    alt: str
    caption: str


def report_html(look: Look) -> str:
    """Return the report on what a model finds in a photo.

    It names the photo's file, the model and their hashes, and no folder of this machine.
    """
    found, about = look.found, look.about
    *told, no_proof = sentences(found.score, found.evidence)
    cells, more = region_cells(found.regions, found.mask.size)
    environment = Environment(
        loader=PackageLoader("declip_pl.inference"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        name=look.photo.name,
        found=found,
        about=about,
        score_words=SCORE,
        verdict=" ".join(told),
        no_proof=no_proof,
        limits=LIMITS,
        marked=marked(found),
        unmarked=NOTHING_MARKED,
        pictures=_figures(look),
        titles=REGION_TITLES,
        regions=cells,
        more=more,
        facts=_facts(look),
    )


def _figures(look: Look) -> list[_Figure]:
    name, found = look.photo.name, look.found
    heat = shrunk(found.heatmap, SIDE)
    figures = [
        _figure(shrunk(found.photo, SIDE), name, "The photo"),
        _figure(
            look.drawn(SIDE),
            f"{name} under its heat map; parts above the threshold have a red line around them",
            "Overlay: the heat map over the photo; red lines around what is above the threshold",
        ),
        _figure(
            heat_map(heat),
            f"Heat map of {name}",
            "Heat map: from black (looks untouched) to yellow (looks generated)",
        ),
        _figure(
            255 * (heat > found.threshold).astype(np.uint8),
            f"Mask of {name}",
            "Mask: white is above the threshold",
        ),
    ]
    if look.photo.truth is not None:
        truth = shrunk(255 * look.photo.truth.astype(np.uint8), SIDE)
        figures.append(_figure(truth, f"True mask of {name}", "True mask: white was changed"))
    return figures


def _figure(pixels: NDArray[np.uint8], alt: str, caption: str) -> _Figure:
    height, width = pixels.shape[:2]
    return _Figure(data_uri(pixels), width, height, alt, caption)


def _facts(look: Look) -> dict[str, Any]:
    found, about = look.found, look.about
    height, width = found.mask.shape
    return {
        "Photo": f"{look.photo.name}, {width} x {height} px",
        "SHA-256 of the file": look.photo.sha256,
        "Model": about.model,
        "SHA-256 of the model": look.model_sha256,
        "Trained on": about.trained_on,
        "Tested on": about.tested_on,
        "Looked at": "overlapping tiles" if look.tiles else "the whole photo",
        "Threshold": f"{found.threshold:.3g} ({DECISIONS[found.decision]})",
        "Made by": f"declip-pl {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
