"""The frozen image encoders: CLIP ViT, CLIP RN50, and the two side by side.

An encoder turns a normalised photo into the feature map of one named layer and runs nothing
beyond that layer. It never changes: no gradients, always in eval mode, absent from checkpoints.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPVisionModel
from transformers.utils import logging

from declip_pl.errors import UserError
from declip_pl.model.resnet import load_resnet
from declip_pl.model.weights import Weights, resolve, resolve_resnet

# A bar for each tensor and a note on each text weight left out; the summary names the source.
logging.disable_progress_bar()  # type: ignore[no-untyped-call]
logging.set_verbosity_error()  # type: ignore[no-untyped-call]

FUSED_RESNET_LAYER = "layer3"
"""The RN50 layer of the fusion, whatever the ViT's layer is (public implementation)."""


class Features(NamedTuple):
    """What an encoder sees in a batch of photos.

    Attributes:
        grid: ``[B, C, h, w]`` feature map, one vector for each patch.
        cls: ``[B, C]`` class token of the same layer, or None where the encoder has none.
    """

    grid: Tensor
    cls: Tensor | None

    def float(self) -> "Features":
        """Return the same features in fp32."""
        return Features(self.grid.float(), None if self.cls is None else self.cls.float())


class _Frozen(nn.Module):
    """A module that no optimiser, no ``train()`` call and no backward pass can change."""

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "_Frozen":
        """Stay in eval mode: Lightning and users call ``train()`` on whole networks."""
        return super().train(False)

    @cached_property
    def sha256(self) -> str:
        """Hash of the weights (:func:`fingerprint`), computed once."""
        return fingerprint(self)


class _Tower(_Frozen):
    """One network whose weights can be put away while nothing is encoded."""

    model: nn.Module
    source: str
    released = False

    def read(self) -> nn.Module:
        """Return the layers up to the named one, with their weights."""
        raise NotImplementedError

    def release(self) -> None:
        """Free the weights' memory; :meth:`restore` reads them again."""
        _ = self.sha256  # can't be computed without them
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.data = tensor.new_empty(0)
        self.released = True

    def restore(self) -> None:
        """Read the weights again if they were released.

        Raises:
            UserError: If other weights are found in their place.
        """
        if not self.released:
            return
        device = next(self.parameters()).device
        self.model = self.read()
        self.to(device)
        self.freeze()
        if fingerprint(self) != self.sha256:
            raise UserError(f"the weights of {self.source} have changed meanwhile; start again")
        self.released = False  # not before: another try must not get by with the wrong ones


class Encoder(Protocol):
    """What decoders and checkpoints need to know of an encoder."""

    name: str
    """Short name for folders, for example ``clip-vit-base-patch16``."""
    layer: str
    source: str
    """Where the weights came from, in words."""
    channels: int
    grid_size: int
    """Side of the feature map."""
    arithmetic: dict[str, Any]
    """What its weights leave open: what else decides on its features."""
    always_resizes: bool
    """Whether published decoders for it end in a resize even where that changes nothing."""

    @property
    def sha256(self) -> str:
        """Hash of the weights."""

    def __call__(self, pixels: Tensor) -> Features:
        """Encode ``[B, 3, S, S]`` normalised pixels."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the frozen weights."""

    def release(self) -> None:
        """Free the weights' memory until the next photo is encoded."""


class ViTEncoder(_Tower):
    """Blocks 0 to N of a HuggingFace CLIP vision tower.

    ``layerN`` counts transformer blocks from 0 and is the output of block N before the final
    layer norm (``hidden_states[N + 1]`` of a ``CLIPVisionModel``), as in the paper's tables.

    Args:
        encoder: A hub id such as ``openai/clip-vit-large-patch14``, or a local folder.
        layer: ``layer0`` to the last block.
        image_size: Side of the input in pixels; position embeddings are interpolated where it
            is not the size the model was trained at.

    Raises:
        UserError: If the weights can't be found or the layer does not exist.
    """

    always_resizes = False

    def __init__(self, encoder: str, layer: str, image_size: int = 224) -> None:
        super().__init__()
        self._weights = resolve(encoder)
        self._encoder = encoder
        self.layer = layer
        self.model = self.read()
        config = self.model.config
        patch = int(config.patch_size)  # type: ignore[arg-type]
        if image_size % patch:
            raise UserError(
                f"image size {image_size} is no multiple of the {patch} px patches of {encoder}"
            )
        self.name = short_name(encoder)
        self.source = self._weights.source
        self.channels = config.hidden_size
        self.grid_size = image_size // patch
        names = ("hidden_act", "num_attention_heads", "layer_norm_eps")
        self.arithmetic = {name: getattr(config, name) for name in names}
        self._interpolate = image_size != config.image_size
        self.freeze()

    def read(self) -> CLIPVisionModel:
        """Return the tower up to the named block."""
        model = _load_vit(self._weights)
        number = _block_number(self._encoder, self.layer, model.config.num_hidden_layers)
        model.encoder.layers = model.encoder.layers[: number + 1]
        # Only the pooled embedding passes through it, and no decoder reads that.
        model.post_layernorm = nn.Identity()  # type: ignore[assignment]
        return model

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Features:
        """Encode ``[B, 3, S, S]`` normalised pixels into ``[B, C, S/patch, S/patch]``."""
        self.restore()
        tokens = self.model(
            pixels, interpolate_pos_encoding=self._interpolate
        ).last_hidden_state  # [B, 1 + h * w, C]
        # Left as a view: in memory it already is channels-last, the faster layout for convolutions.
        grid = tokens[:, 1:].transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))
        return Features(grid, tokens[:, 0])


