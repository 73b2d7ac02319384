"""A localizer's scores that are on record: those of its test and of a cross-evaluation.

They are looked up where a model card is written or shown, never to load a localizer.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from declip_pl.cross_eval.estimates import Score
from declip_pl.cross_eval.matrix import (
    UNPERTURBED,
    ChosenThresholds,
    Matrix,
    readable_matrices,
)
from declip_pl.errors import UserError
from declip_pl.model.checkpoint import CONFIG_FILE, SCORES, Checkpoint, run_of
from declip_pl.records import from_json, to_json
from declip_pl.training.results_file import read_results
from declip_pl.training.run_folder import RESULTS

Scores = dict[str, float]
"""Percentages by metric, without those that are not defined."""


@dataclass(frozen=True)
class CrossEvaluation:
    """A localizer's row of a cross-evaluation.

    Attributes:
        thresholds: Best ones on validation photos.
        scores: By metric and test set.
        data: Name of the data set; empty where it is not on record.
        notice: What everybody who sees the scores has to know, or None.
    """

    thresholds: ChosenThresholds
    scores: dict[str, dict[str, Score]]
    data: str = ""
    notice: str | None = None


@dataclass(frozen=True)
class ScoredOn:
    """The photos of a test.

    Attributes:
        root: Name of the data set.
        perturbation: How the photos were changed before.
    """

    root: str
    perturbation: str = UNPERTURBED


@dataclass(frozen=True)
class RecordedScores:
    """What is known of how well a localizer does.

    Attributes:
        scores: Of its test, by generator.
        baselines: Of constant answers, by generator and name.
        data: What it was tested on.
        notice: What everybody who sees the scores has to know, or None.
        cross_evaluations: Of each data set the latest, by the data set's name.
    """

    scores: dict[str, Scores]
    baselines: dict[str, dict[str, Scores]]
    data: ScoredOn
    notice: str | None = None
    cross_evaluations: tuple[CrossEvaluation, ...] = ()


def recorded_scores(checkpoint: Checkpoint) -> RecordedScores | None:
    """Return the scores of just this checkpoint, or None where there are none.

    Raises:
        UserError: If the file that should hold them is damaged.
    """
    path = checkpoint.path
    return _of_run(checkpoint) if path.is_file() else _of_saved(path / CONFIG_FILE)


def add_to_config(config: str, scores: RecordedScores) -> str:
    """Return the text of a ``config.json`` with scores added; :func:`recorded_scores` reads it."""
    return json.dumps(json.loads(config) | {SCORES: to_json(scores)}, indent=2) + "\n"


def _of_saved(config: Path) -> RecordedScores | None:
    try:
        said = json.loads(config.read_text(encoding="utf-8")).get(SCORES)
        return None if said is None else from_json(RecordedScores, _upgraded(said), SCORES)
    except (OSError, ValueError) as error:
        raise UserError(f"{config}: its scores are damaged ({error}); delete {SCORES!r}") from error


def _upgraded(said: Any) -> Any:
    """Return scores in today's shape: version 0.1 kept one cross-evaluation."""
    if not isinstance(said, dict) or "cross_evaluations" in said:
        return said
    one = said.get("cross_evaluation")
    return said | {"cross_evaluations": [] if one is None else [one]}


def _of_run(checkpoint: Checkpoint) -> RecordedScores | None:
    run = run_of(checkpoint.path)
    if run is None or not (run / RESULTS).is_file():
        return None
    results = read_results(run / RESULTS)
    if results.checkpoint["sha256"] != checkpoint.sha256:  # last.ckpt, say: it was not tested
        return None
    root = Path(results.data["root"]).name  # the folders above it are private
    tested = ScoredOn(root, results.data.get("perturbation", UNPERTURBED))
    rows = _cross_evaluations(run.parent.parent / "cross_eval", checkpoint.sha256)
    scores = {name: _defined(found) for name, found in results.scores.items()}
    baselines = {
        generator: {name: _defined(found) for name, found in answers.items()}
        for generator, answers in results.baselines.items()
    }
    return RecordedScores(scores, baselines, tested, results.notice, rows)


def _defined(scores: Scores) -> Scores:
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def _cross_evaluations(folder: Path, digest: str) -> tuple[CrossEvaluation, ...]:
    """Return a checkpoint's rows of readable matrices: of each data set the latest.

    Only of those that have a row for it alone.
    """
    found: dict[str, CrossEvaluation] = {}
    for _, matrix in readable_matrices(folder):
        if row := _row(matrix, digest):
            found.setdefault(matrix.data.root, row)
    return tuple(sorted(found.values(), key=lambda row: row.data))


def _row(matrix: Matrix, digest: str) -> CrossEvaluation | None:
    if matrix.perturbation != UNPERTURBED:
        return None
    rows = [model.row for model in matrix.models]
    for model in matrix.models:
        # Seeds share a row, and its figures.
        if rows.count(model.row) == 1 and model.checkpoint_sha256 == digest:
            scores = {metric: table.get(model.row, {}) for metric, table in matrix.matrix.items()}
            return CrossEvaluation(model.thresholds, scores, matrix.data.name, matrix.notice)
    return None
