"""``declip-pl import``: a checkpoint of the public implementation becomes a saved localizer.

It does not name its encoder, which is deduced from the decoder's shapes.
"""

from pathlib import Path
from shlex import quote

import torch
from torch import nn

from declip_pl.errors import UserError
from declip_pl.inference import saved_folder
from declip_pl.inference.published_checkpoint import (
    Published,
    check_vit,
    faults,
    listed,
    own_encoder,
    read_published,
    save_resnet,
)
from declip_pl.model.checkpoint import Checkpoint
from declip_pl.model.decoder import build_decoder
from declip_pl.model.description import TrainedOn
from declip_pl.model.encoder import Encoder, build_encoder
from declip_pl.model.features import FeatureShape
from declip_pl.model.resnet import BLOCKS

VIT = "openai/clip-vit-large-patch14"
"""The only ViT of the public implementation."""

VIT_BLOCKS = 24

IMAGE_SIZE = 224

RESNET_FILE = "rn50.safetensors"
"""An RN50 that came with its decoder, in the folder of the saved localizer."""

NAMED = "as named at import"
"""The data set of an imported localizer, which only the user knows."""


def import_published(
    checkpoint: Path,
    encoder: str | None = None,
    rn50: Path | None = None,
    output: Path | None = None,
    generator: str | None = None,
) -> None:
    """Turn a checkpoint of the public implementation into a localizer of this package.

    Decoder and layer are read from it, the encoder is deduced from the decoder's shapes. Weights of
    a ViT in it must be those of the ViT that is named; an RN50 in it is kept beside the decoder.

    Args:
        checkpoint: Its file, such as ``model_epoch_best.pth``.
        encoder: The ViT: a hub id or a local folder; or ``RN50``. OpenAI's ViT-L/14 by default.
        rn50: RN50's weights, in place of those on the hub.
        output: Folder to make; ``outputs/imported/`` and the file's name by default.
        generator: What it was trained on, if you know: a generator's name, or several joined by +.
            The checkpoint does not say.

    Raises:
        UserError: If the file is something else, does not fit the encoder, or holds a weight that
            is not accounted for; if the encoder's weights can't be found; if ``output`` has files.
    """
    output = output or Path("outputs/imported") / checkpoint.stem
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise UserError(f"{output} holds something already; name a new folder (--output DIR)")
    published = read_published(checkpoint)
    name, frozen = _frozen_encoder(published, encoder, rn50, output)
    saved_folder.save(_as_checkpoint(published, name, frozen, generator), output)
    steps = "an unknown number of" if published.steps is None else f"{published.steps:,}"
    print(
        f"{checkpoint}: {published.decoder} on {frozen.name} {frozen.layer}, {steps} training steps"
        f"\nencoder: {frozen.source}, {_evidence(published)}"
        f"\nsaved in {output}; use it: declip-pl predict PHOTO --model {quote(str(output))}"
    )


def _frozen_encoder(
    published: Published, encoder: str | None, rn50: Path | None, output: Path
) -> tuple[str, Encoder]:
    """Return the encoder that a decoder belongs to, and the name under which it is built."""
    name = _encoder_kind(published, encoder)
    own = name == "RN50" and bool(published.encoder_weights)
    if rn50 and (own or name == "ViT"):
        needs = "it holds its own RN50" if own else "it was trained on a ViT alone"
        raise UserError(f"{published.path} has no use for --rn50: {needs}")
    if own:
        # Not CLIP's any more: the public implementation freezes the weights of an RN50, but its
        # batch norms go on counting in training, and the decoder was trained on what they gave.
        rn50 = save_resnet(published, output / RESNET_FILE)
    resnet = f"RN50:{rn50.resolve()}" if rn50 else "RN50"
    vit = encoder or VIT
    built_from = {"ViT": vit, "RN50": resnet, "ViT+RN50": f"{vit}+{resnet}"}[name]
    frozen = build_encoder(built_from, published.layer, IMAGE_SIZE)
    _check_size(published, frozen, _shapes(published)[name])
    if name == "ViT" and published.encoder_weights:
        check_vit(published, frozen)
    return built_from, frozen


