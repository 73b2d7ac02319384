"""The report of what several cross-evaluations say together: an ablation's, a robustness run's."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from declip_pl.cross_eval.matrix import Failure, Made
from declip_pl.cross_eval.views.page import environment
from declip_pl.cross_eval.views.report import REPORT
from declip_pl.cross_eval.views.tables import Table, write_tables
from declip_pl.files import write_text

TEMPLATE = "findings.html.j2"


@dataclass(frozen=True)
class Findings:
    """What a report shows.

    Attributes:
        kind: What it is of, in a word or two.
        name: Of its folder.
        title: Its heading.
        lead: What was done, in a sentence or two.
        notice: What everyone who sees a score must know; None if nothing.
        failed: The parts that failed.
        picture: Name of the picture in the folder.
        alt: What the picture shows, in words.
        tables: Of scores.
        reports: The cross-evaluations' names, and their reports from the folder.
        files: Names of the files with all numbers.
        made: How it came about.
    """

    kind: str
    name: str
    title: str
    lead: str
    notice: str | None
    failed: Sequence[Failure]
    picture: str
    alt: str
    tables: Sequence[Table]
    reports: Sequence[tuple[str, str]]
    files: Sequence[str]
    made: Made


def write_findings(folder: Path, findings: Findings) -> Path:
    """Write ``report.html`` and the tables as LaTeX and Markdown; return the page's path.

    The page is one file: style and picture are inside, nothing is loaded from elsewhere.
    """
    picture = folder / findings.picture
    encoded = base64.b64encode(picture.read_bytes()).decode()
    with Image.open(picture) as opened:
        width = opened.width
    write_tables(folder, findings.tables)
    page = (
        environment()
        .get_template(TEMPLATE)
        .render(m=findings, picture=f"data:image/png;base64,{encoded}", width=width, metrics=())
    )
    write_text(folder / REPORT, page)
    return folder / REPORT
