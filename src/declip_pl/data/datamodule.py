"""The data module: one generator's photos, or several, as batches for each stage."""

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import numpy as np
import torch
from annotated_types import Interval
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from declip_pl.data.check import check_data
from declip_pl.data.dataset import EpochSampler, Item, LocalizationDataset, collate
from declip_pl.data.feature_cache import CachedFeatures
from declip_pl.data.layout import (
    REAL,
    SPLITS,
    Sample,
    Split,
    build_layout,
    file_list_hash,
    find_samples,
    has_reals,
    is_stand_in,
    mask_rule,
    mask_rule_key,
    samples,
    select_generators,
)
from declip_pl.data.masks import Polarity, read_mask
from declip_pl.data.memory import free_memory
from declip_pl.data.stamps import Stamps, check_contents, content_hash, files_of
from declip_pl.data.transforms import Changes, build_transform, make_changes, resize_mask
from declip_pl.errors import UserError
from declip_pl.model.description import MAX_SEED, Supervision, TrainedOn
from declip_pl.model.features import OUTPUT_SIZE, Preprocessing
from declip_pl.parts import Spec

PRELOADED_SHARE = 0.25
"""Features and masks are preloaded into a device's memory if they need less than this share."""

SEEDS = Interval(ge=0, le=MAX_SEED)
"""What NumPy and torch take as a seed."""

Seed = Annotated[int, SEEDS]

NEEDED: dict[str, Split] = {"validate": "valid", "test": "test", "predict": "test"}
"""The one split that a stage of the trainer needs, where that is not all of them."""

STAND_IN_NOTICE = (
    "mini is a stand-in made by simple inpainters from a few photos: "
    "these scores say nothing about Dolos"
)


