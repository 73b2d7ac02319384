"""A trained localizer on disk: one typed object, whatever shape it was saved in.

A run's checkpoint is Lightning's; what this package says of itself stands in it under one key. A
saved folder is what people pass on: ``model.safetensors`` with the decoder's weights and
``config.json`` with the same description. Neither holds the frozen encoder, only its name and the
hash of its weights. Nothing is unpickled.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from declip_pl.errors import UserError
from declip_pl.files import atomic_path, sha256, write_text
from declip_pl.model.decoder import build_decoder
from declip_pl.model.description import Description, describe
from declip_pl.model.encoder import Encoder
from declip_pl.model.find_encoder import find_encoder
from declip_pl.model.likeness import Likeness, read_likeness
from declip_pl.model.network import DeCLIP
from declip_pl.model.safe_load import check_weights, load_file
from declip_pl.model.weights import is_download, snapshot
from declip_pl.parts import Spec

BEST = "checkpoints/best.ckpt"
"""Where a run's folder keeps its best checkpoint."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
"""What a saved folder holds."""

STARTER = "starter"
"""The word that stands for the localizer inside the package, wherever a model is named. It comes
before a folder of this name in the current folder, which is ``./starter``."""
STARTER_FOLDER = Path(str(resources.files("declip_pl") / STARTER))
"""Where that one lies, a saved folder; a checkout may be without."""

WEIGHTS_SHA256, SCORES = "weights_sha256", "results"
"""What ``config.json`` holds beside the description: the hash of the weights' file, and scores."""

KEY = "declip_pl"
"""Where a Lightning checkpoint keeps the description."""
LIKENESS = "declip_pl.likeness"
"""Where it keeps what a photo's likeness is measured by; a saved folder's weights have it under
names that begin so."""

ENCODER_PREFIX, DECODER_PREFIX = "network.encoder.", "network.decoder."
"""Of the weights' names in a Lightning checkpoint."""


