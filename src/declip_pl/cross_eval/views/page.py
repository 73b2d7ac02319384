"""Pages from templates: what every report shares."""

import os
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from declip_pl.cross_eval.views.heat_map import interval
from declip_pl.cross_eval.views.tables import latex, markdown
from declip_pl.privacy import without_folders


def environment() -> Environment:
    """Return where templates are found, with the filters that their shared parts use."""
    made = Environment(
        loader=PackageLoader("declip_pl.cross_eval.views", "templates"),
        autoescape=True,  # names of generators and photos are names of files: anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "count": _count,
        "percent": percent,
        "interval": interval,
        "address": lambda name: quote(os.fsencode(name)),
        "latex": latex,
        "markdown": markdown,
        "last_part": lambda path: Path(path).name,
        "without_folders": without_folders,
    }
    return made


def _count(number: float) -> str:
    return f"{number:,.0f}"


def percent(number: float | None) -> str:
    """Return a percentage with one decimal."""
    return "undefined" if number is None else f"{number:.1f}"
