"""Encoders by name: what ``model.encoder`` of a recipe may say."""

import re
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from declip_pl import parts
from declip_pl.errors import UserError
from declip_pl.model.frozen import Encoder
from declip_pl.model.own_encoder import ModuleEncoder, Pixels
from declip_pl.model.resnet_encoder import FusionEncoder, ResNetEncoder
from declip_pl.model.transformers_encoder import TransformersEncoder
from declip_pl.parts import Registry, Spec

__all__ = ["ENCODERS", "Encoder", "build_encoder", "short_name"]

ENCODERS: Registry[Any] = Registry("encoder")
ENCODERS.register("transformers")(TransformersEncoder)
ENCODERS.register("pixels")(Pixels)

_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""A class path; hub ids have an organisation before a slash."""

_RN50 = re.compile(r"\+(?=RN50(?::|$))")


def build_encoder(encoder: Spec, layer: str, image_size: int | None = None) -> Encoder:
    """Return the frozen encoder of that name, with nothing built beyond ``layer``.

    Args:
        encoder: ``openai/clip-vit-large-patch14`` (a hub id), a local folder, ``RN50``,
            ``RN50:FILE``, a ViT and an RN50 joined by ``+``, ``pixels``, or a class.
        layer: The paper's name of the feature layer, for example ``layer20``.
        image_size: Side of the square input in pixels, by default the encoder's own.

    Raises:
        UserError: If the encoder, its weights or the layer can't be found.
    """
    if not isinstance(encoder, str):
        return _from_class(encoder, layer, image_size)
    if Path(encoder).expanduser().is_dir():  # whatever it is called
        return TransformersEncoder(layer, image_size, encoder)
    if ENCODERS.knows(encoder) or _CLASS.fullmatch(encoder):
        return _from_class(encoder, layer, image_size)
    if encoder == "RN50" or encoder.startswith("RN50:"):
        return ResNetEncoder(layer, image_size, encoder)
    if len(names := _RN50.split(encoder, maxsplit=1)) > 1:
        return FusionEncoder(layer, image_size, *names)
    return TransformersEncoder(layer, image_size, encoder)


def short_name(encoder: Spec) -> str:
    """Return an encoder's name without organisation or path: ``clip-vit-large-patch14+rn50``."""
    if not isinstance(encoder, str):
        init_args = parts.read_spec(encoder)[1]
        named = Path(str(init_args["name"])).name if "name" in init_args else parts.short(encoder)
        return f"{named}-random" if init_args.get("init") == "random" else named
    if encoder == "RN50" or encoder.startswith("RN50:"):
        return "rn50"
    if Path(encoder).expanduser().is_dir():
        return Path(encoder).name
    vit, *rn50 = _RN50.split(encoder, maxsplit=1)
    return Path(vit).name + "+rn50" * bool(rn50)


def _from_class(encoder: Spec, layer: str, image_size: int | None) -> Encoder:
    name, init_args = parts.read_spec(encoder)
    part = ENCODERS.find(name)
    if isinstance(part, type) and issubclass(part, Encoder):
        built: Encoder = ENCODERS.make(encoder, layer, image_size)
        return built
    if not (isinstance(part, type) and issubclass(part, nn.Module)):
        raise UserError(f"the encoder {name} is no torch.nn.Module")
    settings = {"class": name, "init_args": init_args}
    if code := parts.code_of(part):
        settings["code"] = code
    make = partial(ENCODERS.make, encoder)
    return ModuleEncoder(layer, image_size, parts.short(encoder), make, settings)
