"""The frozen encoder: what all encoders have in common.

An encoder turns a normalised photo into the feature map of one named layer, or of several at once,
and runs nothing beyond the deepest. It never changes: no gradients, always in eval mode, absent
from checkpoints.
"""

import hashlib
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from declip_pl.errors import UserError
from declip_pl.model.features import Features, FeatureShape, Identity, Preprocessing


class Encoder(nn.Module):
    """A network that no optimiser, no ``train()`` call and no backward pass can change.

    Attributes:
        model: The layers that are run. Its weights can be offloaded while nothing is encoded.
        name: Short name for folders, for example ``clip-vit-base-patch16``.
        layer: The feature layer, or several.
        source: Where the weights came from, in words.
        shape: Of the features.
        preprocessing: How photos become its input.
        arithmetic: What its weights leave open and features depend on.
    """

    model: nn.Module
    name: str
    layer: str
    source: str
    shape: FeatureShape
    preprocessing: Preprocessing
    arithmetic: dict[str, Any]
    _offloaded = False

    def read(self) -> nn.Module:
        """Return the layers up to the deepest named one, with their weights."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Features:
        """Encode ``[B, 3, S, S]`` normalised pixels into ``[B, C, h, h]`` features."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Make it constant; every constructor ends with this."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in eval mode: Lightning and users call ``train()`` on whole networks."""
        return super().train(False)

    @cached_property
    def sha256(self) -> str:
        """Hash of the weights (:func:`fingerprint`), computed once."""
        return fingerprint(self)

    @property
    def identity(self) -> Identity:
        """What tells this encoder from others."""
        return Identity(self.name, self.layer, self.source, self.sha256, self.arithmetic)

    def offload(self) -> None:
        """Free the weights' memory; :meth:`reload` reads them again."""
        _ = self.sha256  # can't be computed without them
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.data = tensor.new_empty(0)
        self._offloaded = True

    def reload(self) -> None:
        """Read the weights again if they were offloaded; encoders call it before each photo.

        Raises:
            UserError: If other weights are found in their place.
        """
        if not self._offloaded:
            return
        device = next((weight.device for weight in self.parameters()), torch.device("cpu"))
        self.model = self.read()
        self.to(device)
        self.freeze()
        if fingerprint(self) != self.sha256:
            raise UserError(f"the weights of {self.source} have changed meanwhile; start again")
        self._offloaded = False  # not before: another try must not get by with the wrong ones


def fingerprint(encoder: nn.Module) -> str:
    """Return a SHA-256 over the names and values of the weights that an encoder computes with."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        if name.endswith("num_batches_tracked"):  # a counter of training, without effect here
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def seeded(make: Any) -> nn.Module:
    """Return what ``make`` builds, its random start the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = make()
        return module
