"""A checkpoint of the public implementation: what it says, and whether its weights fit.

It is a pickled dict: ``model`` (the decoder's weights below ``fc.`` and, of networks with one
encoder, the whole of CLIP below ``model.``), ``optimizer``, ``total_steps``, ``feature_layer`` and
``decoder_type``. Nothing of it is run.
"""

import re
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from declip_pl.errors import UserError
from declip_pl.files import atomic_path
from declip_pl.model.checkpoint import KEY
from declip_pl.model.frozen import Encoder
from declip_pl.model.resnet import CLIPResNet
from declip_pl.model.safe_load import check_weights, load_file

IMPORTED = ("linear", "conv-4", "conv-12", "conv-20")

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
        check_weights({k: v for k, v in weights.items() if k.startswith("fc.")}, path),
        {k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")},
    )


def _load(path: Path) -> dict[str, Any]:
    content = load_file(path)
    _check_content(path, content)
    return dict(content)


def _check_content(path: Path, content: Any) -> None:
    ours = isinstance(content, dict) and "state_dict" in content
    if ours and (KEY in content or "encoder" in content):
        raise UserError(
            f"{path} is a checkpoint of declip-pl already: declip-pl predict PHOTO --model "
            f"{quote(str(path))}"
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


def own_encoder(published: Published) -> str | None:
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


def check_vit(published: Published, frozen: Encoder) -> None:
    """Compare a checkpoint's ViT with the one that its decoder is to be used with.

    Raises:
        UserError: If a weight up to the feature layer is missing, left over or another.
    """
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


def save_resnet(published: Published, path: Path) -> Path:
    """Write a checkpoint's RN50 into a file that an encoder can be built from.

    Raises:
        UserError: If a weight up to the feature layer is missing, left over or of another shape.
    """
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
    if found := faults(theirs, ours):
        raise UserError(
            f"{published.path}: its encoder up to {published.layer} is not CLIP's, below model.: "
            f"{listed(found)}"
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


def faults(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, list[str]]:
    """Return the names of weights that are missing, left over or of another shape."""
    found = {
        "missing": [name for name in ours if name not in theirs],
        "left over": [name for name in theirs if name not in ours],
        "of another shape": [
            name for name in ours if name in theirs and theirs[name].shape != ours[name].shape
        ],
    }
    return {fault: names for fault, names in found.items() if names}


def listed(found: dict[str, list[str]]) -> str:
    """Return :func:`faults` in words."""
    return "; ".join(f"{_some(names)} {fault}" for fault, names in found.items())


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_IN_ERRORS
    return ", ".join(names[:_NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")
