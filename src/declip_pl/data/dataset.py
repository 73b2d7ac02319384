"""Samples as tensors, and batches of them."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, TypedDict

import albumentations as A
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from declip_pl.data.layout import Sample, read_image, read_mask


class Item(TypedDict):
    """One photo.

    ``image`` is ``[3, S, S]`` normalised, ``mask`` ``[H, W]`` bool (True = fake), ``label`` 1.0
    for a manipulated photo and 0.0 for a real one, ``path`` its file and ``name`` its path inside
    the split without suffix.
    """

    image: Tensor
    mask: Tensor
    label: float
    path: str
    name: str


class Batch(TypedDict):
    """B photos.

    ``image`` is ``[B, 3, S, S]``, ``mask`` B bool maps of their own sizes, ``label`` ``[B]``
    float, ``path`` and ``name`` B strings.
    """

    image: Tensor
    mask: list[Tensor]
    label: Tensor
    path: list[str]
    name: list[str]


class LocalizationDataset(Dataset[Item]):
    """Photos with masks.

    Args:
        name: What the set is called in results, for example ``test/ldm``.
        samples: Files of the set.
        transform: From uint8 arrays to tensors.
        fake_value: Grey value of fake pixels in the masks.
        seed: Seed of the transform's random part.

    Attributes:
        epoch: Number of the epoch; the same photo is drawn differently in each.
    """

    def __init__(
        self,
        name: str,
        samples: Sequence[Sample],
        transform: A.Compose,
        fake_value: int,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.samples = list(samples)
        self.transform = transform
        self.fake_value = fake_value
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        """Decode and transform one photo.

        Raises:
            UserError: If a file can't be decoded.
        """
        sample = self.samples[index]
        image = read_image(sample.image)
        mask = (
            np.zeros(image.shape[:2], np.uint8)
            if sample.mask is None
            else read_mask(sample.mask, self.fake_value)
        )
        # A draw of its own for each seed, epoch and photo, whatever the workers and wherever a
        # resumed run starts.
        draw = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)
        self.transform.set_random_seed(int(draw[0]))
        tensors: dict[str, Any] = self.transform(image=image, mask=mask)
        return Item(
            image=tensors["image"],
            mask=tensors["mask"].bool(),
            label=float(sample.mask is not None),
            path=self.path(index),
            name=sample.name,
        )

    def every(self, step: int, start: int) -> "LocalizationDataset":
        """Return the same set with every ``step``-th photo from ``start`` on."""
        part = copy(self)
        part.samples = self.samples[start::step]
        return part

    def path(self, index: int) -> str:
        """Return the file of a photo."""
        return str(self.samples[index].image)

    def masks(self) -> Iterator[Tensor]:
        """Yield each photo's mask ``[H, W]`` bool at its own size; the photos are not decoded."""
        for sample in self.samples:
            assert sample.mask is not None
            yield torch.from_numpy(read_mask(sample.mask, self.fake_value)).bool()


class EpochSampler(DistributedSampler[Item]):
    """A shuffled order for each seed and epoch that also tells the data set the epoch.

    Lightning calls ``set_epoch``, after a restart too.
    """

    dataset: LocalizationDataset

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch to come."""
        super().set_epoch(epoch)
        self.dataset.epoch = epoch


def collate(items: Sequence[Item]) -> Batch:
    """Make a batch; masks stay a list because their sizes may differ."""
    return Batch(
        image=torch.stack([item["image"] for item in items]),
        mask=[item["mask"] for item in items],
        label=torch.tensor([item["label"] for item in items]),
        path=[item["path"] for item in items],
        name=[item["name"] for item in items],
    )
