"""Checkpoints of the public implementation, turned into saved localizers of this package.

A published checkpoint is a pickled dict: ``model`` (the decoder's weights below ``fc.`` and, of
networks with one encoder, the whole of CLIP below ``model.``), ``optimizer``, ``total_steps``,
``feature_layer`` and ``decoder_type``. It does not name its encoder, which is deduced from the
decoder's shapes. Nothing of it is run.
"""

import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from declip_pl.errors import UserError
from declip_pl.files import atomic_path
from declip_pl.inference import pretrained
from declip_pl.model.decoder import ConvDecoder, LinearDecoder
from declip_pl.model.encoder import Encoder, build_encoder, identity
from declip_pl.model.resnet import BLOCKS, CLIPResNet
from declip_pl.training.task import DECODER_PREFIX

VIT = "openai/clip-vit-large-patch14"
"""The only ViT of the public implementation."""

VIT_BLOCKS = 24

IMAGE_SIZE = 224

IMPORTED = ("linear", "conv-4", "conv-12", "conv-20")

RESNET_FILE = "rn50.safetensors"
"""An RN50 that came with its decoder, in the folder of the saved localizer."""

_NEEDED, _DROPPED = ("model", "feature_layer", "decoder_type"), ("optimizer", "total_steps")

_NOT_COMPUTED_WITH = (
    # CLIP's image embedding and its text tower, which no decoder reads.
    "visual.ln_post.",
    "visual.proj",
    "visual.attnpool.",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "logit_scale",
)