class LocalizationDataModule(L.LightningDataModule):
    """The photos of one generator subset, or several.

    Training sees the train split of the chosen generators; validation their valid splits as one
    set; testing each generator's test split as a set of its own; prediction the test photos, or
    :attr:`photos`. Where there are real photos, validation and testing add them for image-level
    detection. Weak supervision also trains on the real photos.

    A stage needs its own splits alone: a data set of test photos can be tested on.

    Args:
        root: The data set's folder.
        generator: Any generator of it; several joined by ``+``; ``all``; ``all-but-NAME`` (leave
            one out).
        layout: How the folder is laid out: ``dolos``, or a class.
        polarity: Which grey value of the masks means fake, ``black`` or ``white``; by default
            what the layout says (Dolos: black), which may also read its masks itself.
        augmentation: Changes of training photos: ``none``, ``blur``, ``jitter``, ``jpeg``, ``all``
            (the paper's), or a list of albumentations.
        views: With augmentation and cache: how many random versions of each photo are encoded and
            taken in turn, one in each epoch, the same for every seed. 0 makes and encodes a new
            one every time.
        perturbation: Changes of the photos that are evaluated, as for ``augmentation``, but made
            at a photo's own size.
        batch_size: Photos in a batch, on each device.
        num_workers: Processes that decode photos.
        supervision: ``full`` (masks) or ``weak`` (image labels, reals against fakes).
        check: Decode every file before training and refuse to start if one is damaged.
        seed: Decides the order of the training photos and their augmentation.
        cache: Encode every photo once and keep its features on disk (see
            :mod:`declip_pl.data.feature_cache`).

    Attributes:
        mask_rule: Which grey value of a mask means fake, or the layout's own reader of masks.
        mask_rule_key: The same as a line for keys.
        preprocessing: How photos become the encoder's input; the encoder's is put here before a
            stage begins (:class:`declip_pl.training.encoding.EncodePhotos`).
        train_views: Cached features of the training photos, one for each view.
        evaluation_views: Cached features of the photos that are evaluated.
        photos: Files that ``trainer.predict`` looks at, in place of the test photos.
    """

    def __init__(
        self,
        root: str,
        generator: str,
        layout: Spec = "dolos",
        polarity: Polarity | None = None,
        augmentation: Changes = "none",
        views: Annotated[int, Interval(ge=0, le=1000)] = 0,
        perturbation: Changes = "none",
        batch_size: Annotated[int, Interval(ge=1, le=65536)] = 64,
        num_workers: Annotated[int, Interval(ge=0, le=1024)] = 2,
        supervision: Supervision = "full",
        check: bool = True,
        seed: Seed = 0,
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
        make_changes(augmentation), make_changes(perturbation)  # a wrong name fails here
        self.layout = build_layout(layout, Path(root))
        self.root = self.layout.root
        self.generator = generator
        self.generators = select_generators(self.layout, generator)
        self.mask_rule = mask_rule(self.layout, polarity)
        self.mask_rule_key = mask_rule_key(self.mask_rule, layout)
        self.augmentation = augmentation
        self.views = views
        self.perturbation = perturbation
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.supervision = supervision
        self.check = check
        self.seed = seed
        self.cache = cache
        self.preprocessing = Preprocessing()
        self.train_views: list[CachedFeatures] = []
        self.evaluation_views: list[CachedFeatures] = []
        self.photos: list[str | Path] = []
        self._preloaded: torch.device | None = None
        """The device whose memory holds features and masks during training."""

    @property
    def weak(self) -> bool:
        """Whether training uses image labels only."""
        return self.supervision == "weak"

    @cached_property
    def has_reals(self) -> bool:
        """Whether there are real photos to test on."""
        return has_reals(self.layout, "test")

    def prepare_data(self) -> None:
        """Decode every file that the stage needs once (the preflight check).

        Raises:
            UserError: If a file is damaged or lacks its partner; all of them are listed.
        """
        if self.check:  # once: Lightning calls this before training and again before testing
            self.check = False
            _ = self.stamps  # before the files are read
            stage = (self.trainer.state.fn if self.trainer else None) or ""
            own = stage == "predict" and self.photos
            splits = () if own else (NEEDED[stage],) if stage in NEEDED else SPLITS
            wanted = {split: self._names(split) for split in splits}
            report = check_data(self.layout, wanted, self.mask_rule)
            report.raise_errors()
            print(f"data: {self.root}, {report}")

    def _names(self, split: Split) -> list[str]:
        """Return the generators, and ``real`` where a split has such photos or needs them."""
        seen = self.weak if split == "train" else has_reals(self.layout, split)
        seen |= self.weak and split == "valid"
        return [*self.generators, *([REAL] if seen else [])]

    def preload(self, device: torch.device) -> None:
        """Put features and masks of training and validation into a device's memory, if they fit."""
        sets = [self.train_set(), *self.valid_sets()]
        views = {*self.train_views, *self.evaluation_views}
        needed = sum(v.nbytes for v in views) + sum(data.mask_bytes for data in sets)
        if needed < PRELOADED_SHARE * free_memory(device):
            for features in views:
                features.preload(device)
            self._preloaded = device

    def drop_features(self) -> None:
        """Forget cached features and free the memory that they took."""
        for features in [*self.train_views, *self.evaluation_views]:
            features.unload()
        self.train_views, self.evaluation_views, self._preloaded = [], [], None

    def teardown(self, stage: str) -> None:
        """Free the memory that training took."""
        self.drop_features()

    def train_set(self) -> LocalizationDataset:
        """Return the training photos, with masks at the size of the network's output."""
        transform = build_transform(self.preprocessing, self.augmentation)
        files = self.files("train", *self._names("train"))
        return LocalizationDataset(
            "train", files, transform, self.mask_rule, OUTPUT_SIZE, self.seed, self.stamps
        )

    def valid_sets(self) -> list[LocalizationDataset]:
        """Return the valid splits of the chosen generators as one set, and the real photos."""
        sets = [self.evaluation_set(f"valid/{self.generator}", "valid", *self.generators)]
        if REAL in self._names("valid"):
            sets.append(self.evaluation_set(f"valid/{REAL}", "valid", REAL))
        return sets

    def test_sets(self) -> list[LocalizationDataset]:
        """Return one set for each generator, and the real photos."""
        names = self._names("test")
        return [self.evaluation_set(f"test/{name}", "test", name) for name in names]

    def predict_set(self) -> LocalizationDataset:
        """Return :attr:`photos`, or the test photos, as one set."""
        if not self.photos:
            return self.evaluation_set("predict", "test", *self._names("test"))
        files = [Sample(Path(photo).stem, Path(photo).expanduser(), None) for photo in self.photos]
        transform = build_transform(self.preprocessing)
        return LocalizationDataset("predict", files, transform, self.mask_rule)

    def evaluation_set(self, name: str, split: Split, *generators: str) -> LocalizationDataset:
        """Return photos with masks at their own size, without augmentation."""
        files = self.files(split, *generators)
        transform = build_transform(self.preprocessing, perturbation=self.perturbation)
        return LocalizationDataset(name, files, transform, self.mask_rule, stamps=self.stamps)

    def files(self, split: Split, *generators: str) -> list[Sample]:
        """List the samples of some generators (or ``real``) in a split."""
        return samples(self.layout, split, *generators)

    @cached_property
    def stamps(self) -> Stamps:
        """What the generators' files and the real ones are when they are first asked for."""
        names = (*self.generators, REAL)
        splits = (find_samples(self.layout, split, *names)[0] for split in SPLITS)
        return Stamps(files_of(chain.from_iterable(splits)))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the relative paths and sizes of the generators' files."""
        splits = (find_samples(self.layout, split, *self.generators)[0] for split in SPLITS)
        return file_list_hash(self.root, list(chain.from_iterable(splits)))

    @cached_property
    def content_sha256(self) -> str:
        """A hash of the contents of all photos and masks that training and validation see."""
        sets = [self.train_set(), *self.valid_sets()]
        files = [sample for data in sets for sample in data.samples]
        found = content_hash(files, self.mask_rule_key)
        self.stamps.check(*files_of(files))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, to resume from: which files it was trained on."""
        return {"files_sha256": self.fingerprint, "content_sha256": self.content_sha256}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume a run with files of other contents.

        Raises:
            UserError: If they differ under the same names.
        """
        if self.trainer and self.trainer.state.fn == TrainerFn.FITTING:
            check_contents(state_dict, self.state_dict(), self.root)

    @property
    def trained_on(self) -> TrainedOn:
        """What a model that trains on these data is trained on."""
        notice = STAND_IN_NOTICE if is_stand_in(self.root) else ""
        return TrainedOn(
            tuple(self.generators), self.supervision, self.fingerprint, self.root.name, notice
        )

    def train_masks(self, most: int = 2000) -> Iterator[NDArray[np.bool_]]:
        """Yield masks of manipulated training photos, ``[256, 256]`` bool; perhaps none.

        Args:
            most: Of more masks, this many evenly spread ones are taken.
        """
        files = find_samples(self.layout, "train", *self.generators)[0]
        files = files[:: max(1, -(-len(files) // most))]
        for sample in files:
            if sample.mask:
                yield resize_mask(read_mask(sample.mask, self.mask_rule), OUTPUT_SIZE)
        self.stamps.check(*files_of(files))

    def train_dataloader(self) -> DataLoader[Item]:
        """Return shuffled batches, in an order that depends on the seed and the epoch only."""
        data = self.train_set()
        data.views = self.train_views
        sampler = EpochSampler(data, *self._share(), shuffle=True, seed=self.seed)
        if self.trainer:
            # A resumed run's workers ask for the first photos before Lightning says which epoch.
            # `current_epoch` counts completed epochs: one less after a checkpoint at its end.
            progress = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)  # type: ignore[attr-defined]
        return self._loader(data, sampler=sampler)

    def val_dataloader(self) -> list[DataLoader[Item]]:
        """Return the validation sets."""
        return [self._evaluation_loader(data) for data in self.valid_sets()]

    def test_dataloader(self) -> list[DataLoader[Item]]:
        """Return the test sets."""
        return [self._evaluation_loader(data) for data in self.test_sets()]

    def predict_dataloader(self) -> DataLoader[Item]:
        """Return the photos to predict on."""
        return self._evaluation_loader(self.predict_set())

    def _evaluation_loader(self, data: LocalizationDataset) -> DataLoader[Item]:
        # Each device takes every n-th photo. Lightning's own sampler would repeat photos to even
        # out the shares, and the repeats would count twice in the means.
        world, rank = self._share()
        if len(data) < world:
            raise UserError(f"{data.name} has {len(data)} photos for {world} devices; take fewer")
        data.views = self.evaluation_views
        return self._loader(data.every(world, rank))

    def _share(self) -> tuple[int, int]:
        """Return how many devices share the work and which one this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, data: LocalizationDataset, **options: Any) -> DataLoader[Item]:
        if self._preloaded:
            data.preload(self._preloaded)
        return DataLoader(
            data,
            batch_size=self.batch_size,
            num_workers=0 if self._preloaded else self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available() and not self._preloaded,
            **options,
        )
