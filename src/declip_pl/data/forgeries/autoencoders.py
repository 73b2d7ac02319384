"""Small autoencoders: what a photo loses on its way through a latent space.

Generative models decode pixels from a coarse grid; how they upsample it is what they leave behind.
These are made of the same parts, with every way of upsampling in use, and learn nothing but to
reproduce untouched photos: less than a minute of training for each.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from declip_pl.data.forgeries.operations import Pixels
from declip_pl.files import atomic_path

WIDTH = 32
"""Channels of all layers but the first and the last."""
LATENT = {4: 8, 8: 24}
"""Channels of the latent grid, by pixels a step of it."""
STEPS, BATCH, CROP = 350, 8, 48
"""Of training: steps, crops in each and their side in px."""
RATE = 3e-3
"""Highest learning rate."""


class Kind(NamedTuple):
    """What an autoencoder is made of.

    Attributes:
        upsampler: How its decoder doubles a map: ``nearest`` or ``bilinear`` and a convolution, a
            ``transposed`` convolution, or a pixel ``shuffle``.
        factor: Pixels for each step of its latent grid.
    """

    upsampler: str
    factor: int

    def __str__(self) -> str:
        """Return its name, such as ``autoencoder-nearest-4``."""
        return f"autoencoder-{self.upsampler}-{self.factor}"


UPSAMPLERS = ("nearest", "bilinear", "transposed", "shuffle")
KINDS = tuple(Kind(upsampler, factor) for upsampler in UPSAMPLERS for factor in LATENT)
"""All of them."""


class Autoencoder(nn.Module):
    """A convolutional autoencoder.

    Each step of the latent grid also holds the mean colour of its pixels, enlarged again at the
    end: colours, which take long to learn, are no trace of an upsampler.

    Args:
        kind: What it is made of.
    """

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        doublings = kind.factor.bit_length() - 1
        down = [_convolution(3, WIDTH), nn.SiLU()]
        up = [_convolution(LATENT[kind.factor], WIDTH), nn.SiLU()]
        for _ in range(doublings):
            down += [nn.Conv2d(WIDTH, WIDTH, 4, stride=2, padding=1), nn.SiLU()]
            up += [*_doubling(kind.upsampler), nn.SiLU()]
        self.encoder = nn.Sequential(*down, _convolution(WIDTH, LATENT[kind.factor]))
        self.decoder = nn.Sequential(*up, _convolution(WIDTH, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        """Reproduce ``[B, 3, H, W]`` in [-1, 1]; sides are multiples of the factor."""
        mode = "nearest" if self.kind.upsampler == "nearest" else "bilinear"
        colours = F.avg_pool2d(pixels, self.kind.factor)
        enlarged = F.interpolate(colours, size=pixels.shape[-2:], mode=mode)
        found: Tensor = enlarged + self.decoder(self.encoder(pixels))
        return found

    @torch.inference_mode()
    def apply_to(self, pixels: Pixels) -> Pixels:
        """Send ``[H, W, 3]`` pixels through it."""
        height, width = pixels.shape[:2]
        factor = self.kind.factor
        padding = (0, -width % factor, 0, -height % factor)
        found = self(F.pad(_scaled(pixels[None]), padding, mode="replicate"))
        found = (found[0, :, :height, :width].movedim(0, -1) + 1) * 127.5
        return np.asarray(found.round().clip(0, 255).to(torch.uint8))

    @property
    def sha256(self) -> str:
        """Hash of its weights."""
        digest = hashlib.sha256(str(self.kind).encode())
        for weight in self.state_dict().values():
            digest.update(weight.contiguous().numpy().data)
        return digest.hexdigest()


def train_autoencoder(
    kind: Kind, photos: Sequence[Pixels], seed: int, steps: int = STEPS
) -> Autoencoder:
    """Train an autoencoder on random crops of photos.

    Args:
        kind: What it is made of.
        photos: ``[H, W, 3]``, sides of :data:`CROP` px at least.
        seed: Decides on its start and on the crops.
        steps: Of training.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(kind).train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        crops = _scaled(
            np.stack([_crop(photos[int(rng.integers(len(photos)))], rng) for _ in range(BATCH)])
        )
        loss = F.l1_loss(model(crops), crops)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.requires_grad_(False).eval()


def save_autoencoder(model: Autoencoder, path: Path) -> None:
    """Write an autoencoder's weights, atomically."""
    with atomic_path(path) as temporary:
        save_file(model.state_dict(), temporary)


def load_autoencoder(kind: Kind, path: Path) -> Autoencoder:
    """Read what :func:`save_autoencoder` wrote.

    Raises:
        OSError: If there is no such file.
        SafetensorError: If it is damaged.
        RuntimeError: If it holds other weights.
    """
    model = Autoencoder(kind)
    model.load_state_dict(load_file(path))
    return model.requires_grad_(False).eval()


def _convolution(channels: int, width: int) -> nn.Module:
    return nn.Conv2d(channels, width, 3, padding=1)


def _doubling(upsampler: str) -> list[nn.Module]:
    if upsampler == "transposed":
        return [nn.ConvTranspose2d(WIDTH, WIDTH, 4, stride=2, padding=1)]
    if upsampler == "shuffle":
        return [_convolution(WIDTH, 4 * WIDTH), nn.PixelShuffle(2)]
    return [nn.Upsample(scale_factor=2, mode=upsampler), _convolution(WIDTH, WIDTH)]


def _crop(photo: Pixels, rng: np.random.Generator) -> Pixels:
    top, left = (int(rng.integers(side - CROP + 1)) for side in photo.shape[:2])
    return photo[top : top + CROP, left : left + CROP]


def _scaled(photos: Pixels) -> Tensor:
    """Return ``[B, H, W, 3]`` levels as ``[B, 3, H, W]`` in [-1, 1]."""
    return torch.from_numpy(photos.copy()).movedim(-1, 1).float() / 127.5 - 1
