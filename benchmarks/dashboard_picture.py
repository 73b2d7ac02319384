"""Draw what the W&B dashboard shows of offline runs, for the documentation.

The panels are those of ``declip-pl dashboard``; their figures are read back from the runs' files,
as W&B would after a sync::

    python -m benchmarks.dashboard_picture OUTPUT.png FOLDER...

where each folder is a training run's or a cross-evaluation's.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from benchmarks.offline_run import records
from declip_pl.cross_eval.matrix import FILE, read_matrix
from declip_pl.cross_eval.views.wandb_dashboard import Panel, plan

COLUMNS = 4
SIDE = (3.6, 2.7)
"""Of a panel, in inches."""


class Run:
    """What an offline run holds.

    Args:
        folder: Where it was logged.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.config: dict[str, Any] = {}
        self.curves: dict[str, list[float]] = defaultdict(list)
        self.summary: dict[str, Any] = {}
        self.pictures: dict[str, Path] = {}
        (file,) = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))[-1:]
        for data in records(file.read_bytes()):
            self._read(Record.FromString(data), file.parent / "files")

    def _read(self, record: Record, files: Path) -> None:
        for update in (*record.run.config.update, *record.config.update):
            if update.key:
                self.config[update.key] = json.loads(update.value_json)
        for item in record.history.item:
            value, keys = json.loads(item.value_json), list(item.nested_key) or [item.key]
            if keys[-1] in ("path", "filenames"):
                first = value[0] if isinstance(value, list) else value
                self.pictures["/".join(keys[:-1])] = files / first
            elif isinstance(value, (int, float)):
                self.curves["/".join(keys)].append(value)
                self.summary["/".join(keys)] = value  # the last one, if nothing else is said
        for item in record.summary.update:
            if item.key:
                self.summary[item.key] = json.loads(item.value_json)


def draw(axes: Axes, panel: Panel, runs: list[Run]) -> None:
    """Draw one panel as W&B does: a curve for each run, bars of the summaries, a picture."""
    axes.set_title(panel.title, fontsize=9)
    axes.tick_params(labelsize=7)
    if panel.kind == "curve":
        for run in runs:
            if values := run.curves.get(panel.keys[0]):
                axes.plot(range(len(values)), values, label=run.config["generator"])
        axes.set_xlabel("epoch", fontsize=7)
        axes.legend(fontsize=7, loc="best")
    elif panel.kind == "bars":
        bars = [
            (label_of(key, run), run.summary[key])
            for key in panel.keys
            for run in runs
            if isinstance(run.summary.get(key), (int, float))
        ]
        axes.barh([name for name, _ in bars], [value for _, value in bars], height=0.7)
        axes.invert_yaxis()
    else:
        axes.axis("off")
        axes.imshow(Image.open(picture_of(panel, runs)))


def label_of(key: str, run: Run) -> str:
    """Return what a bar is called: training and test generator, or the last part of a mean."""
    kind, name, *_ = key.split("/")
    return f"{run.config['generator']} on {name}" if kind == "test" else key.rpartition("/")[2]


def picture_of(panel: Panel, runs: list[Run]) -> Path:
    """Return the first picture that a panel shows."""
    shown = (run.pictures[key] for key in panel.keys for run in runs if key in run.pictures)
    return next(path for path in shown if path.suffix == ".png")


def is_shown(panel: Panel, runs: list[Run]) -> bool:
    """Whether any run has what a panel shows; tables are left out."""
    kinds = {"curve": "curves", "bars": "summary", "pictures": "pictures"}
    return panel.kind in kinds and any(
        key in getattr(run, kinds[panel.kind]) for key in panel.keys for run in runs
    )


def main(output: Path, folders: list[Path]) -> None:
    """Draw the panels of all runs."""
    runs = [Run(folder) for folder in folders]
    matrices = [read_matrix(folder) for folder in folders if (folder / FILE).exists()]
    panels = [
        panel
        for section in plan(matrices[0] if matrices else None).values()
        for panel in section
        if is_shown(panel, runs)
    ]
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * SIDE[0], rows * SIDE[1]), layout="constrained")
    for place, panel in enumerate(panels):
        draw(figure.add_subplot(rows, COLUMNS, place + 1), panel, runs)
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
