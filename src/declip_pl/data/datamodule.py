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

from declip_pl.data.cached_features import CachedFeatures
from declip_pl.data.check import check_data
from declip_pl.data.chosen import ChosenPhotos
from declip_pl.data.dataset import EpochSampler, Item, LocalizationDataset, collate
from declip_pl.data.forgeries.sources import Forgeries
from declip_pl.data.layout import FORGERIES, REAL, SPLITS, Sample, Split
from declip_pl.data.masks import Polarity, read_mask
from declip_pl.data.memory import free_memory
from declip_pl.data.stamps import check_contents, content_hash, files_of
from declip_pl.data.transforms import Changes, build_transform, make_changes, resize_mask
from declip_pl.errors import UserError
from declip_pl.model.description import Seed, Supervision
from declip_pl.model.features import OUTPUT_SIZE, Preprocessing
from declip_pl.parts import Spec

PRELOADED_SHARE = 0.25
"""Features and masks are preloaded into a device's memory if they need less than this share."""

NEEDED: dict[str, Split] = {"validate": "valid", "test": "test", "predict": "test"}
"""The one split that a stage of the trainer needs, where that is not all of them."""


class LocalizationDataModule(ChosenPhotos, L.LightningDataModule):
    """The photos of one generator subset, or several.

    Training sees the train split of the chosen generators; validation their valid splits as one
    set; testing each generator's test split as a set of its own; prediction the test photos, or
    :attr:`photos`. Where there are real photos, validation and testing add them for image-level
    detection. Weak supervision also trains on the real photos. Forgeries are a further source of
    training photos, and a validation set of their own; beside them the untouched photos that they
    were made of are seen, too.

    A stage needs its own splits alone: a data set of test photos can be tested on.

    Args:
        root: The data set's folder or file, or ``LAYOUT:PATH``. ``none`` trains on forgeries of
            the photos in given folders alone, which are then seen as they are, too; there is
            nothing to test on.
        generator: Any generator of it; several joined by ``+``; ``all``; ``all-but-NAME`` (leave
            one out); ``none`` trains on forgeries alone and tests on all.
        layout: How it is laid out, where the root does not say so: a name (``declip-pl data info``
            lists them), or a class.
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
        check: Decode every file before training that was not decoded before, and refuse to start
            if one is damaged.
        seed: Decides the order of the training photos and their augmentation.
        cache: Encode every photo once and keep its features on disk (see
            :mod:`declip_pl.data.feature_cache`).
        forgeries: Forgeries of untouched photos to train on as well (see
            :mod:`declip_pl.data.forgeries`).
        train_photos: How many of the generators' training photos are used: as many of each, the
            same for every seed, and fewer are a part of more. By default all.

    Attributes:
        generators: Those that are tested on.
        mask_rule: Which grey value of a mask means fake, or the layout's own reader of masks.
        mask_rule_key: The same as a line for keys.
        preprocessing: How photos become the encoder's input; the encoder's is put here before a
            stage begins (:class:`declip_pl.training.encoding.EncodePhotos`).
        train_views: Cached features of the training photos, one for each view.
        evaluation_views: Cached features of the photos that are evaluated.
        photos: Files that ``trainer.predict`` looks at, in place of the test photos.
        is_tested_next: Whether a test follows the training: then training does not begin where
            that test could not be made.
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
        forgeries: Forgeries | None = None,
        train_photos: Annotated[int, Interval(ge=1, le=10**9)] | None = None,
    ) -> None:
        L.LightningDataModule.__init__(self)
        if batch_size < 1:
            raise UserError(f"a batch needs at least one photo; found batch_size {batch_size}")
        if views < 0 or (views and (augmentation == "none" or not cache)):
            raise UserError(
                f"views counts the cached versions of augmented photos; found views {views} with "
                f"augmentation {augmentation} and cache {cache}"
            )
        make_changes(augmentation), make_changes(perturbation)  # a wrong name fails here
        ChosenPhotos.__init__(
            self, root, generator, layout, polarity, supervision, forgeries, train_photos
        )
        self.augmentation = augmentation
        self.views = views
        self.perturbation = perturbation
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.check = check
        self.seed = seed
        self.cache = cache
        self.preprocessing = Preprocessing()
        self.train_views: list[CachedFeatures] = []
        self.evaluation_views: list[CachedFeatures] = []
        self.photos: list[str | Path] = []
        self.is_tested_next = False
        self._preloaded: torch.device | None = None
        """The device whose memory holds features and masks during training."""

    def prepare_data(self) -> None:
        """Check every file that the stage needs (the preflight check), and make forgeries.

        What is in the index as it was at an earlier check is not decoded again.

        Raises:
            UserError: If a file is damaged or lacks its partner; all of them are listed.
        """
        stage = (self.trainer.state.fn if self.trainer else None) or ""
        if self.check:  # once: Lightning calls this before training and again before testing
            self.check = False
            _ = self.stamps  # before the files are read
            own = stage == "predict" and self.photos
            splits = () if own else (NEEDED[stage],) if stage in NEEDED else SPLITS
            wanted = {split: self.names(split) for split in splits}
            report = check_data(self.layout, wanted, self.mask_rule, self.index, self.mask_rule_key)
            self.index.save()
            report.raise_errors()
            print(f"data: {self.root}, {report}")
        if self.forgeries and stage not in ("test", "predict"):
            _ = self.forged

    def setup(self, stage: str) -> None:
        """Refuse a set of which a device would have no photo.

        Raises:
            UserError: If a set that is evaluated has fewer photos than there are devices.
        """
        world, _ = self._share()
        if world == 1:
            return
        sets = self.valid_sets() if stage in ("fit", "validate") else []
        tests = stage == "test" or (stage == "fit" and self.is_tested_next)
        sets += self.test_sets() if tests else []
        sets += [self.predict_set()] if stage == "predict" else []
        for data in sets:
            if len(data) < world:
                raise UserError(
                    f"{data.name} has fewer photos ({len(data)}) than there are devices "
                    f"({world}), of which each takes a share; give fewer (--trainer.devices)"
                )

    def preload(self, device: torch.device) -> None:
        """Put features and masks of training and validation into a device's memory, if they fit.

        Processes on CPUs share the machine's memory.
        """
        sets = [self.train_set(), *self.valid_sets()]
        views = {*self.train_views, *self.evaluation_views}
        masks = sum(data.mask_bytes(self.index.sides) for data in sets)
        needed = sum(v.nbytes for v in views) + masks
        sharing = self.trainer.num_devices if self.trainer and device.type == "cpu" else 1
        if needed * sharing < PRELOADED_SHARE * free_memory(device):
            for features in views:
                features.preload(device)
            self._preloaded = device
        self._save_index()

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
        files = [*self.training_photos(), *self.further_photos("train")]
        turns = self.forged_samples("train")
        rule, seed, stamps = self.mask_rule, self.seed, self.stamps
        return LocalizationDataset(
            "train", files, transform, rule, OUTPUT_SIZE, seed, stamps, turns
        )

    def valid_sets(self) -> list[LocalizationDataset]:
        """Return the valid photos of the chosen generators as one set, forgeries, untouched photos.

        Thresholds are chosen on untouched photos as they are: one that was re-processed as a whole
        is marked more often, and a floor that spares it costs regions of other generators.
        """
        made = list(chain.from_iterable(self.forged_samples("valid")))
        fakes, reals = self.trained_generators, [REAL] if REAL in self.names("valid") else []
        found = {
            f"valid/{self.generator}": self.files("valid", *fakes),
            f"valid/{FORGERIES}": [sample for sample in made if sample.mask],
            f"valid/{REAL}": [*self.files("valid", *reals), *self.further_photos("valid")],
        }
        return [self._evaluated(name, files) for name, files in found.items() if files]

    def test_sets(self) -> list[LocalizationDataset]:
        """Return one set for each generator, and the real photos."""
        names = self.names("test")
        return [self.evaluation_set(f"test/{name}", "test", name) for name in names]

    def predict_set(self) -> LocalizationDataset:
        """Return :attr:`photos`, or the test photos, as one set."""
        if not self.photos:
            return self.evaluation_set("predict", "test", *self.names("test"))
        files = [Sample(Path(photo).stem, Path(photo).expanduser(), None) for photo in self.photos]
        transform = build_transform(self.preprocessing)
        return LocalizationDataset("predict", files, transform, self.mask_rule)

    def evaluation_set(self, name: str, split: Split, *generators: str) -> LocalizationDataset:
        """Return photos with masks at their own size, without augmentation."""
        return self._evaluated(name, self.files(split, *generators))

    def _evaluated(self, name: str, files: list[Sample]) -> LocalizationDataset:
        transform = build_transform(self.preprocessing, perturbation=self.perturbation)
        return LocalizationDataset(name, files, transform, self.mask_rule, stamps=self.stamps)

    @cached_property
    def content_sha256(self) -> str:
        """A hash of the contents of all photos and masks that training and validation see."""
        sets = [self.train_set(), *self.valid_sets()]
        files = [sample for data in sets for sample in data.samples]
        found = content_hash(files, self.mask_rule_key, self.index.hashes)
        self.stamps.check(*files_of(files))
        self._save_index()
        return found

    def _save_index(self) -> None:
        """Keep what was read of the files; of several processes the first has read the same."""
        if self._share()[1] == 0:
            self.index.save()

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

    def train_masks(self, most: int = 2000) -> Iterator[NDArray[np.bool_]]:
        """Yield masks of manipulated training photos, ``[256, 256]`` bool; perhaps none.

        Args:
            most: Of more masks, this many evenly spread ones are taken.
        """
        files = self.train_mask_files(most)
        for sample in files:
            if sample.mask:
                rule = sample.mask_rule or self.mask_rule
                yield resize_mask(read_mask(sample.mask, rule), OUTPUT_SIZE)
        self.stamps.check(*files_of(files))

    def train_mask_files(self, most: int = 2000) -> list[Sample]:
        """Return the photos whose masks :meth:`train_masks` yields."""
        files = self.masked_training_photos()
        return files[:: max(1, -(-len(files) // most))]

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
