"""The callback that has every photo encoded once, before a stage begins."""

from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import LocalizationDataset
from declip_pl.data.feature_cache import CachedFeatures, FeatureCache
from declip_pl.data.index import DataIndex
from declip_pl.data.transforms import Changes
from declip_pl.model.frozen import Encoder


class EncodePhotos(Callback):
    """Give the data module the encoder's preprocessing, and the features of a stage's photos.

    Features that are cached already are not computed again. Once all that a stage sees is encoded,
    the encoder's weights are offloaded. A module without a frozen encoder in ``network.encoder``
    gets photos as pixels.
    """

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Encode the photos of a stage.

        Raises:
            UserError: If a photo can't be decoded or the disk is too small.
        """
        data, encoder = getattr(trainer, "datamodule", None), encoder_of(pl_module)
        if encoder is None or not isinstance(data, LocalizationDataModule):
            return
        data.preprocessing = encoder.preprocessing
        data.drop_features()  # a run that failed left its own behind
        if not data.cache or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        fetch = partial(_fetch, encoder, trainer.strategy.root_device, data.index)
        if stage == "fit":
            self._encode_training(data, fetch)
            # What is read once need not be preloaded; what has no views is decoded by other
            # processes.
            if data.train_views:
                data.preload(trainer.strategy.root_device)
        elif not (stage == "predict" and data.photos):  # nobody comes back to those
            data.evaluation_views = [fetch(_sets(data, stage), perturbation=data.perturbation)]
            encoder.offload()

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Offload an encoder that training does not need; Lightning has counted its weights."""
        data, encoder = getattr(trainer, "datamodule", None), encoder_of(pl_module)
        if encoder and isinstance(data, LocalizationDataModule) and data.train_views:
            encoder.offload()

    def _encode_training(self, data: LocalizationDataModule, fetch: Any) -> None:
        valid = data.valid_sets()
        if data.augmentation == "none" and data.perturbation == "none":
            data.train_views = data.evaluation_views = [fetch([data.train_set(), *valid])]
            return
        data.evaluation_views = [fetch(valid, perturbation=data.perturbation)]
        views = 1 if data.augmentation == "none" else data.views
        data.train_views = [
            fetch([data.train_set()], augmentation=data.augmentation, view=view)
            for view in range(views)
        ]


def encoder_of(pl_module: Any) -> Encoder | None:
    """Return a module's frozen encoder; None where it has none, and takes pixels."""
    encoder = getattr(getattr(pl_module, "network", None), "encoder", None)
    return encoder if isinstance(encoder, Encoder) else None


def _sets(data: LocalizationDataModule, stage: str) -> list[LocalizationDataset]:
    if stage == "test":
        return data.test_sets()
    return [data.predict_set()] if stage == "predict" else data.valid_sets()


def _fetch(
    encoder: Encoder,
    device: torch.device,
    index: DataIndex,
    sets: list[LocalizationDataset],
    augmentation: Changes = "none",
    view: int = 0,
    perturbation: Changes = "none",
) -> CachedFeatures:
    photos = list(dict.fromkeys(sample.image for data in sets for sample in data.samples))
    cache = FeatureCache(encoder, augmentation, view, perturbation)
    features = cache.fetch(photos, device, index.hashes)
    for data in sets:
        data.check_photos()
    index.save()
    return features
