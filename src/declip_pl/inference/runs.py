"""``declip-pl runs``: which runs there are, what they were trained on, and how well they do."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from declip_pl.cross_eval.text_table import aligned
from declip_pl.errors import UserError
from declip_pl.inference.about import about
from declip_pl.model.checkpoint import BEST, read_checkpoint
from declip_pl.training.results_file import Results, read_results
from declip_pl.training.run_folder import CONFIG, LAST, RESULTS, Run

HEAD = ("run", "trained on", "tested on", "IoU", "AUROC", "untouched marked")
"""Columns: percent, means over the test sets; the last one is the share of untouched photos that
the decision marks anywhere, or else a threshold of 0.5."""


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder.

    Attributes:
        folder: Where it is.
        trained_on: Which photos, in words; empty before its first epoch is done.
        results: Of its test; None where it is not finished.
        problem: What is wrong with its files, if anything.
    """

    folder: Path
    trained_on: str = ""
    results: Results | None = None
    problem: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return what a table shows of it, in the order of :data:`HEAD`."""
        tested = self.problem or "not finished"
        if self.results:
            names, root = ", ".join(self.results.scores), Path(self.results.data["root"]).name
            tested = f"{names} of {root}" if names else "nothing"
        marked = ("untouched_marked_decided", "untouched_marked")
        return (
            str(self.folder),
            self.trained_on,
            tested,
            self._mean("iou"),
            self._mean("image_auroc"),
            next(filter(None, map(self._mean, marked)), ""),
        )

    def in_words(self) -> str:
        """Return its scores in words, to choose by."""
        _, _, tested, iou, auroc, _ = self.cells()
        scores = [f"IoU {iou}"] * bool(iou) + [f"AUROC {auroc}"] * bool(auroc)
        notice = " (stand-in)" if self.results and self.results.notice else ""
        return f"{', '.join(scores) or 'no scores'} on {tested}{notice}"

    def _mean(self, metric: str) -> str:
        found = [s[metric] for s in (self.results.scores if self.results else {}).values()
                 if not math.isnan(s.get(metric, math.nan))]  # fmt: skip
        return f"{sum(found) / len(found):.1f}" if found else ""


def runs() -> None:
    """List the runs in outputs/train with their scores, data and notices.

    Raises:
        UserError: If there is none.
    """
    found = all_runs()
    if not found:
        raise UserError(
            f"there is no run in {Run.root}: train one (declip-pl train, make train GEN=ldm)"
        )
    rows = [HEAD, *(run.cells() for run in found)]
    print("\n".join(aligned(rows, left=range(len(HEAD)))))
    notices = dict.fromkeys(run.results.notice for run in found if run.results)
    for notice in filter(None, notices):
        print(notice)


def all_runs() -> list[TrainedRun]:
    """Return all runs in the folder of runs, finished or not, by name."""
    folders = sorted(path for path in Path(Run.root).glob("*") if path.is_dir())
    marks = (CONFIG, LAST, RESULTS, BEST)
    return [_read(folder) for folder in folders if any((folder / mark).exists() for mark in marks)]


def _read(folder: Path) -> TrainedRun:
    run = TrainedRun(folder)
    try:
        if (folder / BEST).is_file():
            run = replace(run, trained_on=about(read_checkpoint(folder)).trained_on)
        if (folder / RESULTS).is_file():
            run = replace(run, results=read_results(folder / RESULTS))
    except UserError as error:
        return replace(run, problem=f"damaged ({error})")
    return run
