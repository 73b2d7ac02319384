"""Heat maps of test photos: the one door by which a method's answers come to be scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from declip_pl.cross_eval.matrix import UNPERTURBED
from declip_pl.data.dataset import LocalizationDataset, collate
from declip_pl.model.features import Features
from declip_pl.model.network import POOLINGS, image_score


@dataclass(frozen=True)
class TestSet:
    """Photos that a method is scored on.

    Attributes:
        name: A generator, or ``real``.
        data: The photos.
        sha256: Hash of their files' contents and of how masks are read.
        perturbation: What the photos went through, ``none`` if nothing.
    """

    name: str
    data: LocalizationDataset
    sha256: str
    perturbation: str = UNPERTURBED


class Localized(NamedTuple):
    """What a method says of B photos.

    Attributes:
        probabilities: ``[B, 1, h, w]`` in [0, 1].
        scores: Each photo's score in [0, 1] by pooling, ``[B]``.
        masks: B true masks ``[H, W]`` bool, each of its own size, on the same device.
        labels: ``[B]`` 1 = fake, 0 = real.
        names: Of the photos.
        places: Of the photos in their set.
    """

    probabilities: Tensor
    scores: dict[str, Tensor]
    masks: list[Tensor]
    labels: Tensor
    names: list[str]
    places: Sequence[int]


class HeatMaps(Protocol):
    """What gives heat maps of test photos."""

    def of_photos(self, test: TestSet) -> Iterator[Localized]:
        """Yield the heat maps of a set's photos, in their order."""

    def of_photo(self, test: TestSet, place: int) -> NDArray[np.float32]:
        """Return the heat map of one photo, ``[h, w]`` in [0, 1]."""


class DecodedMaps:
    """The heat maps that a decoder makes of cached features.

    Args:
        decoder: A trained one.
        device: Where it runs.
    """

    def __init__(self, decoder: nn.Module, device: torch.device) -> None:
        self.decoder = decoder.to(device)
        self.device = device

    def of_photos(self, test: TestSet) -> Iterator[Localized]:
        """Yield the heat maps of a set's photos in batches, 256 x 256 px."""
        loader = DataLoader(test.data, 32, collate_fn=collate)
        done = 0
        for batch in tqdm(loader, f"scoring on {test.name}", leave=False, disable=None):
            assert isinstance(batch["image"], Features)
            logits = self.decoder(batch["image"].to(self.device).float())
            masks = [mask.to(self.device) for mask in batch["mask"]]
            scores: dict[str, Tensor] = {p: image_score(logits, p) for p in POOLINGS}
            places = range(done, done := done + len(masks))
            yield Localized(logits.sigmoid(), scores, masks, batch["label"], batch["name"], places)

    def of_photo(self, test: TestSet, place: int) -> NDArray[np.float32]:
        """Return the heat map of one photo, 256 x 256 px."""
        features = collate([test.data[place]])["image"]
        assert isinstance(features, Features)
        heat: NDArray[np.float32] = (
            self.decoder(features.to(self.device).float()).sigmoid()[0, 0].cpu().numpy()
        )
        return heat
