"""The callback that has every photo encoded once, before a stage begins."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from declip_pl.data.cached_features import CachedFeatures
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import LocalizationDataset
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.data.index import DataIndex
from declip_pl.data.ranks import Ranks, all_ranks
from declip_pl.data.room import check_room
from declip_pl.model.frozen import Encoder


class EncodePhotos(Callback):
    """Give the data module the encoder's preprocessing, and the features of a stage's photos.

    Features that are cached already are not computed again; of several processes each encodes its
    share. Once all that a stage sees is encoded, the encoder's weights are offloaded. A module
    without a frozen encoder in ``network.encoder`` gets photos as pixels.
    """

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Encode the photos of a stage.

        Raises:
            UserError: If a photo can't be decoded, or the disk is too small for these photos and
                those of a test that follows training.
        """
        data, encoder = getattr(trainer, "datamodule", None), encoder_of(pl_module)
        if encoder is None or not isinstance(data, LocalizationDataModule):
            return
        data.preprocessing = encoder.preprocessing
        data.drop_features()  # a run that failed left its own behind
        if not data.cache or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if stage == "predict" and data.photos:  # nobody comes back to those
            return
        device = trainer.strategy.root_device
        with all_ranks() as ranks:
            _encode(encoder, data, stage, device, ranks)
        if stage != "fit":
            encoder.offload()
        # What is read once need not be preloaded; what has no views is decoded by other processes.
        elif data.train_views:
            data.preload(device)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Offload an encoder that training does not need; Lightning has counted its weights."""
        data, encoder = getattr(trainer, "datamodule", None), encoder_of(pl_module)
        if encoder and isinstance(data, LocalizationDataModule) and data.train_views:
            encoder.offload()


def encoder_of(pl_module: Any) -> Encoder | None:
    """Return a module's frozen encoder; None where it has none, and takes pixels."""
    encoder = getattr(getattr(pl_module, "network", None), "encoder", None)
    return encoder if isinstance(encoder, Encoder) else None


class _Wanted(NamedTuple):
    """Photos whose features are wanted, and the cache that they are kept in."""

    cache: FeatureCache
    sets: Sequence[LocalizationDataset]

    def photos(self) -> list[Path]:
        return list(dict.fromkeys(sample.image for data in self.sets for sample in data.samples))

    def fetch(self, device: torch.device, index: DataIndex, ranks: Ranks) -> CachedFeatures:
        features = self.cache.fetch(self.photos(), device, index.hashes, ranks)
        for data in self.sets:
            data.check_photos()
        if ranks.first:
            index.save()
        return features


def _encode(
    encoder: Encoder, data: LocalizationDataModule, stage: str, device: torch.device, ranks: Ranks
) -> None:
    """Give the data module its views; all ranks call this together."""
    evaluated = FeatureCache(encoder, perturbation=data.perturbation)
    training = _training(encoder, data) if stage == "fit" else []
    # Where nothing is changed, photos that are trained on and evaluated are encoded as one.
    as_one = stage == "fit" and data.augmentation == data.perturbation == "none"
    sets = [data.train_set()] if as_one else []
    evaluation = _Wanted(evaluated, [*sets, *_sets(data, stage)])
    if ranks.first:
        tested_next = stage == "fit" and data.is_tested_next
        later = [_Wanted(evaluated, data.test_sets())] if tested_next else []
        wanted = [*later, evaluation, *training]
        check_room([(w.cache, data.index.hashes(w.photos()).values()) for w in wanted])
    data.evaluation_views = [evaluation.fetch(device, data.index, ranks)]
    data.train_views = [view.fetch(device, data.index, ranks) for view in training]
    if as_one:
        data.train_views = data.evaluation_views


def _training(encoder: Encoder, data: LocalizationDataModule) -> list[_Wanted]:
    """Return the views of the training photos that are not encoded with those for validation."""
    if data.augmentation == "none":
        plain = data.perturbation == "none"
        return [] if plain else [_Wanted(FeatureCache(encoder), [data.train_set()])]
    return [
        _Wanted(FeatureCache(encoder, data.augmentation, view), [data.train_set()])
        for view in range(data.views)
    ]


def _sets(data: LocalizationDataModule, stage: str) -> list[LocalizationDataset]:
    if stage == "test":
        return data.test_sets()
    return [data.predict_set()] if stage == "predict" else data.valid_sets()
