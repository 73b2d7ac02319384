"""Vision towers of transformers as frozen encoders: CLIP, SigLIP, DINOv2/v3, ViT, MAE, ConvNeXt.

Every one of them holds its blocks (or stages) in one ``ModuleList``. What comes after the named
layer is cut off, so ``last_hidden_state`` is that layer's output. Where that does not hold for a
tower, building it is an error. Of several named layers the deepest counts; the outputs of the
others are taken on the way.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import logging

from declip_pl.errors import UserError
from declip_pl.model.features import CLIP_MEAN, CLIP_STD, Features, FeatureShape, Preprocessing
from declip_pl.model.frozen import Encoder, seeded
from declip_pl.model.mirror import round_as_mirror
from declip_pl.model.weights import Weights, resolve

TOWERS = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
    "vit_mae": "ViTModel",  # MAE's own class masks patches at random
}
"""Classes of towers that ``AutoModel`` would load together with something else."""

_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATISTICS = {
    **dict.fromkeys(("clip", "clip_vision_model"), (CLIP_MEAN, CLIP_STD)),
    **dict.fromkeys(("siglip", "siglip_vision_model", "vit"), _HALF),
    **dict.fromkeys(("siglip2", "siglip2_vision_model"), _HALF),
    **dict.fromkeys(("vit_mae", "dinov2", "dinov2_with_registers", "dinov3_vit"), _IMAGENET),
    **dict.fromkeys(("convnext", "convnextv2", "dinov3_convnext"), _IMAGENET),
}
"""Mean and std of each family, for folders without a ``preprocessor_config.json``."""

ARITHMETIC = ("hidden_act", "num_attention_heads", "layer_norm_eps", "rope_theta")
"""Entries of ``config.json`` that change features and leave the weights as they are."""

FINAL = ("post_layernorm", "layernorm", "norm", "layer_norm", "pooler", "head")
"""What follows the last block in one tower or another."""

_TAKEN: ContextVar[dict[nn.Module, Tensor] | None] = ContextVar("_TAKEN", default=None)
"""Outputs of named blocks, by block, in the call that is under way in this thread."""


class TransformersEncoder(Encoder):
    """Blocks (or stages) 0 to N of a vision tower of transformers.

    ``layerN`` counts transformer blocks from 0 and is the output of block N before the final layer
    norm (``hidden_states[N + 1]``), as in the paper's tables; of a ConvNeXt it counts stages.
    Features of several layers stand one after the other along the channels, in the order in which
    they are named; the class token's likewise.

    Args:
        layer: ``layer0`` to the last block, or several joined by ``+``: ``layer3+layer5``.
        image_size: Side of the input in pixels, by default the tower's own; position embeddings
            are interpolated where it is not the size the tower was trained at.
        name: A hub id such as ``openai/clip-vit-large-patch14``, a local folder, or the weights
            themselves.
        init: ``pretrained``, or ``random``: the same architecture without what it learned.

    Raises:
        UserError: If the weights can't be found, a layer does not exist or is named twice, or the
            maps of several layers differ in size.
    """

    def __init__(
        self,
        layer: str,
        image_size: int | None,
        name: str | Weights,
        init: Literal["pretrained", "random"] = "pretrained",
    ) -> None:
        super().__init__()
        if init not in ("pretrained", "random"):
            raise UserError(f"{name}: init is pretrained or random, not {init!r}")
        self._weights = name if isinstance(name, Weights) else resolve(name)
        self._init, self._id = init, self._weights.name
        self.layer = layer
        self.model = self.read()
        self._config: Any = self.model.config
        self.preprocessing = _preprocessing(self._weights, self._config, image_size)
        self.name = Path(self._id).name + "-random" * (init == "random")
        self.source = self._weights.source
        if init == "random":
            self.source = f"random start in the architecture of {self.source}"
        found = ((key, getattr(self._config, key, None)) for key in ARITHMETIC)
        self.arithmetic = {key: value for key, value in found if value is not None}
        self.freeze()
        self.shape = self._measured()

    def read(self) -> nn.Module:
        """Return the tower up to the deepest named block."""
        model = _load(self._weights) if self._init == "pretrained" else _random(self._weights)
        blocks = _blocks(model, self._id)
        self._numbers = _block_numbers(self._id, self.layer, len(blocks))
        del blocks[max(self._numbers) + 1 :]
        for number in self._numbers:
            if blocks[number] is not blocks[-1]:
                blocks[number].register_forward_hook(_take)
        for name in FINAL:
            if hasattr(model, name):
                setattr(model, name, _Skip())
        return model

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Features:
        """Encode ``[B, 3, S, S]`` normalised pixels into ``[B, C, h, h]`` features."""
        self.reload()
        return self._features(self._outputs(pixels), pixels.shape[-1])

    def _features(self, outputs: list[Tensor], size: int) -> Features:
        if outputs[0].ndim == 4:  # noqa: PLR2004 - a convolutional tower's maps
            return Features(_joined(outputs, dim=1), None)
        tokens = _joined(outputs, dim=2)
        side = self._side(tokens.shape[1], size)
        # Left as a view: in memory it already is channels-last, the faster layout for convolutions.
        patches = tokens[:, -(side**2) :].transpose(1, 2)
        grid = patches.unflatten(2, (side, side))  # type: ignore[no-untyped-call]
        return Features(grid, tokens[:, 0] if tokens.shape[1] > side**2 else None)

    def _outputs(self, pixels: Tensor) -> list[Tensor]:
        """Return what the named blocks give, in the order in which they are named."""
        taken: dict[nn.Module, Tensor] = {}
        before = _TAKEN.set(taken)
        try:
            deepest = self.model(**self._inputs(pixels)).last_hidden_state
        finally:
            _TAKEN.reset(before)
        blocks = _blocks(self.model, self._id)
        named = (blocks[number] for number in self._numbers)
        return [deepest if block is blocks[-1] else taken[block] for block in named]

    def _inputs(self, pixels: Tensor) -> dict[str, Any]:
        if "siglip2" in self._config.model_type:
            return _as_patches(pixels, self._config.patch_size)
        learned = getattr(self._config, "image_size", None) != pixels.shape[-1]
        interpolates = self._config.model_type.startswith(("clip", "siglip", "vit"))
        return {"pixel_values": pixels} | (
            {"interpolate_pos_encoding": True} if learned and interpolates else {}
        )

    @property
    def _patch(self) -> int | None:
        """Side of a token's patch in pixels; None where tokens grow coarser from stage to stage."""
        patch = getattr(self._config, "patch_size", None)
        return patch if isinstance(patch, int) and not hasattr(self._config, "depths") else None

    def _side(self, tokens: int, size: int) -> int:
        """Return the side of the grid in a row of tokens, some of which come before it."""
        return size // self._patch if self._patch else math.isqrt(tokens)

    @torch.no_grad()
    def _measured(self) -> FeatureShape:
        """Look at a black photo: what are its features, and are they the named layers' output?

        Where the grid follows from the patches' size, four of them are enough.
        """
        seen: list[Any] = []
        last = _blocks(self.model, self._id)[-1]
        hook = last.register_forward_hook(lambda *call: seen.append(call[-1]))
        size = self.preprocessing.image_size
        side = min(size, 2 * self._patch) if self._patch else size
        try:
            outputs = self._outputs(torch.zeros(1, 3, side, side))
            self._check_sizes(outputs)
            grid = self._features(outputs, side).grid
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self._id} takes no photos of {side} px: {error}") from error
        finally:
            hook.remove()
        output = seen[-1][0] if isinstance(seen[-1], tuple) else seen[-1]
        deepest = outputs[self._numbers.index(max(self._numbers))]
        if output.flatten()[-1] != deepest.flatten()[-1]:
            raise UserError(f"{self._id}: its layers can't be taken apart; wrap it in a class")
        grid_size = size // self._patch if self._patch else grid.shape[2]
        return FeatureShape(grid.shape[1], grid_size)

    def _check_sizes(self, outputs: list[Tensor]) -> None:
        shapes = [tuple(output.shape[1:]) for output in outputs]
        if len(set(shapes)) > 1:
            sizes = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
            raise UserError(f"{self._id}: maps of {self.layer} differ in size ({sizes}); name one")


