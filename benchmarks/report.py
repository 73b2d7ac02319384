"""What is measured, and how it is written: tables, a plot, and all figures as JSON."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.costs import Costs
from benchmarks.machine import Machine
from declip_pl.files import write_text

matplotlib.use("agg")
import matplotlib.pyplot as plt

MIB = 2**20

LATER = "training, later epochs"

MEASURED = {
    "training, first epoch": "photos/s",
    LATER: "photos/s",
    "training, peak memory": "MiB",
    "best checkpoint": "MiB",
    "evaluation with all metrics": "photos/s",
    "evaluation, peak memory": "MiB",
    "metrics of an evaluation batch": "photos/s",
    "4 x 4 cross-evaluation": "photos/s",
    "cross-evaluation, peak memory": "MiB",
    "one photo": "photos/s",
    "one photo, peak memory": "MiB",
    "a folder": "photos/s",
}
"""What is measured, and in which unit the table gives it."""

TABLE = "| network | what | published | declip-pl | ratio |\n|---|---|---|---|---|"

COSTS_TABLE = (
    "| network | multiply-adds of the tower | up to the layer | of the decoder | with its backward "
    "pass | the decoder in later epochs | features on disk |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        network: Its name.
        against: What declip-pl is measured against.
        what: A key of :data:`MEASURED`.
        photos: How many photos were worked on.
        published: What the published side took in each run, in seconds or bytes.
        ours: What declip-pl took.
    """

    network: str
    against: str
    what: str
    photos: int
    published: list[float]
    ours: list[float]

    @property
    def ratio(self) -> float:
        """How many times more the published side takes, by the medians."""
        return statistics.median(self.published) / statistics.median(self.ours)

    def amount(self, runs: list[float]) -> str:
        """Return the median of some runs in the unit of the table."""
        unit, median = MEASURED[self.what], statistics.median(runs)
        value = median / MIB if unit == "MiB" else self.photos / median
        digits = max(0, 2 - math.floor(math.log10(value)))  # three significant ones
        return f"{value:.{digits}f} {unit}"

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, with its unit and ratio."""
        return asdict(self) | {"unit": MEASURED[self.what], "ratio": self.ratio}


@dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        machine: Where.
        rows: Both sides, for each network and each of :data:`MEASURED`.
        costs: Of each network.
        steps: Seconds of a training step of each network's decoder, by way of computing it.
    """

    machine: Machine
    rows: list[Row]
    costs: dict[str, Costs]
    steps: dict[str, dict[str, float]]

    def write(self, folder: Path) -> str:
        """Write ``bench.md``, ``bench.json`` and ``bench.png``; return the first."""
        report = self._as_markdown()
        figures = asdict(self) | {"rows": [row.as_dict() for row in self.rows]}
        write_text(folder / "bench.md", report)
        write_text(folder / "bench.json", json.dumps(figures, indent=2) + "\n")
        _plot(self.rows, folder / "bench.png")
        return report

    def _as_markdown(self) -> str:
        sections = (self._head(), self._table(), self._costs_table(), self._steps_table())
        return "\n\n".join("\n".join(lines) for lines in sections) + "\n"

    def _head(self) -> list[str]:
        measured = {row.network: row.against for row in self.rows}
        return [
            f"{self.machine.device}, torch {self.machine.torch}, fp32; a matrix product or "
            f"convolution alone reaches {self._peak / 1e9:.0f} GFLOP/s",
            "",
            *(f"{name} is measured against the {side}." for name, side in measured.items()),
        ]

    def _table(self) -> list[str]:
        lines = [TABLE]
        for row in self.rows:
            amounts = f"{row.amount(row.published)} | {row.amount(row.ours)}"
            lines.append(f"| {row.network} | {row.what} | {amounts} | {row.ratio:.1f} |")
        return lines

    def _costs_table(self) -> list[str]:
        later = [row for row in self.rows if row.what == LATER]
        return [COSTS_TABLE, *(self._costs_row(row, self.costs[row.network]) for row in later)]

    def _costs_row(self, later: Row, costs: Costs) -> str:
        counts = (costs.tower, costs.encoder, costs.decoder, costs.decoder_in_training)
        adds = " | ".join(f"{count / 1e9:.3g} G" for count in counts)
        speed = 2 * costs.decoder_in_training * later.photos / statistics.median(later.ours)
        share = f"{speed / 1e9:.0f} GFLOP/s, {100 * speed / self._peak:.0f} % of that"
        return f"| {later.network} | {adds} | {share} | {costs.features / MIB:.2f} MiB a photo |"

    def _steps_table(self) -> list[str]:
        kinds = list(next(iter(self.steps.values())))
        heading = f"| a training step of the decoder | {' | '.join(kinds)} |"
        lines = [heading, "|---" * (1 + len(kinds)) + "|"]
        for name, seconds in self.steps.items():
            first = seconds[kinds[0]]
            ratios = " | ".join(f"{s:.3g} s ({first / s:.2f} x)" for s in seconds.values())
            lines.append(f"| {name} | {ratios} |")
        return lines

    @property
    def _peak(self) -> float:
        return self.machine.peak["float32"]


def _plot(rows: Sequence[Row], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(MEASURED) + 1), layout="constrained")
    names = list(dict.fromkeys(row.network for row in rows))
    for name, marker in zip(names, "osD", strict=False):
        of_one = [row for row in rows if row.network == name]
        ratios, heights = [row.ratio for row in of_one], list(range(len(of_one)))
        axes.plot(ratios, heights, marker, label=name, alpha=0.8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(MEASURED)), list(MEASURED))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("how many times better than the published loop (time, memory or bytes)")
    axes.grid(axis="y", linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)
