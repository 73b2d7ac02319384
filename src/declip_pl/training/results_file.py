"""``test_metrics.json``: what a test found."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from declip_pl.errors import UserError
from declip_pl.files import write_text

FORMAT = 2
"""Raise it with any change to what ``test_metrics.json`` holds."""


@dataclass(frozen=True)
class Results:
    """What a test found.

    Attributes:
        notice: What everybody who sees the scores has to know, or None.
        scores: Of the model, by generator and metric, in percent.
        baselines: Of constant answers, by generator, baseline and metric.
        data: ``root``, ``generators``, ``files_sha256`` and ``perturbation`` of the test photos.
        checkpoint: ``path`` and ``sha256`` of the file that was tested.
        model: The options it was built and trained by, and ``forgeries`` that it was trained on.
        encoder: Identity of its frozen encoder.
        made: When and by which versions.
    """

    notice: str | None
    scores: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, dict[str, float]]]
    data: dict[str, Any]
    checkpoint: dict[str, str]
    model: dict[str, Any]
    encoder: dict[str, Any]
    made: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write them as JSON, atomically."""
        content = {"format": FORMAT, **asdict(self)}
        write_text(path, json.dumps(content, indent=2) + "\n")


def read_results(path: Path) -> Results:
    """Read what :meth:`Results.write` wrote.

    Raises:
        UserError: If there is none, or it is damaged or of a newer version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format", 1) > FORMAT:
            raise UserError(f"{path} was written by a newer declip-pl; update this one")
        if "made" not in content:  # version 0.1
            names = ("git_commit", "date", "versions")
            content["made"] = {name: content.pop(name) for name in names}
        return Results(**{f.name: content[f.name] for f in fields(Results)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no results of a test ({error!r})") from error
