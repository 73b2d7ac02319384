"""A trained localizer on disk: one typed object, whatever shape it was saved in.

A run's checkpoint is Lightning's; what this package says of itself stands in it under one key. A
saved folder is what people pass on: ``model.safetensors`` with the decoder's weights and
``config.json`` with the same description. Neither holds the frozen encoder, only its name and the
hash of its weights. Nothing is unpickled.
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from declip_pl.errors import UserError
from declip_pl.files import atomic_path, sha256, write_text
from declip_pl.metrics import Thresholds
from declip_pl.model.decoder import build_decoder
from declip_pl.model.encoder import Encoder, build_encoder
from declip_pl.model.features import Identity
from declip_pl.model.network import DeCLIP, Pooling
from declip_pl.model.weights import snapshot
from declip_pl.parts import Spec

BEST = "checkpoints/best.ckpt"
"""Where a run's folder keeps its best checkpoint."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
"""What a saved folder holds."""

FORMAT = 2
"""Raise it with any change to what a description holds."""

KEY = "declip_pl"
"""Where a Lightning checkpoint keeps the description."""

ENCODER_PREFIX, DECODER_PREFIX = "network.encoder.", "network.decoder."
"""Of the weights' names in a Lightning checkpoint."""

Supervision = Literal["full", "weak"]


@dataclass(frozen=True)
class TrainedOn:
    """What a localizer was trained on.

    Attributes:
        generators: Their names.
        supervision: ``full`` (masks) or ``weak`` (image labels).
        files_sha256: Hash of the files' relative paths and sizes.
        data: Name of the data set.
        notice: What everybody who sees scores on these data has to know.
    """

    generators: tuple[str, ...]
    supervision: str
    files_sha256: str
    data: str = ""
    notice: str = ""


@dataclass(frozen=True)
class Description:
    """All that a checkpoint says of a localizer, beside the decoder's weights.

    Attributes:
        encoder: What the frozen encoder is built by.
        layer: The feature layer.
        decoder: What the decoder is built by.
        image_size: Side of the input in pixels.
        identity: Of the frozen encoder.
        pooling: How an image's score is pooled from its map.
        supervision: What it was trained with.
        seed: Of its training.
        learning_rate: Of its training.
        loss: Of its training.
        trained_on: Its data; None where they are not on record.
        thresholds: Chosen on the validation photos of its training; None where that was not done.
    """

    encoder: Spec
    layer: str
    decoder: Spec
    image_size: int
    identity: Identity
    pooling: Pooling = "top"
    supervision: Supervision = "full"
    seed: int = 0
    learning_rate: float = 1e-3
    loss: Spec = "bce"
    trained_on: TrainedOn | None = None
    thresholds: Thresholds | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON and Lightning; :func:`describe` reads it."""
        said = asdict(self)
        if self.trained_on:
            said["trained_on"]["generators"] = list(self.trained_on.generators)
        return {"format": FORMAT, **said}


@dataclass(frozen=True)
class Checkpoint(Description):
    """A trained localizer.

    Attributes:
        name: What it is called: its run, its folder, or its hub id.
        path: Where it was read: a ``.ckpt`` file or a saved folder.
        weights: The decoder's.
    """

    name: str = ""
    path: Path = Path()
    weights: Mapping[str, Tensor] = None  # type: ignore[assignment]

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
        model: A run's folder, a checkpoint (``.ckpt``), a saved folder, or a hub id.

    Raises:
        UserError: If there is none, or it is damaged, newer, or something else; it is named.
    """
    found = find(model)
    if found.is_file():
        content = load_lightning(found)
        description = describe_lightning(content, found)
        weights = content["state_dict"].items()
        state = {
            name.removeprefix(DECODER_PREFIX): weight
            for name, weight in weights
            if name.startswith(DECODER_PREFIX)
        }
    else:
        said, state = _read_saved(found)
        description = describe(said, found)
    if broken := [name for name, weight in state.items() if not weight.isfinite().all()]:
        raise UserError(f"{found}: NaN or infinite numbers in the decoder's {broken[0]}")
    parts = {f.name: getattr(description, f.name) for f in fields(description)}
    return Checkpoint(**parts, name=name_of(model), path=found.absolute(), weights=state)


