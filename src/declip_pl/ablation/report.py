"""``report.html`` of an ablation."""

from collections.abc import Iterator
from pathlib import Path

from declip_pl.ablation.ablation import FILE, OUT, SPREADSHEET, TEST, Ablation
from declip_pl.ablation.gains import gains_table
from declip_pl.ablation.picture import PICTURE
from declip_pl.ablation.table import DETECTION, PARTS, change_cells, meaning
from declip_pl.cross_eval.views.findings import Findings, write_findings
from declip_pl.cross_eval.views.report import REPORT
from declip_pl.cross_eval.views.tables import Cell, Entry, Table
from declip_pl.metrics import find_metric


def write_report(folder: Path, ablation: Ablation) -> Path:
    """Write the report beside ``ablation.json``, and its tables as LaTeX and Markdown."""
    against, metric = ablation.against, find_metric(ablation.metric).title
    tables = (_means(ablation), _by_test(ablation), gains_table(ablation))
    fixed = "; ".join(f"{name} is {value}" for name, value in ablation.fixed.items())
    return write_findings(folder, Findings(
        kind="Ablation",
        name=ablation.name,
        title=ablation.question,
        lead=f"Variants of {ablation.recipe} on {ablation.data}, each trained and tested on every "
        f"generator" + (f", with {fixed}" if fixed else "") + f"; all compared with {against}.",
        notice=ablation.notice,
        failed=ablation.failed,
        picture=PICTURE,
        alt=f"{metric} of each variant in domain, out of domain and in the worst cell; the first "
        "table has the numbers",
        tables=[table for table in tables if table],
        reports=[(name, f"{name}/{REPORT}") for name in ablation.variants],
        files=(SPREADSHEET, FILE),
        made=ablation.made,
    ))  # fmt: skip


def _means(ablation: Ablation) -> Table:
    metric = find_metric(ablation.metric).title
    head = [
        "variant",
        *PARTS,
        f"image AUROC {OUT}",
        f"change {OUT}",
        "95 % interval",
        "corrected p",
    ]
    return Table(
        name="means",
        title=f"{metric} in percent, means over cells",
        notes=[
            f"Changes are in points, against {ablation.against}.",
            *(f"{sentence}." for sentence in meaning(ablation)),
        ],
        head=head,
        groups=[[_line(ablation, variant) for variant in ablation.variants]],
    )


def _line(ablation: Ablation, variant: str) -> list[Cell]:
    lines = [ablation.find(variant, ablation.metric, part) for part in PARTS]
    detection = ablation.find(variant, DETECTION, OUT)
    scores = [Entry(line.score) if line else "" for line in (*lines, detection)]
    *change, star = change_cells(lines[1].change if lines[1] else None)
    return [variant, *scores, *change[:2], f"{change[2]} {star}".strip()]


def _by_test(ablation: Ablation) -> Table | None:
    parts = sorted(set(_tests(ablation)))
    if not parts:
        return None
    groups = [
        [variant, *(Entry(line.score) if line else "" for line in lines)]
        for variant in ablation.variants
        for lines in ([ablation.find(variant, ablation.metric, part) for part in parts],)
    ]
    return Table(
        name="by-test",
        title=f"{find_metric(ablation.metric).title} out of domain, by test generator",
        notes=["Means over the models that were not trained on that generator."],
        head=["variant", *(part.removeprefix(TEST) for part in parts)],
        groups=[groups],
    )


def _tests(ablation: Ablation) -> Iterator[str]:
    for line in ablation.lines:
        if line.metric == ablation.metric and line.part.startswith(TEST):
            yield line.part
