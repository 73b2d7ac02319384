"""What degraded photos cost as text: what ``declip-pl robustness`` prints when it is done."""

import textwrap

from declip_pl.cross_eval.text_table import aligned
from declip_pl.robustness.robustness import CLEAN, IN, OUT, UNTOUCHED, Robustness

Column = tuple[str, str, str]
"""A heading, a metric and a part of the cells."""

DETECTION, ALARMS, AREA = "image_auroc", "untouched_marked_decided", "untouched_area_decided"


def scores_of(found: Robustness) -> list[Column]:
    """Return what is shown of fakes: IoU by the decision, where all models have one, and AUROC."""
    metric = "iou_decided" if found.clean("iou_decided", OUT) is not None else "iou"
    return [
        (f"{metric} {IN}", metric, IN),
        (f"{metric} {OUT}", metric, OUT),
        (f"AUROC {OUT}", DETECTION, OUT),
    ]


def alarms_of(found: Robustness) -> list[Column]:
    """Return what is shown of untouched photos: how many have a mark, and how much is marked."""
    decided = found.clean(ALARMS, UNTOUCHED) is not None
    names = (ALARMS, AREA) if decided else ("untouched_marked", "untouched_area")
    headings = ("untouched photos marked", "untouched area marked")
    return [(head, name, UNTOUCHED) for head, name in zip(headings, names, strict=True)]


MEANING = (
    "Clean photos: scores in percent, means over cells. Degradations: what is left of a score, "
    "mean over all strengths relative to clean photos; and the highest share of untouched photos "
    "with a mark, and of their area, in percent."
)
"""What the numbers of the table are."""


def robustness_text(found: Robustness) -> str:
    """Return a line for clean photos, and one for each degradation: kept scores, false alarms."""
    return "\n".join([
        "",
        *textwrap.wrap(MEANING, 100),
        "",
        *aligned(lines_of_table(found), left=(0, 1)),
        *(f"{failure.what}: failed ({failure.why})" for failure in found.failed),
        *([found.notice] if found.notice else []),
    ])  # fmt: skip


def lines_of_table(found: Robustness) -> list[list[str]]:
    """Return the table, the head first: clean photos, then the degradations."""
    scores, alarms = scores_of(found), alarms_of(found)
    head = ["degradation", "strengths", *(name for name, *_ in (*scores, *alarms))]
    rows = [head, [CLEAN, "", *(_shown(found.clean(m, p)) for _, m, p in (*scores, *alarms))]]
    for name, values in found.degradations.items():
        kept = [_shown(found.area(metric, part, name), " %") for _, metric, part in scores]
        worst = [_shown(_highest(found, name, column)) for column in alarms]
        rows.append([name, f"{values[0]} to {values[-1]}", *kept, *worst])
    return rows


def _highest(found: Robustness, degradation: str, column: Column) -> float | None:
    values = found.curve(column[1], column[2], degradation)
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _shown(value: float | None, unit: str = "") -> str:
    return "undefined" if value is None else f"{value:.1f}{unit}"
