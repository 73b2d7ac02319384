"""An ablation as text: what ``declip-pl ablate`` prints when it is done."""

from declip_pl.ablation.ablation import IN, OUT, WORST, Ablation, Change
from declip_pl.cross_eval.compare import SIGNIFICANT
from declip_pl.cross_eval.matrix import Score
from declip_pl.cross_eval.statistics import RESAMPLES
from declip_pl.cross_eval.text_table import aligned

DETECTION = "image_auroc"

PARTS = (IN, OUT, WORST)
"""Of the cells: the means that are shown."""


def ablation_text(ablation: Ablation) -> str:
    """Return the means of all variants, what changes out of domain, and what the numbers mean."""
    metric, notice = ablation.metric, ablation.notice
    head = ["variant", *PARTS, f"{DETECTION} {OUT}", "change", "95 % interval", "corrected p", ""]
    rows = [head, *(_row(ablation, variant) for variant in ablation.variants)]
    return "\n".join([
        "",
        f"{ablation.question}",
        f"{metric} in percent, means over cells; change {OUT}, in points, against "
        f"{ablation.against}",
        "",
        *aligned(rows, left=(0,)),
        "",
        *meaning(ablation),
        *(f"{failure.what.partition(':')[0]}: left out ({failure.why})"
          for failure in ablation.failed),
        *([notice] if notice else []),
    ])  # fmt: skip


def meaning(ablation: Ablation) -> list[str]:
    """Return what intervals and p-values mean, one thing in each line."""
    seeds = f" and {ablation.seeds} seeds" if ablation.seeds > 1 else (
        "; of one seed, so it does not say that other trainings would differ"
    )  # fmt: skip
    return [
        f"*: corrected p below {SIGNIFICANT}",
        f"Interval: 95 %, percentile bootstrap ({RESAMPLES} resamples) over photos{seeds}",
        "Corrected p: two-sided sign-flip permutation test over photos, Holm's method",
    ]


def shown(score: Score | None) -> str:
    """Return a score with one decimal."""
    return "undefined" if score is None or score.value is None else f"{score.value:.1f}"


def change_cells(change: Change | None) -> tuple[str, str, str, str]:
    """Return a change, its interval, its p-value and a star where that is small."""
    if change is None:
        return "", "", "", ""
    interval = "undefined"
    if change.low is not None and change.high is not None:
        interval = f"[{change.low:+.1f}, {change.high:+.1f}]"
    p = change.corrected
    text = "undefined" if p is None else f"{p:.3f}" if p >= 0.0005 else "<0.001"  # noqa: PLR2004
    star = "*" if p is not None and p < SIGNIFICANT else ""
    return f"{change.value:+.1f}", interval, text, star


def _row(ablation: Ablation, variant: str) -> list[str]:
    lines = [ablation.find(variant, ablation.metric, part) for part in PARTS]
    detection = ablation.find(variant, DETECTION, OUT)
    scores = [line.score if line else None for line in (*lines, detection)]
    return [variant, *map(shown, scores), *change_cells(lines[1].change if lines[1] else None)]