@dataclass(frozen=True)
class Checkpoint(Description):
    """A trained localizer.

    Attributes:
        name: What it is called: its run, its folder, or its hub id.
        path: Where it was read: a ``.ckpt`` file or a saved folder.
        weights: The decoder's.
        likeness: What a photo's likeness to the photos of the training is measured by; None where
            it is not on record.
    """

    name: str = ""
    path: Path = Path()
    weights: Mapping[str, Tensor] = None  # type: ignore[assignment]
    likeness: Likeness | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of the file that holds the weights."""
        return sha256(self.path if self.path.is_file() else self.path / WEIGHTS_FILE)

    def description(self) -> Description:
        """Return what is said of it, without the weights."""
        return Description(**{f.name: getattr(self, f.name) for f in fields(Description)})


def read_checkpoint(model: str | Path) -> Checkpoint:
    """Read a trained localizer, without running anything in it.

    Args:
        model: A run's folder, a checkpoint (``.ckpt``), a saved folder, a hub id, or ``starter``.

    Raises:
        UserError: If there is none, or it is damaged, newer, or something else; it is named.
    """
    found = find(model)
    if found.is_file():
        content = load_lightning(found)
        description = describe_lightning(content, found)
        state, measure = _below(content["state_dict"], DECODER_PREFIX), content.get(LIKENESS)
    else:
        description, tensors = _read_saved(found)
        measure = _below(tensors, f"{LIKENESS}.")
        state = {name: w for name, w in tensors.items() if not name.startswith(f"{LIKENESS}.")}
    parts = {f.name: getattr(description, f.name) for f in fields(description)}
    return Checkpoint(
        **parts,
        name=name_of(model),
        path=found.absolute(),
        weights=check_weights(state, found),
        likeness=read_likeness(measure, found),
    )


def find(model: str | Path) -> Path:
    """Return where a trained localizer is on this machine: a checkpoint or a saved folder.

    Raises:
        UserError: If it is nowhere, on the hub neither.
    """
    if model == STARTER:  # as text: a Path is always one
        return _starter()
    path = Path(model).expanduser()
    if path.is_file() or (path / CONFIG_FILE).is_file():
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


def has_starter() -> bool:
    """Whether a localizer lies inside the package."""
    return (STARTER_FOLDER / CONFIG_FILE).is_file()


def _starter() -> Path:
    if not has_starter():
        raise UserError(
            "this declip-pl comes without its starter: in a checkout make it (make starter "
            "PHOTOS=...), or name another model; a folder of that name is ./starter"
        )
    return STARTER_FOLDER


def name_of(model: str | Path) -> str:
    """Return what a localizer is called: its hub id, or its run's or own folder or file."""
    path = Path(model).expanduser()
    if model == STARTER or not path.exists():
        return str(model)
    path = path.absolute()
    if path.is_dir():
        return path.name
    run = run_of(path)
    return run.name if run else path.stem


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a saved folder; the description comes last, so that half a folder is none.

    Raises:
        UserError: If one of the files is there already.
    """
    for file in (WEIGHTS_FILE, CONFIG_FILE):
        if (folder / file).exists():
            raise UserError(f"a {file} stands in {folder}; name another folder")
    weights = {name: weight.contiguous() for name, weight in checkpoint.weights.items()}
    if checkpoint.likeness:
        measure = checkpoint.likeness.as_tensors().items()
        weights |= {f"{LIKENESS}.{name}": tensor.contiguous() for name, tensor in measure}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(weights, temporary, {"format": "pt"})
    said = checkpoint.description().as_dict() | {WEIGHTS_SHA256: sha256(folder / WEIGHTS_FILE)}
    write_text(folder / CONFIG_FILE, json.dumps(said, indent=2) + "\n")


def load_decoder(checkpoint: Checkpoint, encoder: Encoder) -> nn.Module:
    """Return a checkpoint's trained decoder in eval mode, for an encoder that is there already.

    Raises:
        UserError: If it was trained on another encoder or layer, or a weight is missing, left over
            or of another shape.
    """
    checkpoint.identity.check(encoder.identity)
    decoder = build_decoder(checkpoint.decoder, encoder.shape)
    try:
        decoder.load_state_dict(dict(checkpoint.weights))
    except RuntimeError as error:
        reasons = " ".join(str(error).split())
        raise UserError(f"the decoder's weights do not fit: {reasons}") from error
    return decoder.requires_grad_(False).eval()


def load_encoder(checkpoint: Checkpoint, named: Spec | None = None) -> Encoder:
    """Return the encoder that a checkpoint was trained on, from wherever its weights are found.

    What lies in the hub's cache came from others: of an encoder, it may name a registered word or a
    hub id, and no path of this machine is looked at for it.

    Args:
        checkpoint: The localizer.
        named: Where the user says that the encoder is, in place of what the checkpoint says.

    Raises:
        UserError: If it is not to be had here; what was found, and where, is listed.
    """
    own = not is_download(checkpoint.path)
    try:
        return find_encoder(
            named or checkpoint.encoder,
            checkpoint.layer,
            checkpoint.image_size,
            checkpoint.identity,
            trusted=own or named is not None,
            moved=own and named is None,
        )
    except UserError as error:
        raise UserError(f"{checkpoint.name}: {error}") from error


def load_network(checkpoint: Checkpoint, encoder: Spec | None = None) -> DeCLIP:
    """Return a checkpoint's network.

    Args:
        checkpoint: The localizer.
        encoder: Where the user says that the encoder is; see :func:`load_encoder`.

    Raises:
        UserError: If the encoder is not to be had here, or the decoder's weights or what
            likeness is measured by do not fit.
    """
    frozen = load_encoder(checkpoint, encoder)
    if checkpoint.likeness:
        checkpoint.likeness.check(frozen.shape.channels, checkpoint.path)
    try:
        return DeCLIP(frozen, load_decoder(checkpoint, frozen))
    except UserError as error:
        raise UserError(f"{checkpoint.name}: {error}") from error


def describe_lightning(content: Mapping[str, Any], path: Path | str) -> Description:
    """Return what a Lightning checkpoint says of its localizer.

    Raises:
        UserError: If that is damaged or of a newer version, or it is no checkpoint of declip-pl.
    """
    if KEY not in content and "encoder" not in content:
        raise UserError(f"{path}: no checkpoint of declip-pl: it does not name its encoder")
    return describe(content.get(KEY, {"format": 1, **content}), path)


def run_of(checkpoint: Path) -> Path | None:
    """Return the folder of the run that a checkpoint's file belongs to, if it lies in one."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == "checkpoints" else None


def load_lightning(path: Path) -> dict[str, Any]:
    """Return the content of a run's checkpoint, its tensors as a memory map.

    Raises:
        UserError: If it is missing, damaged, or something else.
    """
    found: Any = load_file(path)
    if not isinstance(found, dict) or not isinstance(found.get("state_dict"), dict):
        raise UserError(f"{path}: no checkpoint of declip-pl: it does not name its encoder")
    return found


def _below(tensors: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """Return the entries whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if isinstance(name, str) and name.startswith(prefix)
    }


def _read_saved(folder: Path) -> tuple[Description, dict[str, Tensor]]:
    try:
        said = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        data = (folder / WEIGHTS_FILE).read_bytes()
        weights = load(data)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise UserError(f"{folder} holds no localizer, or a damaged one ({error})") from error
    if not isinstance(said, dict):
        raise UserError(f"{folder} describes no localizer of declip-pl")
    expected = said.get(WEIGHTS_SHA256)  # folders of version 0.1 have none
    if expected is not None and expected != (digest := hashlib.sha256(data).hexdigest()):
        raise UserError(
            f"{folder / WEIGHTS_FILE} is damaged or another localizer's: expected SHA-256 "
            f"{expected}, found {digest}"
        )
    kept_beside = (WEIGHTS_SHA256, SCORES)
    description = {name: value for name, value in said.items() if name not in kept_beside}
    return describe(description, folder), weights
