"""What a network costs apart from any loop: multiply-adds, bytes, a step of its decoder alone."""

import os
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import Network
from benchmarks.settings import Settings
from declip_pl.model.decoder import build_decoder
from declip_pl.model.encoder import Encoder, build_encoder
from declip_pl.model.features import Features


@dataclass(frozen=True)
class Costs:
    """Of one photo.

    Attributes:
        tower: Multiply-adds of the whole vision tower.
        encoder: Those up to the feature layer.
        decoder: Those of the decoder.
        decoder_in_training: Those of the decoder with its backward pass.
        features: Bytes in the feature cache.
    """

    tower: float
    encoder: float
    decoder: float
    decoder_in_training: float
    features: float


Step = Callable[[Features], Tensor]


def costs(network: Network, settings: Settings) -> Costs:
    """Count multiply-adds for one photo, and the bytes of its features in the cache."""
    encoder = _encoder(network, settings)
    decoder, tower = build_decoder(network.decoder, encoder.shape), network.tower()
    pixels = torch.zeros(2, 3, 224, 224)  # batch norm needs two in training
    features: Features = encoder(pixels)
    return Costs(
        tower=multiply_adds(lambda: tower(pixels)) / 2,
        encoder=multiply_adds(lambda: encoder(pixels)) / 2,
        decoder=multiply_adds(lambda: decoder(features)) / 2,
        decoder_in_training=multiply_adds(lambda: decoder(features).sum().backward()) / 2,
        features=sum(part.half().nbytes for part in features if part is not None) / 2,
    )


def multiply_adds(work: Callable[[], object]) -> float:
    """Count the multiply-adds of some work."""
    # The plain products: the counter has no formulas for fused attention.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return float(counter.get_total_flops()) / 2


def decoder_steps(network: Network, settings: Settings) -> dict[str, float]:
    """Time a training step of the decoder as it is, in bf16 and compiled, in seconds."""
    shape = _encoder(network, settings).shape
    channels, side = shape[:2]
    decoder = build_decoder(network.decoder, shape).to(settings.device)
    grid = torch.randn(settings.work.batch_size, channels, side, side, device=settings.device)
    features = Features(grid.contiguous(memory_format=torch.channels_last), None)
    kinds: dict[str, tuple[Step, bool]] = {"plain": (decoder, False), "bf16": (decoder, True)}
    if settings.device.type == "cuda" or shutil.which(os.environ.get("CXX", "g++")):
        compiled = torch.compile(decoder)
        kinds |= {"compiled": (compiled, False), "compiled, bf16": (compiled, True)}
    return {
        kind: statistics.median(settings.times(partial(_step, features, *way), 4)[1:])
        for kind, way in kinds.items()  # the first run compiles and is left out
    }


def _step(features: Features, decoder: Step, bf16: bool) -> None:
    with torch.autocast(features.grid.device.type, torch.bfloat16, enabled=bf16):
        logits = decoder(features)
    loss: Any = logits.float().square().mean()
    loss.backward()


def _encoder(network: Network, settings: Settings) -> Encoder:
    folder = network.save_tower(settings.temporary)
    return build_encoder(str(folder), network.layer_name)