class _Skip(nn.Identity):
    """Stands where a layer is left out; SigLIP 2's head is called with a mask too."""

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return x


def _preprocessing(weights: Weights, config: Any, image_size: int | None) -> Preprocessing:
    patch = getattr(config, "patch_size", None)
    size = image_size or getattr(config, "image_size", None)
    if size is None and hasattr(config, "num_patches"):  # SigLIP 2 takes photos of any size
        size = math.isqrt(config.num_patches) * config.patch_size
    size = size[0] if isinstance(size, (list, tuple)) else size or 224
    if isinstance(patch, int) and size % patch:
        raise UserError(f"image size {size} is no multiple of the {patch} px patches")
    try:
        file = Path(weights.path) / "preprocessor_config.json"
        said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        mean, std = said.get("image_mean"), said.get("image_std")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error})") from error
    if not (mean and std):
        if config.model_type not in STATISTICS:
            raise UserError(
                f"{weights.path} has no preprocessor_config.json, and no mean and std are known "
                f"for {config.model_type}; put one there with image_mean and image_std"
            )
        mean, std = STATISTICS[config.model_type]
    return Preprocessing(int(size), tuple(map(float, mean)), tuple(map(float, std)))


def _as_patches(pixels: Tensor, patch: int) -> dict[str, Tensor]:
    """Cut photos into the rows of pixels, channels last, that SigLIP 2 takes."""
    count, _, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    cut = pixels.reshape(count, -1, rows, patch, columns, patch)
    flat = cut.permute(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, -1)
    return {
        "pixel_values": flat,
        "pixel_attention_mask": flat.new_ones(flat.shape[:2], dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * count, device=pixels.device),
    }


