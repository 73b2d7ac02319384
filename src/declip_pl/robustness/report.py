"""``report.html`` of models on degraded photos."""

from pathlib import Path

from declip_pl.cross_eval.views.findings import Findings, write_findings
from declip_pl.cross_eval.views.report import REPORT
from declip_pl.cross_eval.views.tables import Cell, Table
from declip_pl.robustness.picture import PICTURE
from declip_pl.robustness.robustness import CLEAN, FILE, OUT, SPREADSHEET, Robustness
from declip_pl.robustness.table import MEANING, lines_of_table, scores_of


def write_report(folder: Path, found: Robustness) -> Path:
    """Write the report beside ``robustness.json``, and its tables as LaTeX and Markdown."""
    rows = ", ".join(found.rows)
    strengths = [(CLEAN, f"{CLEAN}/{REPORT}")]
    strengths += [
        (f"{name} {value}", f"{name}/{value}/{REPORT}")
        for name, values in found.degradations.items()
        for value in values
    ]
    return write_findings(folder, Findings(
        kind="Robustness",
        name=found.name,
        title="What is left on degraded photos",
        lead=f"Models trained on {rows}, tested on photos of {found.data} that were compressed, "
        "resized, blurred or sent around.",
        notice=found.notice,
        failed=found.failed,
        picture=PICTURE,
        alt="Scores and false alarms against the strength of each degradation; the tables have the "
        "numbers",
        tables=[_kept(found), _by_row(found)],
        reports=strengths,
        files=(SPREADSHEET, FILE),
        made=found.made,
    ))  # fmt: skip


def _kept(found: Robustness) -> Table:
    head, *lines = lines_of_table(found)
    return Table(
        name="kept", title="What is left of each score, and false alarms", notes=[MEANING],
        head=head, groups=[lines[:1], lines[1:]], words=2,
    )  # fmt: skip


def _by_row(found: Robustness) -> Table:
    """Return what is left of each row's score out of domain."""
    _, metric, part = scores_of(found)[1]
    lines: list[list[Cell]] = []
    for row in found.rows:
        kept = [found.area(metric, part, name, row) for name in found.degradations]
        clean = found.clean(metric, part, row)
        lines.append([row, *("" if v is None else f"{v:.1f}" for v in (clean, *kept))])
    return Table(
        name="by-training",
        title=f"{metric} {OUT}, by what was trained on",
        notes=[
            "Clean photos in percent; degradations: what is left, mean over all strengths relative "
            "to clean photos."
        ],
        head=["trained on", CLEAN, *found.degradations],
        groups=[lines],
    )