def _encoder_kind(published: Published, encoder: str | None) -> str:
    """Deduce what a decoder was trained on: ``ViT``, ``RN50`` or ``ViT+RN50``."""
    joined = encoder and (encoder.startswith("RN50:") or "+RN50" in encoder)
    if encoder and joined and not Path(encoder).expanduser().is_dir():
        raise UserError(f"--encoder {encoder}: give the ViT or RN50 alone; RN50's file is --rn50")
    where = f"{published.path}: {published.decoder} on {published.layer}"
    beside = own_encoder(published)
    possible = {
        name: shape
        for name, shape in _shapes(published).items()
        if beside in (None, name) and (encoder is None or (encoder == "RN50") == (name == "RN50"))
    }
    if not possible:
        raise UserError(
            f"{where} of {encoder or beside or 'any encoder'} does not exist in the public "
            f"implementation{f'; the checkpoint holds a {beside}' if beside else ''}"
        )
    found = {
        name: faults(published.decoder_weights, _decoder(published.decoder, shape).state_dict())
        for name, shape in possible.items()
    }
    fitting = [name for name, listing in found.items() if not listing]
    if not fitting:
        closest = min(found, key=lambda name: sum(map(len, found[name].values())))
        raise UserError(f"{where}: no decoder for {closest}, {listed(found[closest])}")
    if len(fitting) > 1:
        raise UserError(
            f"{where} looks the same for {' and '.join(fitting)}: say --encoder RN50 or "
            f"--encoder {VIT}"
        )
    return fitting[0]


def _shapes(published: Published) -> dict[str, FeatureShape]:
    number = int(published.layer.removeprefix("layer"))
    shapes = {}
    if number < VIT_BLOCKS:
        shapes["ViT"] = FeatureShape(1024, 16, always_resizes=False)
    if published.decoder == "linear":  # its published forward fails on feature maps
        return shapes
    if number < VIT_BLOCKS:
        shapes["ViT+RN50"] = FeatureShape(2048, 16, always_resizes=True)
    if 1 <= number <= len(BLOCKS):
        shapes["RN50"] = FeatureShape(128 << number, 112 >> number, always_resizes=True)
    return shapes


def _decoder(name: str, shape: FeatureShape) -> nn.Module:
    with torch.device("meta"):
        return build_decoder(name, shape)


def _check_size(published: Published, frozen: Encoder, expected: FeatureShape) -> None:
    found = frozen.shape[:2]
    if found != expected[:2]:
        raise UserError(
            f"{published.path} was trained on another encoder than {frozen.name}: on "
            f"{expected.channels} channels, {expected.grid_size} x {expected.grid_size}, not on "
            f"{found[0]}, {found[1]} x {found[1]}"
        )


def _as_checkpoint(
    published: Published, encoder: str, frozen: Encoder, generator: str | None
) -> Checkpoint:
    supervision = "full"  # training with image labels fails in the public implementation
    generators = tuple(filter(None, (generator or "").split("+")))
    return Checkpoint(
        encoder=encoder,
        layer=published.layer,
        decoder=published.decoder,
        image_size=IMAGE_SIZE,
        identity=frozen.identity,
        pooling="mean",  # the paper's evaluation; thresholds and figures of others refer to it
        trained_on=TrainedOn(generators, supervision, "", NAMED) if generators else None,
        weights=published.decoder_weights,
    )


def _evidence(published: Published) -> str:
    if not published.encoder_weights:
        return "on trust: the checkpoint holds no encoder to compare it with"
    if own_encoder(published) == "RN50":
        return "the checkpoint's own"
    return "whose weights are those in the checkpoint"
