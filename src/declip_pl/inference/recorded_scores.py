"""A localizer's scores that are on record: those of its test and of a cross-evaluation.

They are looked up where a model card is written or shown, never to load a localizer.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from declip_pl.errors import UserError
from declip_pl.model.checkpoint import CONFIG_FILE, Checkpoint, run_of
from declip_pl.training.run_folder import RESULTS

KEY = "results"
"""Where a saved folder's ``config.json`` keeps them."""

Scores = Mapping[str, Mapping[str, float]]
"""Percentages by generator and metric."""


@dataclass(frozen=True)
class CrossEvaluation:
    """A localizer's row of a cross-evaluation.

    Attributes:
        thresholds: Best ones on validation photos, for ``pixel`` and ``image``; None where unknown.
        scores: By metric and test set: ``value`` in percent and ``low``, ``high`` of its interval.
    """

    thresholds: Mapping[str, float | None]
    scores: Mapping[str, Mapping[str, Mapping[str, float | None]]]


@dataclass(frozen=True)
class RecordedScores:
    """What is known of how well a localizer does.

    Attributes:
        notice: What everybody who sees the scores has to know, or None.
        scores: Of its test.
        baselines: Of constant answers, by generator, name and metric.
        data: ``root``, the name of the data set that it was tested on, and ``perturbation``, how
            the photos were changed before.
        cross_evaluation: None where it took part in none.
    """

    notice: str | None
    scores: Scores
    baselines: Mapping[str, Scores]
    data: Mapping[str, str]
    cross_evaluation: CrossEvaluation | None = None


def recorded_scores(checkpoint: Checkpoint) -> RecordedScores | None:
    """Return the scores of just this checkpoint, or None where there are none.

    Raises:
        UserError: If the file that should hold them is damaged.
    """
    path = checkpoint.path
    return _of_run(checkpoint) if path.is_file() else _of_saved(path / CONFIG_FILE)


def add_to_config(config: str, scores: RecordedScores) -> str:
    """Return the text of a ``config.json`` with scores added; :func:`recorded_scores` reads it."""
    return json.dumps(json.loads(config) | {KEY: asdict(scores)}, indent=2) + "\n"


def _of_saved(config: Path) -> RecordedScores | None:
    try:
        said = json.loads(config.read_text(encoding="utf-8")).get(KEY)
        if not said:
            return None
        row = said.get("cross_evaluation")
        return RecordedScores(
            notice=said["notice"],
            scores=said["scores"],
            baselines=said["baselines"],
            data=said["data"],
            cross_evaluation=CrossEvaluation(row["thresholds"], row["scores"]) if row else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{config}: its entry {KEY!r} is damaged ({error!r}); delete it") from error


def _of_run(checkpoint: Checkpoint) -> RecordedScores | None:
    run = run_of(checkpoint.path)
    if run is None or not (run / RESULTS).is_file():
        return None
    from declip_pl.training.results import read_results  # imports Lightning

    results = read_results(run / RESULTS)
    if results.checkpoint["sha256"] != checkpoint.sha256:  # last.ckpt, say: it was not tested
        return None
    data = {
        "root": Path(results.data["root"]).name,  # the folders above it are private
        "perturbation": results.data.get("perturbation", "none"),
    }
    row = _cross_evaluation(run.parent.parent / "cross_eval", checkpoint.sha256)
    return RecordedScores(results.notice, results.scores, results.baselines, data, row)


def _cross_evaluation(folder: Path, digest: str) -> CrossEvaluation | None:
    """Return a checkpoint's row of the latest matrix that has one for it alone."""
    files = folder.glob("*/matrix.json")
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            row = _row(json.loads(file.read_text(encoding="utf-8")), digest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a damaged matrix tells nothing of this checkpoint; others may
        if row:
            return row
    return None


def _row(matrix: Any, digest: str) -> CrossEvaluation | None:
    rows = [model["row"] for model in matrix["models"]]
    for model in matrix["models"]:
        row = model["row"]
        alone = rows.count(row) == 1  # seeds share a row, and its figures
        if alone and model["checkpoint_sha256"] == digest:
            scores = {metric: table[row] for metric, table in matrix["matrix"].items()}
            return CrossEvaluation(model["thresholds"], scores)
    return None
