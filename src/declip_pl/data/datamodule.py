"""The data module of Dolos and of everything in its layout (mini, the benchmark)."""

from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from declip_pl.data.check import check_data
from declip_pl.data.dataset import EpochSampler, Item, LocalizationDataset, collate
from declip_pl.data.feature_cache import CachedFeatures, FeatureCache, free_memory
from declip_pl.data.layout import (
    FAKE_VALUE,
    REAL,
    SPLITS,
    Convention,
    Sample,
    Split,
    file_list_hash,
    read_mask,
    samples,
    select_generators,
    source_root,
)
from declip_pl.data.transforms import Augmentation, build_transform, resize_mask
from declip_pl.errors import UserError
from declip_pl.model.decoder import OUTPUT_SIZE
from declip_pl.model.encoder import Encoder

HELD_SHARE = 0.25
"""Features and masks are held in a device's memory if they need less than this share of it."""


class DolosDataModule(L.LightningDataModule):
    """The images of one generator subset (or several) in Dolos' layout.

    Training sees the train split of the chosen generators; validation their valid splits as one
    set; testing each generator's test split as a set of its own. Where there are real photos,
    testing adds them for image-level detection, together with the valid split that its threshold
    is chosen on. Weak supervision also trains and validates on the real photos.

    Args:
        root: Folder that holds ``fake/`` and ``real/``, or the folder above (``dolos_data``).
        generator: Any folder under ``fake/``; several joined by ``+``; ``all``; ``all-but-NAME``
            (leave one out).
        source: Which part of Dolos, where ``root`` holds several: ``celebahq`` (the default) or
            ``ffhq``.
        convention: Whose mask polarity the data follow (Dolos: black = fake).
        image_size: Side in pixels that photos are squashed to.
        augmentation: Augmentation of training photos.
        views: With augmentation and cache: how many random versions of each photo are encoded and
            taken in turn, one in each epoch, the same for every seed. 0 makes and encodes a new
            one every time.
        batch_size: Photos in a batch, on each device.
        num_workers: Processes that decode photos.
        supervision: ``full`` (masks) or ``weak`` (image labels, reals against fakes).
        check: Decode every file before training and refuse to start if one is damaged.
        seed: Decides the order of the training photos and their augmentation.
        cache: Encode every photo once and keep its features on disk (see
            :mod:`declip_pl.data.feature_cache`).
    """

    def __init__(
        self,
        root: str,
        generator: str,
        source: str | None = None,
        convention: Convention = "dolos",
        image_size: int = 224,
        augmentation: Augmentation = "none",
        views: int = 0,
        batch_size: int = 64,
        num_workers: int = 2,
        supervision: str = "full",
        check: bool = True,
        seed: int = 0,
        cache: bool = True,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"a batch needs at least one photo; found batch_size {batch_size}")
        if views < 0 or (views and (augmentation == "none" or not cache)):
            raise UserError(
                f"views counts the cached versions of augmented photos; found views {views} with "
                f"augmentation {augmentation} and cache {cache}"
            )
        self.root = source_root(Path(root), source)
        self.generator = generator
        self.generators = select_generators(self.root, generator)
        self.fake_value = FAKE_VALUE[convention]
        self.image_size = image_size
        self.augmentation = augmentation
        self.views = views
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.supervision = supervision
        self.check = check
        self.seed = seed
        self.cache = cache
        self._train_views: list[CachedFeatures] = []
        self._evaluation_views: list[CachedFeatures] = []
        self._holder: torch.device | None = None
        """The device whose memory holds features and masks during training."""
        self.has_reals = (self.root / REAL).is_dir()

    @property
    def weak(self) -> bool:
        """Whether training uses image labels only."""
        return self.supervision == "weak"

    def prepare_data(self) -> None:
        """Decode every file once (the preflight check).

        Raises:
            UserError: If a file is damaged or lacks its partner; all of them are listed.
        """
        if self.check:  # once: Lightning calls this before training and again before testing
            self.check = False
            names = [*self.generators, *([REAL] if self.has_reals else [])]
            report = check_data(self.root, names, self.fake_value)
            report.raise_errors()
            print(f"data: {self.root}, {report}")

    def setup(self, stage: str) -> None:
        """Encode the photos of a stage, unless their features are cached already.

        Raises:
            UserError: If a photo can't be decoded or the disk is too small.
        """
        self.teardown(stage)  # a run that failed left its own behind
        trainer: Any = self.trainer
        if not self.cache or trainer is None or trainer.fast_dev_run:
            return
        sets = {
            "fit": lambda: self.valid_sets(self.weak),
            "validate": lambda: self.valid_sets(self.weak),
            "test": self.test_sets,
        }[stage]()
        network, device = trainer.lightning_module.network, trainer.strategy.root_device
        fetch = partial(self._fetch, network.encoder, device)
        if stage != "fit":
            self._evaluation_views = [fetch(sets)]
        elif self.augmentation == "none":
            self._train_views = self._evaluation_views = [fetch([self.train_set(), *sets])]
        else:
            self._evaluation_views = [fetch(sets)]
            self._train_views = [
                fetch([self.train_set()], self.augmentation, view) for view in range(self.views)
            ]
        if self._train_views or stage != "fit":
            network.encoder.release()  # all that it would see is encoded
        # What is read once need not be held; what has no views is decoded by other processes.
        if stage == "fit" and self._train_views and self._fits([self.train_set(), *sets], device):
            for features in {*self._train_views, *self._evaluation_views}:
                features.hold(device)
            self._holder = device

    def teardown(self, stage: str) -> None:
        """Free the memory that training held."""
        for features in [*self._train_views, *self._evaluation_views]:
            features.release()
        self._train_views, self._evaluation_views, self._holder = [], [], None

    def _fetch(
        self,
        encoder: Encoder,
        device: torch.device,
        sets: list[LocalizationDataset],
        augmentation: Augmentation = "none",
        view: int = 0,
    ) -> CachedFeatures:
        photos = list(dict.fromkeys(sample.image for data in sets for sample in data.samples))
        return FeatureCache(encoder, self.image_size, augmentation, view).fetch(photos, device)

    def _fits(self, sets: list[LocalizationDataset], device: torch.device) -> bool:
        """Whether features and masks leave most of a device's free memory to the network."""
        views = {*self._train_views, *self._evaluation_views}
        needed = sum(v.nbytes for v in views) + sum(data.mask_bytes for data in sets)
        return needed < HELD_SHARE * free_memory(device)

    def train_set(self) -> LocalizationDataset:
        """Return the training photos, with masks at the size of the network's output."""
        transform = build_transform(self.image_size, self.augmentation)
        files = self.files("train", *self.generators, *([REAL] if self.weak else []))
        return LocalizationDataset(
            "train", files, transform, self.fake_value, OUTPUT_SIZE, self.seed
        )

    def valid_sets(self, with_reals: bool) -> list[LocalizationDataset]:
        """Return the valid splits of the chosen generators as one set, and the real photos."""
        sets = [self.evaluation_set(f"valid/{self.generator}", "valid", *self.generators)]
        if with_reals:
            sets.append(self.evaluation_set(f"valid/{REAL}", "valid", REAL))
        return sets

    def test_sets(self) -> list[LocalizationDataset]:
        """Return one set for each generator, the real photos, and the validation sets."""
        names = [*self.generators, *([REAL] if self.has_reals else [])]
        sets = [self.evaluation_set(f"test/{name}", "test", name) for name in names]
        return sets + self.valid_sets(with_reals=self.has_reals)

    def evaluation_set(self, name: str, split: Split, *generators: str) -> LocalizationDataset:
        """Return photos with masks at their own size, without augmentation."""
        files = self.files(split, *generators)
        return LocalizationDataset(name, files, build_transform(self.image_size), self.fake_value)

    def files(self, split: Split, *generators: str) -> list[Sample]:
        """List the samples of some generators (or ``real``) in a split."""
        return [sample for name in generators for sample in samples(self.root, name, split)]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the relative paths and sizes of the generators' files."""
        splits = (self.files(split, *self.generators) for split in SPLITS)
        return file_list_hash(self.root, list(chain.from_iterable(splits)))

    def state_dict(self) -> dict[str, Any]:
        """Return what the data are, for checkpoints."""
        return {
            "generators": self.generators,
            "supervision": self.supervision,
            "files_sha256": self.fingerprint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume a run on other data; testing on other data is fine.

        Raises:
            UserError: If generators, supervision or files are not those of the checkpoint.
        """
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        ours = self.state_dict()
        for name, theirs in state_dict.items():
            if ours[name] != theirs:
                raise UserError(
                    f"this run was trained on other data: its {name} are {theirs}, here they are "
                    f"{ours[name]}; give the new run a name of its own (RUN=..., --run.name)"
                )

    def train_masks(self, most: int = 2000) -> Tensor:
        """Return masks of manipulated training photos, ``[N, 256, 256]`` bool.

        Args:
            most: Of more masks, this many evenly spread ones are taken.
        """
        files = self.files("train", *self.generators)
        files = files[:: -(-len(files) // most)]
        masks = [
            resize_mask(read_mask(sample.mask, self.fake_value), OUTPUT_SIZE)
            for sample in files
            if sample.mask
        ]
        return torch.from_numpy(np.stack(masks)).bool()

    def train_dataloader(self) -> DataLoader[Item]:
        """Return shuffled batches, in an order that depends on the seed and the epoch only."""
        data = self.train_set()
        data.views = self._train_views
        sampler = EpochSampler(data, *self._share(), shuffle=True, seed=self.seed)
        if self.trainer:
            # A resumed run's workers ask for the first photos before Lightning says which epoch.
            # `current_epoch` counts completed epochs: one less after a checkpoint at its end.
            progress = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)  # type: ignore[attr-defined]
        return self._loader(data, sampler=sampler)

    def val_dataloader(self) -> list[DataLoader[Item]]:
        """Return the validation sets."""
        return [self._evaluation_loader(data) for data in self.valid_sets(self.weak)]

    def test_dataloader(self) -> list[DataLoader[Item]]:
        """Return the test sets and the validation sets that thresholds are chosen on."""
        return [self._evaluation_loader(data) for data in self.test_sets()]

    def _evaluation_loader(self, data: LocalizationDataset) -> DataLoader[Item]:
        # Each device takes every n-th photo. Lightning's own sampler would repeat photos to even
        # out the shares, and the repeats would count twice in the means.
        world, rank = self._share()
        if len(data) < world:
            raise UserError(f"{data.name} has {len(data)} photos for {world} devices; take fewer")
        data.views = self._evaluation_views
        return self._loader(data.every(world, rank))

    def _share(self) -> tuple[int, int]:
        """Return how many devices share the work and which one this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, data: LocalizationDataset, **options: Any) -> DataLoader[Item]:
        if self._holder:
            data.hold(self._holder)
        return DataLoader(
            data,
            batch_size=self.batch_size,
            num_workers=0 if self._holder else self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available() and not self._holder,
            **options,
        )
