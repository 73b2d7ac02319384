"""What a test leaves behind: ``test_metrics.json`` and the closing summary."""

import json
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from declip_pl.data.datamodule import DolosDataModule
from declip_pl.data.layout import is_stand_in
from declip_pl.files import sha256, write_text
from declip_pl.metrics import iou, map_metrics
from declip_pl.metrics.accumulate import LocalizationMetrics
from declip_pl.model.decoder import OUTPUT_SIZE
from declip_pl.training.run_folder import BEST, CONFIG
from declip_pl.training.task import LocalizationTask

STAND_IN_NOTICE = (
    "mini is a stand-in made by simple inpainters from a few photos: "
    "these scores say nothing about Dolos"
)


def describe_results(
    task: LocalizationTask, data: DolosDataModule, checkpoint: Path
) -> dict[str, Any]:
    """Return all that ``test_metrics.json`` holds: scores, baselines and how they came about."""
    return {
        "notice": STAND_IN_NOTICE if is_stand_in(data.root) else None,
        "scores": task.results,
        "baselines": baselines(data),
        "data": {
            "root": str(data.root),
            "generators": data.generators,
            "files_sha256": data.fingerprint,
        },
        "checkpoint": {"path": checkpoint.name, "sha256": sha256(checkpoint)},
        "model": dict(task.hparams),
        "encoder": task.encoder_identity,
        **circumstances(),
    }


def circumstances() -> dict[str, Any]:
    """Return when and by which versions of the code something was made."""
    packages = ("declip-pl", "torch", "lightning", "transformers")
    return {
        "git_commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
    }


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON, atomically."""
    write_text(path, json.dumps(results, indent=2) + "\n")


def summary(results: dict[str, Any], target: Path) -> str:
    """Return the closing summary: scores beside constant answers, where they are, what is next."""
    run = target.parent
    lines = [""]
    for generator, scores in results["scores"].items():
        constant = results["baselines"][generator]
        rivals = " ".join(f"{name:>16}" for name in constant)
        lines += [f"test set {generator} ({scores['iou_n']:.0f} images), percent"]
        lines += [f"  {'':<16}{'this model':>12} {rivals}"]
        for metric in (entry.name for entry in map_metrics(tuned=False) if entry.key):
            row = " ".join(f"{_cell(constant[name], metric):>16}" for name in constant)
            lines += [f"  {metric:<16}{_cell(scores, metric):>12} {row}"]
        if "image_ap" in scores:
            lines += [
                f"  image level (fakes against reals): AP {scores['image_ap']:.1f}, AUROC "
                f"{scores['image_auroc']:.1f}, accuracy {scores['image_accuracy']:.1f} at 0.5 and "
                f"{scores['image_accuracy_tuned']:.1f} at the validation threshold "
                f"{scores['image_threshold']:.3f}"
            ]
        else:
            lines += ["  image level: not scored, there are no real photos beside the fakes"]
    notes = [f"encoder: {results['encoder']['source']}", results["notice"]]
    lines += [line for line in notes if line]
    checkpoint = f"--config {run / CONFIG} --ckpt_path {run / BEST}"
    lines += [
        f"results: {target}",
        "next: the same checkpoint on another generator's photos, or on your own:",
        f"  {command('declip-pl')} test {checkpoint} --data.generator NAME",
        f"  {command('declip-pl')} predict PHOTO --model {run}",
    ]
    return "\n".join(lines)


def baselines(data: DolosDataModule) -> dict[str, dict[str, dict[str, float]]]:
    """Score answers that never look at the photo, for each generator's test set.

    ``all fake``, ``all real``, and ``mean train mask``: the share of training masks that are fake
    at each pixel, cut where it overlaps best with the training masks.

    Returns:
        Localization scores in percent by generator and baseline.
    """
    constant = torch.stack(
        [
            torch.ones(OUTPUT_SIZE, OUTPUT_SIZE),
            torch.zeros(OUTPUT_SIZE, OUTPUT_SIZE),
            _centred(data.train_masks()),
        ]
    )
    names = ("all fake", "all real", "mean train mask")
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for generator in data.generators:
        # Only one process writes results, so there is nobody to gather from.
        metrics = {name: LocalizationMetrics(sync_on_compute=False) for name in names}
        masks = data.evaluation_set(generator, "test", generator).masks()
        for mask in tqdm(masks, f"baselines on {generator}", leave=False):
            for metric, answer in zip(metrics.values(), constant, strict=True):
                metric.update(answer[None, None], [mask])
        scores[generator] = {name: _floats(metric) for name, metric in metrics.items()}
    return scores


def command(name: str) -> str:
    """Return how to call a program of this environment from here: by name, or by its path."""
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) or not beside.exists():
        return name
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


def git_commit() -> str | None:
    """Return the commit that the package's source stands at, with ``-dirty`` if edited."""
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty",
                "--abbrev=40", "--exclude=*"]  # fmt: skip
    try:
        done = subprocess.run(describe, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # installed without its repository
    return done.stdout.strip()


def _centred(masks: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``[N, H, W]`` masks, scaled so that its best cut lies at 0.5."""
    mean = masks.sum(0) / len(masks)
    levels = torch.linspace(0, 1, 21)[1:-1] * mean.max()
    overlap = torch.stack([iou(mean.expand_as(masks), masks, float(t)).mean() for t in levels])
    return (mean / (2 * levels[overlap.argmax()])).clamp(0, 1)


def _floats(metric: LocalizationMetrics) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def _cell(scores: dict[str, float], metric: str) -> str:
    return f"{scores[metric]:.1f}" if metric in scores else "undefined"
