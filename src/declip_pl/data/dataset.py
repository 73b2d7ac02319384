"""Samples as tensors, and batches of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

import albumentations as A
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from declip_pl.data.cached_features import CachedFeatures
from declip_pl.data.images import read_photo, size_of
from declip_pl.data.layout import Sample
from declip_pl.data.masks import MaskRule, read_mask
from declip_pl.data.stamps import Stamps, files_of
from declip_pl.data.transforms import follow, resize_mask
from declip_pl.model.features import OUTPUT_SIZE, Features


class Item(TypedDict):
    """One photo.

    ``image`` is ``[3, S, S]`` normalised pixels, or the fp16 features that the encoder makes of
    them; ``mask`` ``[H, W]`` bool (True = fake), ``label`` 1.0 for a manipulated photo and 0.0 for
    a real one, ``path`` its file and ``name`` its path inside the split without suffix.
    """

    image: Tensor | Features
    mask: Tensor
    label: float
    path: str
    name: str


class Batch(TypedDict):
    """B photos.

    ``image`` is ``[B, 3, S, S]`` pixels or their features, ``mask`` B bool maps of their own
    sizes, ``label`` ``[B]`` float, ``path`` and ``name`` B strings.
    """

    image: Tensor | Features
    mask: list[Tensor]
    label: Tensor
    path: list[str]
    name: list[str]


class LocalizationDataset(Dataset[Item]):
    """Photos with masks.

    A photo or mask that has changed by the time it is read is an error that names it.

    Args:
        name: What the set is called in results, for example ``test/ldm``.
        samples: Files of the set.
        transform: From uint8 arrays to tensors.
        mask_rule: Which pixels of a mask are fake (:func:`declip_pl.data.layout.mask_rule`).
        mask_size: Side of the masks in pixels, or None to leave them at their own size.
        seed: Seed of the transform's random part.
        stamps: What the files were when the run began; by default what they are now.
        turns: Several lists of samples of one length, of which each epoch takes the next beside
            ``samples``.

    Attributes:
        samples: All of them, of whatever epoch.
        epoch: Number of the epoch; the same photo is drawn differently in each.
        views: What the encoder makes of the photos, where that is cached; they are not decoded.
            Of several views each epoch takes the next.
    """

    def __init__(
        self,
        name: str,
        samples: Sequence[Sample],
        transform: A.Compose,
        mask_rule: MaskRule,
        mask_size: int | None = None,
        seed: int = 0,
        stamps: Stamps | None = None,
        turns: Sequence[Sequence[Sample]] = (),
    ) -> None:
        self.name = name
        self.samples = [*samples, *chain.from_iterable(turns)]
        self.transform = transform
        self.mask_rule = mask_rule
        self.mask_size = mask_size
        self.seed = seed
        self.stamps = stamps or Stamps(files_of(self.samples))
        self.epoch = 0
        self.views: Sequence[CachedFeatures] = ()
        self._turns = len(turns)
        self._turn = len(turns[0]) if turns else 0
        """How many turns there are, and how many photos each of them has."""
        self._preloaded: dict[int, Tensor] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        """Return the number of photos in an epoch."""
        return len(self.samples) - self._turn * max(0, self._turns - 1)

    def __getitem__(self, index: int) -> Item:
        """Return one photo.

        Raises:
            UserError: If a file can't be decoded, or has changed since the run began.
        """
        place = self._place(index)
        sample = self.samples[place]
        return Item(
            image=self._features(sample) if self.views else self._pixels(place),
            mask=self._preloaded[place] if self._preloaded else self._mask(sample),
            label=float(sample.mask is not None),
            path=str(sample.image),
            name=sample.name,
        )

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return the photos of a batch; cached features are read in the order of the disk."""
        items = {index: self[index] for index in sorted(indices, key=self._stored)}
        return [items[index] for index in indices]

    def mask_bytes(self, sides: Callable[[Path], tuple[int, int]] = size_of) -> int:
        """Return the size of all masks as :meth:`preload` keeps them, a byte for each pixel.

        Args:
            sides: Returns the sides of a mask in px.
        """
        if self.mask_size:
            return len(self.samples) * self.mask_size**2
        own = (OUTPUT_SIZE, OUTPUT_SIZE)  # of what has no mask
        return sum(math.prod(sides(s.mask) if s.mask else own) for s in self.samples)

    def preload(self, device: torch.device) -> None:
        """Decode all masks into a device's memory; items take them from there from now on."""
        with ThreadPoolExecutor() as pool:
            masks = [mask.to(device) for mask in pool.map(self._mask, self.samples)]
        self._preloaded = dict(enumerate(masks))

    def mask(self, index: int) -> Tensor:
        """Return the mask ``[H, W]`` bool of a photo of this epoch; the photo is not decoded."""
        return self._mask(self.samples[self._place(index)])

    def _features(self, sample: Sample) -> Features:
        return self._view()[sample.image]

    def _view(self) -> CachedFeatures:
        return self.views[self.epoch % len(self.views)]

    def _place(self, index: int) -> int:
        """Return the position among all samples of a photo of this epoch."""
        first = len(self) - self._turn
        skipped = self.epoch % self._turns * self._turn if index >= first and self._turns else 0
        return index + skipped

    def _stored(self, index: int) -> tuple[Path, int]:
        """Return where a photo lies: its shard and row there, or just its position."""
        place = self._place(index)
        return self._view().places[self.samples[place].image] if self.views else (Path(), place)

    def _pixels(self, place: int) -> Tensor:
        # A draw of its own for each seed, epoch and photo, whatever the workers and wherever a
        # resumed run starts.
        draw = np.random.SeedSequence([self.seed, self.epoch, place]).generate_state(1)
        self.transform.set_random_seed(int(draw[0]))
        photo = self.photo(str(self.samples[place].image))
        pixels: Tensor = self.transform(image=photo)["image"]
        return pixels

    def _mask(self, sample: Sample) -> Tensor:
        if sample.mask is None:  # nothing is fake, at any size
            return torch.zeros(OUTPUT_SIZE, OUTPUT_SIZE, dtype=torch.bool)
        mask = self._read_mask(sample.mask, sample.mask_rule)
        mask = resize_mask(mask, self.mask_size) if self.mask_size else mask
        return torch.from_numpy(mask)

    def _read_mask(self, path: Path, own: MaskRule | None) -> NDArray[np.bool_]:
        mask = read_mask(path, own or self.mask_rule)
        self.stamps.check(path)
        return follow(self.transform, mask)

    def every(self, step: int, start: int) -> "LocalizationDataset":
        """Return the same set with every ``step``-th photo from ``start`` on; it has no turns."""
        part = copy(self)
        part.samples, part._preloaded = self.samples[start::step], {}
        return part

    def path(self, index: int) -> str:
        """Return the file of a photo of this epoch."""
        return str(self.samples[self._place(index)].image)

    def photo(self, path: str) -> NDArray[np.uint8]:
        """Return the pixels of one of the photos, ``[H, W, 3]`` uint8, as they are in its file."""
        photo = read_photo(path)
        self.stamps.check(Path(path))
        return photo

    def photo_size(self, path: str) -> tuple[int, int]:
        """Return width and height of one of the photos, without decoding it; it is opened once."""
        if path not in self._sizes:
            self._sizes[path] = size_of(Path(path))
        return self._sizes[path]

    def shown(self, path: str) -> NDArray[np.uint8]:
        """Return the pixels of one of the photos, cut as its mask is, otherwise as in its file."""
        return follow(self.transform, self.photo(path))

    def check_photos(self) -> None:
        """Make sure that what was made of the photos was made of those that the run began with.

        Raises:
            UserError: If one has changed.
        """
        self.stamps.check(*(sample.image for sample in self.samples))

    def masks(self) -> Iterator[Tensor]:
        """Yield each photo's mask ``[H, W]`` bool at its own size; the photos are not decoded."""
        for sample in self.samples:
            assert sample.mask is not None
            yield torch.from_numpy(self._read_mask(sample.mask, sample.mask_rule))


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
        image=_stack([item["image"] for item in items]),
        mask=[item["mask"] for item in items],
        label=torch.tensor([item["label"] for item in items]),
        path=[item["path"] for item in items],
        name=[item["name"] for item in items],
    )


def _stack(images: list[Any]) -> Tensor | Features:
    if isinstance(images[0], Tensor):
        return torch.stack(images)
    # Channels-last in memory, as the encoder's own output is.
    grid = torch.stack([image.grid.movedim(0, -1) for image in images]).movedim(-1, 1)
    has_cls = images[0].cls is not None
    return Features(grid, torch.stack([image.cls for image in images]) if has_cls else None)
