"""What a test leaves behind: ``test_metrics.json`` and the closing summary."""

import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

from declip_pl import __version__, parts
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.errors import UserError
from declip_pl.files import command, file_name, sha256, short_hash
from declip_pl.metrics import map_metrics
from declip_pl.model.checkpoint import WEIGHTS_FILE, read_checkpoint
from declip_pl.model.description import TrainedOn
from declip_pl.training.baselines import baselines
from declip_pl.training.results_file import Results, read_results
from declip_pl.training.task import LocalizationTask


def results_path(folder: Path, data: LocalizationDataModule, trained_on: TrainedOn | None) -> Path:
    """Return the file for a test's results: ``test_metrics_<generators>.json``.

    Another data set than that of the training is named in it, and so is a perturbation; a hash
    tells apart data sets of one name.

    Args:
        folder: Where results go.
        data: What is tested on.
        trained_on: What the model was trained on, where that is on record.
    """
    home = trained_on.data if trained_on and trained_on.files_sha256 else ""
    changes = parts.as_text(data.perturbation)
    words = ["test_metrics", data.root.name if home not in ("", data.root.name) else ""]
    words += [data.generator, f"perturbed-{short_hash(changes)}" if changes != "none" else ""]
    name = "_".join(filter(None, words))
    path, root = folder / file_name(name, ".json"), str(data.root.absolute())
    if _root_of(path) in (None, root):
        return path
    return folder / file_name(f"{name}_{short_hash(root)}", ".json")


def _root_of(path: Path) -> str | None:
    """Return the data set that results are of; None where there are none to read."""
    try:
        return str(Path(read_results(path).data["root"]).absolute())
    except (UserError, KeyError, TypeError):
        return None


def describe_results(
    task: LocalizationTask, data: LocalizationDataModule, checkpoint: Path
) -> Results:
    """Return what a test found: scores, baselines and how they came about."""
    chosen = task.thresholds
    file = checkpoint if checkpoint.is_file() else checkpoint / WEIGHTS_FILE
    return Results(
        notice=data.notice or None,
        scores=task.results,
        baselines=baselines(data, decided=bool(chosen and chosen.floor is not None)),
        data={
            "root": str(data.root),
            "generators": data.generators,
            "files_sha256": data.fingerprint,
            "perturbation": parts.as_text(data.perturbation),
        },
        checkpoint={"path": checkpoint.name, "sha256": sha256(file)},
        model=dict(task.hparams) | _forgeries(read_checkpoint(checkpoint).trained_on),
        encoder=asdict(task.description.identity),
        made=circumstances(),
    )


def _forgeries(trained_on: TrainedOn | None) -> dict[str, Any]:
    """Return what is on record of the forgeries that a model was trained on, if it was."""
    if trained_on is None or trained_on.forgeries is None:
        return {}
    return {"forgeries": asdict(trained_on.forgeries)}


def circumstances() -> dict[str, Any]:
    """Return when and by which versions of the code something was made."""
    return {
        "git_commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "declip-pl": __version__,
            **{name: version(name) for name in ("torch", "lightning", "transformers")},
        },
    }


def summary(results: Results, target: Path, model: Path) -> str:
    """Return the closing summary: scores beside constant answers, where they are, what is next."""
    lines = [""]
    for generator, scores in results.scores.items():
        constant = results.baselines[generator]
        others = " ".join(f"{name:>16}" for name in constant)
        lines += [f"test set {generator} ({scores['iou_n']:.0f} images), percent"]
        lines += [f"  {'':<16}{'this model':>12} {others}"]
        decided = "decision_floor" in scores
        for metric in (
            entry.name for entry in map_metrics(tuned=False, decided=decided) if entry.key
        ):
            row = " ".join(f"{_cell(constant[name], metric):>16}" for name in constant)
            lines += [f"  {metric:<16}{_cell(scores, metric):>12} {row}"]
        lines += [f"  image level{_detection(scores)}"]
        lines += [f"  untouched photos{line}" for line in _untouched(scores)]
        lines += [f"  thresholds chosen on validation photos: {_thresholds(scores)}"]
        lines += [
            f"  {name}: undefined, no training masks" for name in constant if not constant[name]
        ]
    untested = None if results.scores else "there was no data set to test on"
    notes = [untested, f"encoder: {results.encoder['source']}", results.notice]
    lines += [line for line in notes if line]
    lines += [
        f"results: {target}",
        "next: the same checkpoint on other data, or on your own photos:",
        f"  {command('declip-pl')} evaluate {quote(str(model))} --data DIR",
        f"  {command('declip-pl')} predict PHOTO --model {quote(str(model))}",
    ]
    return "\n".join(lines)


def in_short(results: Results, target: Path) -> str:
    """Return one line: the IoU on each generator, and where the rest stands."""
    found = ", ".join(f"IoU {s['iou']:.1f} on {name}" for name, s in results.scores.items())
    return f"tested: {found or 'on nothing'} ({target})"


def _detection(scores: dict[str, float]) -> str:
    if "image_ap" not in scores:
        return ": not scored, there are no real photos beside the fakes"
    line = (
        f" (fakes against reals): AP {scores['image_ap']:.1f}, AUROC {scores['image_auroc']:.1f}, "
        f"accuracy {scores['image_accuracy']:.1f} at 0.5"
    )
    if "image_accuracy_tuned" not in scores:
        return line
    return (
        f"{line} and {scores['image_accuracy_tuned']:.1f} at the validation threshold "
        f"{scores['image_threshold']:.3f}"
    )


def _untouched(scores: dict[str, float]) -> list[str]:
    """Return what is marked of them, at 0.5 and by the decision; no lines without them."""
    ways = {"at 0.5": "", "by the decision": "_decided"}
    return [
        f" {way}: {scores[f'untouched_area{key}']:.1f} of the area is marked, "
        f"{scores[f'untouched_marked{key}']:.1f} of the photos have a mark"
        for way, key in ways.items()
        if f"untouched_area{key}" in scores
    ]


def _thresholds(scores: dict[str, float]) -> str:
    named = {
        "pixels": "pixel_threshold",
        "photos": "image_threshold",
        "floor of the decision": "decision_floor",
    }
    found = [f"{what} {scores[key]:.3f}" for what, key in named.items() if key in scores]
    return ", ".join(found) or "none, the checkpoint holds none"


def git_commit() -> str | None:
    """Return the commit that the package's own checkout stands at, with ``-dirty`` if edited.

    None where it was installed without its repository; one around a virtual environment is not it.
    """
    checkout = Path(__file__).resolve().parents[3]
    if not _is_own(checkout):
        return None
    # Named outright: a variable such as GIT_DIR, set inside git's hooks, would come before -C.
    git = ["git", f"--git-dir={checkout / '.git'}", f"--work-tree={checkout}"]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(describe, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _is_own(checkout: Path) -> bool:
    """Return whether a folder is a clone of declip-pl, and not of what holds a copy of it."""
    metadata = checkout / "setup.cfg"
    return (
        (checkout / ".git").exists()
        and (checkout / "src/declip_pl").is_dir()
        and metadata.is_file()
        and b"name = declip-pl" in metadata.read_bytes().splitlines()
    )


def _cell(scores: dict[str, float], metric: str) -> str:
    return f"{scores[metric]:.1f}" if metric in scores else "undefined"