def find(model: str | Path) -> Path:
    """Return where a trained localizer is on this machine: a checkpoint or a saved folder.

    Raises:
        UserError: If it is nowhere, on the hub neither.
    """
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


def name_of(model: str | Path) -> str:
    """Return what a localizer is called: its hub id, or its run's or own folder or file."""
    path = Path(model).expanduser()
    if not path.exists():
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
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(weights, temporary, {"format": "pt"})
    said = json.dumps(checkpoint.description().as_dict(), indent=2)
    write_text(folder / CONFIG_FILE, said + "\n")


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


def load_network(checkpoint: Checkpoint) -> DeCLIP:
    """Return a checkpoint's network, with its encoder from wherever its weights are found.

    Raises:
        UserError: If the encoder is not to be had here, or is another one.
    """
    try:
        encoder = build_encoder(checkpoint.encoder, checkpoint.layer, checkpoint.image_size)
        return DeCLIP(encoder, load_decoder(checkpoint, encoder))
    except UserError as error:
        source = checkpoint.identity.source
        raise UserError(
            f"{checkpoint.name}, trained on {checkpoint.encoder} ({source}): {error}"
        ) from error


def describe(said: Any, path: Path | str) -> Description:
    """Read a description: the inverse of :meth:`Description.as_dict`.

    Raises:
        UserError: If it is damaged or of a newer version.
    """
    if not isinstance(said, dict) or not isinstance(said.get("format"), int):
        raise UserError(f"{path} describes no localizer of declip-pl")
    if said["format"] > FORMAT:
        raise UserError(f"{path} was written by a newer declip-pl; update this one")
    try:
        said = _from_first_format(said) if said["format"] == 1 else said
        trained_on = said["trained_on"]
        if trained_on:
            trained_on = TrainedOn(**trained_on | {"generators": tuple(trained_on["generators"])})
        known = {f.name: said[f.name] for f in fields(Description) if f.name in said}
        thresholds = said.get("thresholds")
        parts = known | {"identity": Identity(**said["identity"]), "trained_on": trained_on}
        parts |= {"thresholds": Thresholds(**thresholds) if thresholds else None}
        return _checked(Description(**parts))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its description is damaged ({error!r})") from error


def _checked(found: Description) -> Description:
    texts = (found.layer, found.pooling, found.supervision, found.identity.sha256)
    numbers = (found.image_size, found.seed)
    specs = (found.encoder, found.decoder, found.loss)
    chosen = found.thresholds or Thresholds(None, {})
    shares = [value for value in (chosen.pixel, *chosen.image.values()) if value is not None]
    if not all(isinstance(share, float) and 0 <= share <= 1 for share in shares):
        raise ValueError("a threshold is not between 0 and 1")
    if not (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int) for number in numbers)
        and all(isinstance(spec, (str, dict)) for spec in specs)
    ):
        raise TypeError("an entry has the wrong type")
    return found


def _from_first_format(said: dict[str, Any]) -> dict[str, Any]:
    """Bring a description of version 0.1 into today's shape."""
    options = said["hyper_parameters"]
    trained_on = said.get("DolosDataModule")
    names = ("encoder", "layer", "pooling", "supervision", "seed", "learning_rate")
    return {
        **{name: options[name] for name in names if name in options},
        "decoder": said["decoder"],
        "image_size": said["image_size"],
        "identity": said["encoder"],
        "trained_on": dict(trained_on) if trained_on else None,
    }


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
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"{path}: no checkpoint, or a damaged one ({reason})") from error
    if not isinstance(found, dict) or "state_dict" not in found:
        raise UserError(f"{path}: no checkpoint of declip-pl: it does not name its encoder")
    return dict(found)


def _read_saved(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    try:
        said = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return said, load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} holds no localizer, or a damaged one ({error})") from error
