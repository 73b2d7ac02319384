"""A finished cross-evaluation as a W&B run of its own, beside its training runs."""

import logging
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import wandb

from declip_pl.cross_eval.drawing import PANELS
from declip_pl.cross_eval.matrix import FILE, TABLE, Matrix, Score, Summary, read_matrix
from declip_pl.cross_eval.measured import Panel
from declip_pl.cross_eval.photos import finished_cells, photo_table
from declip_pl.files import command, relative, shortened
from declip_pl.metrics import find_metric
from declip_pl.records import to_json
from declip_pl.training.run_folder import MOST
from declip_pl.training.wandb_runs import (
    private_settings,
    wandb_id,
    wandb_mode,
    wandb_options,
    wandb_place,
)

JOB_TYPE = "cross-eval"
MATRIX_COLUMNS = ("train", "test", "metric", "value", "ci_low", "ci_high", "n", "in_domain")
MEAN_COLUMNS = ("metric", "mean", "of", "value", "ci_low", "ci_high", "n")


def track(folder: Path, checkpoints: Mapping[str, Path]) -> list[str]:
    """Log a finished cross-evaluation to W&B.

    The run stands in the project and group of its training runs and answers to the same config
    keys; where several values met, it holds them all, as in ``generator: "ldm, lama"``. It gets
    the matrix, all means and every photo's scores as tables, the means of a few metrics in its
    summary, the pictures, the report,
    and, where W&B is online, the checkpoints as artifacts. Logging a folder again continues its
    run.

    Args:
        folder: A cross-evaluation, with its ``matrix.json``, ``cells`` and ``panels``.
        checkpoints: Where the models lie on this machine, by name.

    Returns:
        Lines that say how to look at the run, or why there is none; no lines where W&B is disabled.
    """
    matrix = read_matrix(folder)
    try:
        return _log(
            folder, matrix, checkpoints, *photo_table(lambda: finished_cells(folder, matrix))
        )
    except Exception as error:  # whatever W&B stumbles over, the evaluation is done and on disk
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return [f"W&B: this cross-evaluation was not logged ({reason}); its files are in {folder}"]


def matrix_rows(matrix: Matrix) -> list[list[Any]]:
    """Return one row of :data:`MATRIX_COLUMNS` for each metric, training row and test column.

    ``in_domain`` is None where the training data are not on record.
    """
    return [
        [train, test, metric, *map(_number, (score.value, score.low, score.high)), score.n,
         matrix.is_in_domain(train, test) if matrix.is_on_record(train) else None]
        for metric, rows in matrix.matrix.items()
        for train, cells in rows.items()
        for test, score in cells.items()
    ]  # fmt: skip


def mean_rows(matrix: Matrix) -> list[list[Any]]:
    """Return one row of :data:`MEAN_COLUMNS` for each mean over cells."""
    return [
        [metric, part, name, *map(_number, (score.value, score.low, score.high)), score.n]
        for metric, summary in matrix.summary.items()
        for part, name, score in _means(summary)
    ]


def summary_figures(matrix: Matrix) -> dict[str, float]:
    """Return the defined means that a table of runs is sorted by, such as ``iou/by_train/ldm``.

    They are those of the metrics that are shown where there is room for a few.
    """
    return {
        "/".join(filter(None, (metric, part, name))): score.value
        for metric, summary in matrix.summary.items()
        if find_metric(metric).key
        for part, name, score in _means(summary)
        if _number(score.value) is not None and score.value is not None
    }


def _means(summary: Summary) -> Iterator[tuple[str, str, Score]]:
    """Yield each mean: what it is over, whose it is (a row or column, if not of all), and it."""
    for part, found in vars(summary).items():
        if isinstance(found, dict):
            yield from ((part, name, score) for name, score in found.items())
        elif found:
            yield part, "", found


