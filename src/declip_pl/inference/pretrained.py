"""Trained localizers on disk and on the hub: what is saved, where it is found, how it is read.

A localizer lives in one of two shapes. A run's checkpoint is Lightning's. A saved folder is what
people pass on: ``model.safetensors`` with the decoder's weights, ``config.json`` with everything
else that a checkpoint says, and a model card. Neither holds the frozen encoder, only its name and
the hash of its weights. Nothing is unpickled.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from declip_pl.cross_eval.matrix import readable_matrices
from declip_pl.cross_eval.records import to_json
from declip_pl.errors import UserError
from declip_pl.files import atomic_path, sha256, write_text
from declip_pl.inference.model_card import model_card
from declip_pl.model.weights import snapshot
from declip_pl.training.run_folder import BEST, RESULTS
from declip_pl.training.task import DECODER_PREFIX, read_checkpoint

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"

FORMAT = 1
"""Raise it with any change to what a saved folder holds."""

SAVED = ("encoder", "decoder", "image_size", "hyper_parameters", "DolosDataModule", "results")
"""What ``config.json`` repeats of a checkpoint: the frozen encoder's identity, the decoder's name,
the side of the input in pixels, the options of the task, what it was trained on, and the scores of
its test (the last two where they are known)."""


def save(checkpoint: dict[str, Any], folder: Path, name: str | None = None) -> None:
    """Write a localizer's decoder, its description and its model card into a folder.

    Args:
        checkpoint: What :func:`read` returns.
        folder: Where to; it is made.
        name: What the card calls it, by default like the folder.

    Raises:
        UserError: If one of the files is there already.
    """
    for file in (WEIGHTS_FILE, CARD_FILE, CONFIG_FILE):
        if (folder / file).exists():
            raise UserError(f"a {file} stands in {folder}; name another folder")
    state = checkpoint["state_dict"]
    weights = {k.removeprefix(DECODER_PREFIX): v.contiguous() for k, v in state.items()}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(weights, temporary, {"format": "pt"})
    write_text(folder / CARD_FILE, model_card(checkpoint, name or folder.absolute().name))
    config = {"format": FORMAT} | {name: checkpoint.get(name) for name in SAVED}
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def read(model: str | Path) -> dict[str, Any]:
    """Read a trained localizer, in the shape of a checkpoint of this package.

    Args:
        model: A run's folder, a checkpoint (``.ckpt``), a saved folder, or a hub id.

    Returns:
        The entries named in :data:`SAVED`, and ``state_dict`` with the decoder's weights.

    Raises:
        UserError: If there is none, it is damaged, or it is something else.
    """
    found = find(model)
    checkpoint = _read_run(found) if found.is_file() else _read_saved(found)
    if missing := {"state_dict", *SAVED[:4]} - checkpoint.keys():
        raise UserError(f"{found} is no localizer: it lacks {', '.join(sorted(missing))}")
    return checkpoint


def find(model: str | Path) -> Path:
    """Return where a trained localizer is on this machine: a checkpoint or a saved folder.

    Raises:
        UserError: If it is nowhere, on the hub neither.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if (path / CONFIG_FILE).is_file():
        return path
    if (path / BEST).is_file():
        return path / BEST
    nowhere = f"there is no localizer at {path}"
    if path.exists() or str(model).count("/") != 1 or str(model).startswith((".", "/", "~")):
        raise UserError(
            f"{nowhere}: expected a run's folder, a checkpoint, a saved folder or an id on the "
            "Hugging Face hub"
        )
    try:
        return snapshot(str(model), CONFIG_FILE, WEIGHTS_FILE)
    except UserError as error:
        raise UserError(f"{nowhere}, and {error}") from error


def name(model: str | Path) -> str:
    """Return what a localizer is called: its hub id, or its run's or own folder or file."""
    path = Path(model).expanduser()
    if not path.exists():
        return str(model)
    path = path.absolute()
    if path.is_dir():
        return path.name
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.stem


def _read_run(checkpoint: Path) -> dict[str, Any]:
    return read_checkpoint(checkpoint) | {"results": _results(checkpoint.absolute())}


def _results(checkpoint: Path) -> dict[str, Any] | None:
    """Return the scores that a run's test and a cross-evaluation found for just this checkpoint."""
    run = checkpoint.parent.parent
    if not (run / RESULTS).is_file():
        return None
    results = json.loads((run / RESULTS).read_text(encoding="utf-8"))
    digest = sha256(checkpoint)
    if results["checkpoint"]["sha256"] != digest:  # last.ckpt, say: it was not tested
        return None
    kept = {name: results[name] for name in ("notice", "scores", "baselines", "data", "date")}
    kept["data"]["root"] = Path(kept["data"]["root"]).name  # where it lay is nobody's business
    return kept | {"cross_evaluation": _cross_evaluation(run.parent.parent, digest)}


def _cross_evaluation(outputs: Path, digest: str) -> dict[str, Any] | None:
    """Return a checkpoint's row of the latest matrix that has one for it alone."""
    for _, matrix in readable_matrices(outputs / "cross_eval"):
        rows = [model.row for model in matrix.models]
        for model in matrix.models:
            alone = rows.count(model.row) == 1  # seeds share a row, and its figures
            if alone and model.checkpoint_sha256 == digest:
                scores = {metric: table[model.row] for metric, table in matrix.matrix.items()}
                return {"thresholds": to_json(model.thresholds), "scores": to_json(scores)}
    return None


def _read_saved(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} holds no localizer, or a damaged one ({error})") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{folder / CONFIG_FILE} describes no localizer of this declip-pl")
    return config | {"state_dict": {DECODER_PREFIX + k: v for k, v in weights.items()}}