_OPENAI_NAMES = (
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.patch_embedding", "conv1"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("pre_layrnorm", "ln_pre"),
    ("encoder.layers", "transformer.resblocks"),
    ("self_attn.", "attn."),
    ("layer_norm", "ln_"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
"""Parts of names in a HuggingFace vision tower, and OpenAI's for the same."""

# OpenAI published CLIP in half precision, which keeps 11 bits; copies of it may be rounded to it.
_ROUNDING, _SMALLEST = 2.0**-10, 1e-6  # relative and absolute tolerance
_NAMED_IN_ERRORS = 3


class Published(NamedTuple):
    """What a published checkpoint says.

    Attributes:
        path: Where it was read.
        decoder: ``linear``, ``conv-4``, ``conv-12`` or ``conv-20``.
        layer: The feature layer; the ViT's in a fusion.
        steps: Training steps, or None if it does not say.
        decoder_weights: Below their names in the flat ``Sequential``, ``fc.0.weight``.
        encoder_weights: Below OpenAI's names, ``visual.conv1.weight``. Empty for ViT + RN50, whose
            encoders the public implementation does not save.
    """

    path: Path
    decoder: str
    layer: str
    steps: int | None
    decoder_weights: dict[str, Tensor]
    encoder_weights: dict[str, Tensor]


class _Backbone(NamedTuple):
    """What the shape of a decoder depends on."""

    channels: int
    grid_size: int
    always_resizes: bool


def import_published(
    checkpoint: Path,
    encoder: str | None = None,
    rn50: Path | None = None,
    output: Path | None = None,
) -> None:
    """Turn a checkpoint of the public implementation into a localizer of this package.

    Decoder and layer are read from it, the encoder is deduced from the decoder's shapes. Weights of
    a ViT in it must be those of the ViT that is named; an RN50 in it is kept beside the decoder.

    Args:
        checkpoint: Its file, such as ``model_epoch_best.pth``.
        encoder: The ViT: a hub id or a local folder; or ``RN50``. OpenAI's ViT-L/14 by default.
        rn50: RN50's weights, in place of those on the hub.
        output: Folder to make; ``outputs/imported/`` and the file's name by default.

    Raises:
        UserError: If the file is something else, does not fit the encoder, or holds a weight that
            is not accounted for; if the encoder's weights can't be found; if ``output`` has files.
    """
    output = output or Path("outputs/imported") / checkpoint.stem
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise UserError(f"{output} holds something already; name a new folder (--output DIR)")
    published = read_published(checkpoint)
    name, frozen = _frozen_encoder(published, encoder, rn50, output)
    pretrained.save(_as_checkpoint(published, name, frozen), output)
    steps = "an unknown number of" if published.steps is None else f"{published.steps:,}"
    print(
        f"{checkpoint}: {published.decoder} on {frozen.name} {frozen.layer}, {steps} training steps"
        f"\nencoder: {frozen.source}, {_evidence(published)}"
        f"\nsaved in {output}; use it: declip-pl predict PHOTO --model {output}"
    )


def read_published(path: Path) -> Published:
    """Read a checkpoint of the public implementation, without running anything in it.

    Raises:
        UserError: If the file is missing, damaged or something else, or its decoder can't be
            imported.
    """
    content = _load(path)
    decoder, layer = content["decoder_type"], content["feature_layer"]
    if decoder == "attention":
        raise UserError(
            f"{path}: attention decoders are not imported: the published blocks were never trained "
            "and see only the tokens before them, ours are another network"
        )
    if decoder not in IMPORTED:
        raise UserError(f"{path}: decoder {decoder!r}, expected one of {', '.join(IMPORTED)}")
    if not isinstance(layer, str) or not re.fullmatch(r"layer(0|[1-9]\d?)", layer, re.ASCII):
        raise UserError(f"{path}: feature layer {layer!r}, expected layer0 to layer23")
    weights = content["model"]
    unknown = [name for name in weights if not name.startswith(("fc.", "model."))]
    if unknown:
        raise UserError(f"{path}: {_some(unknown)} belong to no decoder and no encoder")
    return Published(
        path,
        decoder,
        layer,
        steps if isinstance(steps := content.get("total_steps"), int) else None,
        {k: v for k, v in weights.items() if k.startswith("fc.")},
        {k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")},
    )


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: no checkpoint, or one with pickled objects other than tensors, which could "
            "run anything and are not read"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"{path}: no checkpoint, or a damaged one ({reason})") from error
    _check_content(path, content)
    return dict(content)


def _check_content(path: Path, content: Any) -> None:
    if isinstance(content, dict) and "encoder" in content and "state_dict" in content:
        raise UserError(
            f"{path} is a checkpoint of declip-pl already: declip-pl predict PHOTO --model {path}"
        )
    if not isinstance(content, dict) or any(name not in content for name in _NEEDED):
        raise UserError(
            f"{path}: no checkpoint of the public implementation, which is a dict with "
            f"{', '.join(_NEEDED)}"
        )
    unknown = [str(name) for name in content if name not in _NEEDED + _DROPPED]
    if unknown:
        raise UserError(f"{path}: unknown entries {_some(unknown)}")
    weights = content["model"]
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items()
    ):
        raise UserError(f"{path}: its entry 'model' is no state dict (names and tensors)")


def _frozen_encoder(
    published: Published, encoder: str | None, rn50: Path | None, output: Path
) -> tuple[str, Encoder]:
    """Return the encoder that a decoder belongs to, and the name under which it is built."""
    name = _backbone_name(published, encoder)
    own = name == "RN50" and bool(published.encoder_weights)
    if rn50 and (own or name == "ViT"):
        needs = "it holds its own RN50" if own else "it was trained on a ViT alone"
        raise UserError(f"{published.path} has no use for --rn50: {needs}")
    if own:
        # Not CLIP's any more: the public implementation freezes the weights of an RN50, but its
        # batch norms go on counting in training, and the decoder was trained on what they gave.
        rn50 = _save_resnet(published, output / RESNET_FILE)
    resnet = f"RN50:{rn50.resolve()}" if rn50 else "RN50"
    vit = encoder or VIT
    built_from = {"ViT": vit, "RN50": resnet, "ViT+RN50": f"{vit}+{resnet}"}[name]
    frozen = build_encoder(built_from, published.layer, IMAGE_SIZE)
    _check_size(published, frozen, _backbones(published)[name])
    if name == "ViT" and published.encoder_weights:
        _check_vit(published, frozen)
    return built_from, frozen


def _backbone_name(published: Published, encoder: str | None) -> str:
    """Deduce what a decoder was trained on: ``ViT``, ``RN50`` or ``ViT+RN50``."""
    if encoder and (encoder.startswith("RN50:") or "+RN50" in encoder):
        raise UserError(f"--encoder {encoder}: give the ViT or RN50 alone; RN50's file is --rn50")
    where = f"{published.path}: {published.decoder} on {published.layer}"
    beside = _own_encoder(published)
    possible = {
        name: backbone
        for name, backbone in _backbones(published).items()
        if beside in (None, name) and (encoder is None or (encoder == "RN50") == (name == "RN50"))
    }
    if not possible:
        raise UserError(
            f"{where} of {encoder or beside or 'any encoder'} does not exist in the public "
            f"implementation{f'; the checkpoint holds a {beside}' if beside else ''}"
        )
    faults = {
        name: _faults(published.decoder_weights, _decoder(published.decoder, backbone).state_dict())
        for name, backbone in possible.items()
    }
    fitting = [name for name, found in faults.items() if not found]
    if not fitting:
        closest = min(faults, key=lambda name: sum(map(len, faults[name].values())))
        raise UserError(f"{where}: no decoder for {closest}, {_listed(faults[closest])}")
    if len(fitting) > 1:
        raise UserError(
            f"{where} looks the same for {' and '.join(fitting)}: say --encoder RN50 or "
            f"--encoder {VIT}"
        )
    return fitting[0]


def _backbones(published: Published) -> dict[str, _Backbone]:
    number = int(published.layer.removeprefix("layer"))
    backbones = {}
    if number < VIT_BLOCKS:
        backbones["ViT"] = _Backbone(1024, 16, always_resizes=False)
    if published.decoder == "linear":  # its published forward fails on feature maps
        return backbones
    if number < VIT_BLOCKS:
        backbones["ViT+RN50"] = _Backbone(2048, 16, always_resizes=True)
    if 1 <= number <= len(BLOCKS):
        backbones["RN50"] = _Backbone(128 << number, 112 >> number, always_resizes=True)
    return backbones


def _decoder(name: str, backbone: _Backbone) -> nn.Module:
    with torch.device("meta"):
        if name == "linear":
            return LinearDecoder(backbone.channels)
        depth = int(name.removeprefix("conv-"))
        return ConvDecoder(backbone.channels, backbone.grid_size, depth, backbone.always_resizes)


def _own_encoder(published: Published) -> str | None:
    """Return which encoder a checkpoint holds, if any; fusions are saved without theirs."""
    names = published.encoder_weights
    if not names or "visual.class_embedding" in names:
        return "ViT" if names else None
    if "visual.layer1.0.conv1.weight" in names:
        return "RN50"
    raise UserError(
        f"{published.path}: its encoder is neither CLIP's ViT nor its RN50 "
        f"({_some([f'model.{name}' for name in names])})"
    )


def _check_size(published: Published, frozen: Encoder, expected: _Backbone) -> None:
    found = (frozen.channels, frozen.grid_size)
    if found != expected[:2]:
        raise UserError(
            f"{published.path} was trained on another encoder than {frozen.name}: on "
            f"{expected.channels} channels, {expected.grid_size} x {expected.grid_size}, not on "
            f"{found[0]}, {found[1]} x {found[1]}"
        )


def _check_vit(published: Published, frozen: Encoder) -> None:
    ours = _openai_weights(frozen.state_dict())
    theirs = _computed_with(published)
    _check_encoder(published, theirs, ours)
    for name, weight in ours.items():
        if not torch.allclose(theirs[name].float(), weight, _ROUNDING, _SMALLEST):
            difference = (theirs[name].float() - weight).abs().max()
            raise UserError(
                f"{published.path} was trained on another encoder than {frozen.name} "
                f"({frozen.source}): model.{name} differs by up to {difference:.2g}; name that "
                "encoder (--encoder), unless it was trained together with the decoder"
            )


def _save_resnet(published: Published, path: Path) -> Path:
    with torch.device("meta"):
        ours = CLIPResNet(published.layer).state_dict()
    theirs = _computed_with(published)
    _check_encoder(published, theirs, {f"visual.{name}": x for name, x in ours.items()})
    with atomic_path(path) as temporary:
        save_file({name: weight.contiguous() for name, weight in theirs.items()}, temporary)
    return path


def _check_encoder(
    published: Published, theirs: dict[str, Tensor], ours: dict[str, Tensor]
) -> None:
    if faults := _faults(theirs, ours):
        raise UserError(
            f"{published.path}: its encoder up to {published.layer} is not CLIP's, below model.: "
            f"{_listed(faults)}"
        )


def _computed_with(published: Published) -> dict[str, Tensor]:
    """Return an encoder's weights without those that come after the feature layer."""
    last = int(published.layer.removeprefix("layer"))

    def used(name: str) -> bool:
        number = re.match(r"visual\.(?:transformer\.resblocks\.|layer)(\d+)\.", name)
        return not name.startswith(_NOT_COMPUTED_WITH) and (not number or int(number[1]) <= last)

    return {name: weight for name, weight in published.encoder_weights.items() if used(name)}


def _openai_weights(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a HuggingFace vision tower; OpenAI stacks query, key and value."""
    renamed = {}
    for name, weight in vit.items():
        new = f"visual.{name.removeprefix('model.')}"
        for ours, theirs in _OPENAI_NAMES:
            new = new.replace(ours, theirs)
        renamed[new] = weight
    for query in [name for name in renamed if ".q_proj." in name]:
        parts = [renamed.pop(query.replace(".q_", f".{part}_")) for part in "qkv"]
        renamed[query.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    return renamed


def _faults(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, list[str]]:
    faults = {
        "missing": [name for name in ours if name not in theirs],
        "left over": [name for name in theirs if name not in ours],
        "of another shape": [
            name for name in ours if name in theirs and theirs[name].shape != ours[name].shape
        ],
    }
    return {fault: names for fault, names in faults.items() if names}


def _listed(faults: dict[str, list[str]]) -> str:
    return "; ".join(f"{_some(names)} {fault}" for fault, names in faults.items())


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_IN_ERRORS
    return ", ".join(names[:_NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")


def _as_checkpoint(published: Published, encoder: str, frozen: Encoder) -> dict[str, Any]:
    weights = published.decoder_weights
    return {
        "encoder": identity(frozen),
        "decoder": published.decoder,
        "image_size": IMAGE_SIZE,
        "hyper_parameters": {
            "encoder": encoder,
            "layer": published.layer,
            "decoder": published.decoder,
            "image_size": IMAGE_SIZE,
            # Training with image labels fails in the public implementation.
            "supervision": "full",
            "learning_rate": 1e-3,
            # The paper's evaluation; thresholds and figures of others refer to it.
            "pooling": "mean",
            "seed": 0,
        },
        # Neither the training data nor any scores are said.
        "DolosDataModule": None,
        "results": None,
        "state_dict": {DECODER_PREFIX + name: weight for name, weight in weights.items()},
    }


def _evidence(published: Published) -> str:
    if not published.encoder_weights:
        return "on trust: the checkpoint holds no encoder to compare it with"
    if _own_encoder(published) == "RN50":
        return "the checkpoint's own"
    return "whose weights are those in the checkpoint"