def _log(
    folder: Path,
    matrix: Matrix,
    checkpoints: Mapping[str, Path],
    columns: list[str],
    rows: Iterable[list[Any]],
) -> list[str]:
    name, mode = f"{JOB_TYPE} {matrix.name}", wandb_mode()
    with wandb.init(
        **wandb_options(name, matrix.data.name, JOB_TYPE, _tags(matrix)),
        id=wandb_id(folder),
        resume="allow",
        dir=wandb_place(folder),
        mode=mode,
        # A training run that broke off in this process may still be open.
        settings=private_settings(mode, reinit="finish_previous"),
        notes=matrix.notice,
        config=_facts(matrix),
    ) as run:
        if run.disabled:
            return []
        photos = list(rows)
        # W&B would cut longer tables short.
        wandb.Table.MAX_ROWS = max(wandb.Table.MAX_ROWS, len(photos))
        tables = {
            "matrix": wandb.Table(list(MATRIX_COLUMNS), matrix_rows(matrix)),
            "means": wandb.Table(list(MEAN_COLUMNS), mean_rows(matrix)),
            "photos": wandb.Table([*columns], photos),
        }
        logging.disable()  # it warns of pictures that differ in size, as photos do
        run.log(tables | _pictures(folder, matrix))
        logging.disable(logging.NOTSET)
        run.summary.update(summary_figures(matrix))
        for name in (FILE, TABLE):
            # W&B would only link to a file elsewhere.
            run.save(shutil.copy(folder / name, run.dir), base_path=run.dir, policy="now")
        if not run.offline:
            _log_checkpoints(run, matrix, checkpoints)
            return [f"matrix in the browser: {run.url}"]
        offline = quote(str(relative(Path(run.settings.sync_dir))))
    wandb_ = command("wandb")
    return [
        f"figures without an account: {wandb_} leet {offline}",
        f"matrix in the browser:      {wandb_} login && {wandb_} sync {offline}",
    ]


def _facts(matrix: Matrix) -> dict[str, Any]:
    """Return the run's config: the keys of training runs first."""
    models = matrix.models
    shared = ("encoder", "layer", "decoder", "supervision", "image_size", "encoder_source")
    return {
        **{key: _joined(getattr(m, key) for m in models if not m.maps) for key in shared},
        "generator": _joined(matrix.rows),
        "dataset": matrix.data.name,
        "seed": _joined(matrix.seeds),
        "tests": _joined(matrix.columns),
        "pooling": matrix.pooling,
        "perturbation": matrix.perturbation,
        "notice": matrix.notice,
        "failed": [f"{failure.what}: {failure.why}" for failure in matrix.failed],
        "made": to_json(matrix.made),
    }


def _tags(matrix: Matrix) -> list[str]:
    """Return every single value that a training run has for a tag, to find all runs by one."""
    models = matrix.models
    keys = ("encoder", "layer", "decoder", "supervision")
    seeds = [f"seed-{seed}" for seed in matrix.seeds]
    values = [JOB_TYPE, matrix.data.name, *matrix.rows, *seeds]
    values += [getattr(model, key) for model in models if not model.maps for key in keys]
    return list(map(str, values))


def _joined(values: Iterable[Any]) -> Any:
    """Return the one value there is, as it is, or all that differ, as text."""
    different = list(dict.fromkeys(values))
    return different[0] if len(different) == 1 else ", ".join(map(str, different))


def _number(value: float | None) -> float | None:
    """Return a figure, or None where there is none: NaN has no place in W&B's JSON."""
    return None if value is None or math.isnan(value) else value


def _pictures(folder: Path, matrix: Matrix) -> dict[str, Any]:
    pictures: dict[str, Any] = {
        panels_key(train, test): [
            wandb.Image(folder / shown.file, caption=_caption(which, shown))
            for which, shown in triple.items()
            if which in PANELS
        ]
        for train, tests in matrix.panels.items()
        for test, triple in tests.items()
    }
    if (folder / "matrix.png").exists():
        pictures["matrix_plot"] = wandb.Image(folder / "matrix.png")
    if (folder / "report.html").exists():
        pictures["report"] = wandb.Html(folder / "report.html", inject=False)
    return pictures


def panels_key(train: str, test: str) -> str:
    """Return under which name the pictures of a cell are logged; W&B makes folders of it."""
    return f"panels/{shortened(train, MOST)}/{shortened(test, MOST)}"


def _caption(which: str, shown: Panel) -> str:
    iou = _number(shown.iou)
    return f"{which}: {shown.photo}, IoU {'undefined' if iou is None else f'{iou:.1f}'}"


def _log_checkpoints(run: Any, matrix: Matrix, checkpoints: Mapping[str, Path]) -> None:
    for model in (model for model in matrix.models if not model.maps):
        # Artifact names allow no more than this; encoders may have a "+" in theirs.
        name = re.sub(r"[^\w.-]", "_", f"{matrix.data.name}-{model.name}")
        artifact = wandb.Artifact(name, type="model", metadata=to_json(model))
        artifact.add_file(
            str(checkpoints[model.name]), policy="immutable"
        )  # no copy: it stays there
        run.log_artifact(artifact)