def _blocks(model: nn.Module, name: str) -> nn.ModuleList:
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            return module
    raise UserError(f"{name} has no list of blocks; wrap it in a class of your own")


def _block_numbers(encoder: str, layer: str, blocks: int) -> list[int]:
    numbers = [_block_number(encoder, word, blocks) for word in layer.split("+")]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{encoder}: {layer!r} names a layer twice; name each once")
    return numbers


def _block_number(encoder: str, layer: str, blocks: int) -> int:
    number = layer.removeprefix("layer")
    if layer == number or not number.isdecimal() or int(number) >= blocks:
        raise UserError(f"{encoder} has no {layer!r}; choose one of layer0 to layer{blocks - 1}")
    return int(number)


def _take(block: nn.Module, _: Any, output: Any) -> None:
    """Keep a named block's output for the call that is under way (a forward hook)."""
    if (taken := _TAKEN.get()) is not None:
        taken[block] = output[0] if isinstance(output, tuple) else output


def _joined(outputs: list[Tensor], dim: int) -> Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim)


def _config_of(weights: Weights) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(weights.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{weights.path} describes no model of transformers: {error}") from error
    return config


def _class_of(config: Any) -> Any:
    return getattr(transformers, TOWERS.get(config.model_type, "AutoModel"))


def _random(weights: Weights) -> nn.Module:
    config = _config_of(weights)
    tower: Any = _class_of(config)
    if hasattr(tower, "from_config"):  # AutoModel's
        return seeded(lambda: tower.from_config(config))
    # The tower's part of the file, in its own terms (ViT's of an MAE).
    own = tower.config_class.from_pretrained(weights.path)
    return seeded(lambda: tower(own))


def _load(weights: Weights) -> nn.Module:
    tower = _class_of(_config_of(weights))
    # transformers would fill in whatever is missing with random numbers and only warn.
    try:
        with _quiet():
            model, told = tower.from_pretrained(
                weights.path, dtype=torch.float32, output_loading_info=True
            )
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{weights.path} can't be loaded as a vision tower: {error}") from error
    missing = sorted(key for key in told["missing_keys"] if not key.startswith(FINAL))
    if missing:
        raise UserError(
            f"{weights.path} is no {type(model).__name__}: {len(missing)} weights are missing, "
            f"for example {missing[0]}"
        )
    if weights.rounded:
        round_as_mirror(model)
    return model  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back a bar for each tensor and a note on each weight of a text tower."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
