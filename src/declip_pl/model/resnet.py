"""CLIP's RN50 image tower up to one of its four layers, with OpenAI's parameter names.

Architecture: Radford et al. 2021, section 2.4: a ResNet-50 with a stem of three convolutions
and an average pool in place of every stride. The attention pool that ends CLIP's own tower makes
one vector of a photo; localisation needs the feature map before it, so it is not built.
"""

import zipfile
from pathlib import Path
from typing import cast

import safetensors
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from declip_pl.errors import UserError
from declip_pl.model import safe_load

BLOCKS = {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}
"""Bottlenecks in each layer of a ResNet-50."""
WIDTH = 64
"""Channels of the stem's output and of layer1's 3 x 3 convolutions; each later layer doubles."""
EXPANSION = 4
"""A bottleneck's output channels over those of its 3 x 3 convolution."""

_PREFIX = "visual."  # of the image tower in a file that holds the whole of CLIP
_NOT_BUILT = (
    "attnpool.",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "logit_scale",
    # OpenAI's archives store these three numbers among the weights.
    "input_resolution",
    "context_length",
    "vocab_size",
)
_NAMED_IN_ERRORS = 3


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions around a shortcut.

    Args:
        channels_in: Channels of the input.
        width: Channels of the 3 x 3 convolution; the output has four times as many.
        stride: 2 halves the map by an average pool, in the branch and in the shortcut alike.
    """

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = EXPANSION * width
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module = nn.Identity()
        if channels_in != channels_out:  # true of every strided block as well
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, channels_in, H, W]`` to ``[B, 4 * width, H / stride, W / stride]``."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.pool(F.relu(self.bn2(self.conv2(branch))))
        branch = self.bn3(self.conv3(branch))
        return F.relu(branch + self.downsample(self.pool(x)))


class CLIPResNet(nn.Module):
    """The feature map of one layer; nothing beyond that layer exists.

    Use it in eval mode: CLIP's features come from the stored batch-norm statistics.

    Args:
        layer: The last layer to run: ``layer1`` ... ``layer4``, with 256, 512, 1024 and 2048
            channels at 1/4, 1/8, 1/16 and 1/32 of the input's side.
    """

    def __init__(self, layer: str = "layer4") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH // 2)
        self.conv2 = nn.Conv2d(WIDTH // 2, WIDTH // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(WIDTH // 2)
        self.conv3 = nn.Conv2d(WIDTH // 2, WIDTH, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(WIDTH)
        self.pool = nn.AvgPool2d(2)
        self._layers = list(BLOCKS)[: list(BLOCKS).index(layer) + 1]
        for index, name in enumerate(self._layers):
            self.add_module(name, _layer(index, BLOCKS[name]))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` normalised pixels to ``[B, C, H / s, W / s]`` features."""
        x: Tensor = F.relu(self.bn1(self.conv1(pixels)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.pool(F.relu(self.bn3(self.conv3(x))))
        for name in self._layers:
            x = self.get_submodule(name)(x)
        return x


def load_resnet(path: Path, layer: str) -> CLIPResNet:
    """Build the tower up to ``layer`` with the weights of ``path``, in fp32.

    Args:
        path: A ``.safetensors`` file or a saved state dict (also below the key ``state_dict``)
            with OpenAI's names, with or without the prefix ``visual.``.
        layer: ``layer1`` ... ``layer4``.

    Raises:
        UserError: If the file can't be read, lacks a key, has one that RN50 does not know, or
            has one of another shape.
    """
    model = CLIPResNet(layer)
    state = {key.removeprefix(_PREFIX): value for key, value in _read(path).items()}
    unused = _NOT_BUILT + tuple(f"{name}." for name in BLOCKS if name > layer)
    state = {key: value for key, value in state.items() if not key.startswith(unused)}
    _check(model, state, path)
    model.load_state_dict(state)  # copies into fp32 parameters, whatever the file's precision
    return model


def _layer(index: int, blocks: int) -> nn.Sequential:
    width = WIDTH * 2**index
    # The width doubles from layer to layer, so the one before gave half of this one's output.
    channels_in = WIDTH if index == 0 else EXPANSION * width // 2
    first = Bottleneck(channels_in, width, stride=1 if index == 0 else 2)
    rest = [Bottleneck(EXPANSION * width, width, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"no RN50 weights at {path}: no such file")
    if path.suffix != ".safetensors" and _is_torchscript(path):
        raise UserError(
            f"{path} is a TorchScript archive (OpenAI's RN50.pt), which holds code and is not "
            "read; use open_clip_model.safetensors of timm/resnet50_clip.openai on the hub"
        )
    if path.suffix != ".safetensors":
        return _state_dict(safe_load.load_file(path), path)
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is no safetensors file: {error}") from error


def _is_torchscript(path: Path) -> bool:
    # Both kinds of .pt file are zip archives; only TorchScript's have a table of constants.
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise UserError(f"{path} holds no state dict (names and tensors) of CLIP's RN50")
    return cast(dict[str, Tensor], state)


def _check(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    # Batch norm in eval mode does not use its step counter, and old files have none.
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    faults = {
        "missing": [key for key in needed if key not in state],
        "not part of RN50": [key for key in state if key not in own],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    text = [f"{_some(keys)} {fault}" for fault, keys in faults.items() if keys]
    if text:
        raise UserError(f"{path} does not fit CLIP's RN50 with OpenAI's names: {'; '.join(text)}")


def _some(keys: list[str]) -> str:
    more = len(keys) - _NAMED_IN_ERRORS
    return ", ".join(keys[:_NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")
