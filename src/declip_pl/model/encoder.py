"""Encoders by name: what ``model.encoder`` of a recipe may say."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from declip_pl import parts
from declip_pl.errors import UserError
from declip_pl.model.frozen import Encoder
from declip_pl.model.own_encoder import ModuleEncoder, Pixels
from declip_pl.model.resnet_encoder import FusionEncoder, ResNetEncoder
from declip_pl.model.transformers_encoder import TransformersEncoder
from declip_pl.model.weights import Weights
from declip_pl.parts import Registry, Spec

__all__ = ["ENCODERS", "Encoder", "Plan", "build_encoder", "plan_encoder", "short_name"]

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
        layer: The paper's name of the feature layer, for example ``layer20``; of a vision tower
            several joined by ``+``.
        image_size: Side of the square input in pixels, by default the encoder's own.

    Raises:
        UserError: If the encoder, its weights or the layer can't be found.
    """
    plan = plan_encoder(encoder, layer, image_size)
    built: Encoder = plan.make(*plan.names)
    return built


class Plan(NamedTuple):
    """What an encoder is built from.

    Attributes:
        names: Of the weights that are read: none, one, or a ViT's and an RN50's.
        make: Builds it from as many names, or from the weights themselves.
    """

    names: tuple[str, ...]
    make: Callable[..., Encoder]


def plan_encoder(encoder: Spec, layer: str, image_size: int | None, trusted: bool = True) -> Plan:
    """Return what an encoder is built from, without looking for it.

    Args:
        encoder: See :func:`build_encoder`.
        layer: The feature layer.
        image_size: Side of the input in pixels, by default the encoder's own.
        trusted: Whether the name may be a path of this machine.

    Raises:
        UserError: If it is a class that does not exist or may not be used.
    """
    tower = partial(TransformersEncoder, layer, image_size)
    if not isinstance(encoder, str):
        return _plan_class(encoder, layer, image_size)
    if trusted and Path(encoder).expanduser().is_dir():  # whatever it is called
        return Plan((encoder,), tower)
    if ENCODERS.knows(encoder) or _CLASS.fullmatch(encoder):
        return _plan_class(encoder, layer, image_size)
    if encoder == "RN50" or encoder.startswith("RN50:"):
        return Plan((encoder,), partial(ResNetEncoder, layer, image_size))
    if len(names := _RN50.split(encoder, maxsplit=1)) > 1:
        return Plan(tuple(names), partial(FusionEncoder, layer, image_size))
    return Plan((encoder,), tower)


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


def _plan_class(encoder: Spec, layer: str, image_size: int | None) -> Plan:
    name, init_args = parts.read_spec(encoder)
    part = ENCODERS.find(name)
    if part is not TransformersEncoder or "name" not in init_args:
        return Plan((), partial(_from_class, part, encoder, layer, image_size))
    if not isinstance(init_args["name"], str):
        raise UserError(f"the encoder's name is {init_args['name']!r}; expected text")

    def make(weights: str | Weights) -> Encoder:
        spec = {"class_path": name, "init_args": {**init_args, "name": weights}}
        built: Encoder = ENCODERS.make(spec, layer, image_size)
        return built

    return Plan((init_args["name"],), make)


def _from_class(part: Any, encoder: Spec, layer: str, image_size: int | None) -> Encoder:
    name, init_args = parts.read_spec(encoder)
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