class ResNetEncoder(_Tower):
    """CLIP's RN50 up to one of ``layer1`` ... ``layer4`` (256, 512, 1024, 2048 channels).

    Args:
        encoder: ``RN50`` (from the hub) or ``RN50:FILE`` (a safetensors file or a state dict
            with OpenAI's key names).
        layer: ``layer1`` to ``layer4``.
        image_size: Side of the input in pixels, a multiple of 32.

    Raises:
        UserError: If the weights can't be found or the layer does not exist.
    """

    always_resizes = True

    def __init__(self, encoder: str, layer: str, image_size: int = 224) -> None:
        super().__init__()
        stages = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
        if layer not in stages:
            raise UserError(f"RN50 has no {layer!r}; choose one of {', '.join(stages)}")
        self._path, self.source = resolve_resnet(encoder)
        self.layer = layer
        self.model = self.read()
        self.name = short_name(encoder)
        self.channels = 64 * stages[layer]
        self.arithmetic: dict[str, Any] = {}
        self.grid_size = image_size // stages[layer]
        self.freeze()

    def read(self) -> nn.Module:
        """Return the network up to the named stage."""
        return load_resnet(self._path, self.layer)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Features:
        """Encode ``[B, 3, S, S]`` normalised pixels into ``[B, C, S/stride, S/stride]``."""
        self.restore()
        return Features(self.model(pixels), None)


class FusionEncoder(_Frozen):
    """A ViT layer and RN50 ``layer3``, resized bilinearly to the ViT's grid, concatenated.

    Args:
        encoder: Both encoders joined by a plus sign: ``openai/clip-vit-large-patch14+RN50``.
        layer: The ViT's layer.
        image_size: Side of the input in pixels.
    """

    always_resizes = True

    def __init__(self, encoder: str, layer: str, image_size: int = 224) -> None:
        super().__init__()
        vit, resnet = encoder.split("+", 1)
        self.vit = ViTEncoder(vit, layer, image_size)
        self.resnet = ResNetEncoder(resnet, FUSED_RESNET_LAYER, image_size)
        self.name = short_name(encoder)
        self.layer = layer
        self.source = f"{self.vit.source} + {self.resnet.source}"
        self.channels = self.vit.channels + self.resnet.channels
        self.arithmetic = self.vit.arithmetic
        self.grid_size = self.vit.grid_size
        self.freeze()

    def release(self) -> None:
        """Free the weights of both; each reads its own again."""
        _ = self.sha256
        self.vit.release()
        self.resnet.release()

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Features:
        """Encode ``[B, 3, S, S]`` normalised pixels into ``[B, C_vit + C_rn50, h, w]``."""
        patches = self.vit(pixels).grid
        resnet = F.interpolate(self.resnet(pixels).grid, size=patches.shape[-2:], mode="bilinear")
        return Features(torch.cat([patches, resnet], dim=1), None)


def build_encoder(encoder: str, layer: str, image_size: int = 224) -> Encoder:
    """Return the frozen encoder of that name, with nothing built beyond ``layer``.

    Args:
        encoder: ``openai/clip-vit-large-patch14`` (a hub id), a local folder, ``RN50``,
            ``RN50:FILE``, or a ViT and an RN50 joined by ``+``.
        layer: The paper's name of the feature layer, for example ``layer20``.
        image_size: Side of the square input in pixels.

    Raises:
        UserError: If the weights or the layer can't be found.
    """
    if encoder.startswith("RN50"):  # first, as its file's path may hold "+RN50"
        return ResNetEncoder(encoder, layer, image_size)
    if "+RN50" in encoder:
        return FusionEncoder(encoder, layer, image_size)
    return ViTEncoder(encoder, layer, image_size)


def short_name(encoder: str) -> str:
    """Return an encoder's name without organisation or path: ``clip-vit-large-patch14+rn50``."""
    if encoder.startswith("RN50"):
        return "rn50"
    vit, plus_rn50, _ = encoder.partition("+RN50")
    return Path(vit).name + plus_rn50.lower()


def identity(encoder: Encoder) -> dict[str, str]:
    """Return an encoder's name, layer, source and the SHA-256 of its weights."""
    return {
        "name": encoder.name,
        "layer": encoder.layer,
        "source": encoder.source,
        "sha256": encoder.sha256,
    }


def fingerprint(encoder: nn.Module) -> str:
    """Return a SHA-256 over the names and values of the weights that an encoder computes with.

    It tells whether a decoder belongs to an encoder.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        if name.endswith("num_batches_tracked"):  # a counter of training, without effect here
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load_vit(weights: Weights) -> CLIPVisionModel:
    # transformers would fill in whatever is missing with random numbers and only warn.
    try:
        loaded: Any = CLIPVisionModel.from_pretrained(
            weights.path, dtype=torch.float32, output_loading_info=True
        )
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{weights.path} can't be loaded as a CLIP vision tower: {error}"
        ) from error
    model: CLIPVisionModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:
        raise UserError(
            f"{weights.path} is no CLIP vision tower: {len(missing)} weights are missing, "
            f"for example {missing[0]}"
        )
    return model


def _block_number(encoder: str, layer: str, blocks: int) -> int:
    number = layer.removeprefix("layer")
    if layer == number or not number.isdecimal() or int(number) >= blocks:
        raise UserError(f"{encoder} has no {layer!r}; choose one of layer0 to layer{blocks - 1}")
    return int(number)
