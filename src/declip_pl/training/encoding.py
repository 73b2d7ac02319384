"""The callback that has every photo encoded once, before a stage begins."""

from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import LocalizationDataset
from declip_pl.data.ranks import Ranks, all_ranks
from declip_pl.data.room import check_room
from declip_pl.data.wanted import evaluated, trained
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
        """Offload an encoder that training does not need; Lightning has counted its weights.

        Averages of weights have a copy of the encoder, with which they exchange its weights.
        """
        data, encoder = getattr(trainer, "datamodule", None), encoder_of(pl_module)
        averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        unneeded = isinstance(data, LocalizationDataModule) and data.train_views and not averaged
        if encoder and unneeded:
            encoder.offload()


def encoder_of(pl_module: Any) -> Encoder | None:
    """Return a module's frozen encoder; None where it has none, and takes pixels."""
    encoder = getattr(getattr(pl_module, "network", None), "encoder", None)
    return encoder if isinstance(encoder, Encoder) else None


def _encode(
    encoder: Encoder, data: LocalizationDataModule, stage: str, device: torch.device, ranks: Ranks
) -> None:
    """Give the data module its views; all ranks call this together."""
    sets, training = _sets(data, stage), trained(data) if stage == "fit" else []
    evaluation = evaluated(data, sets)
    as_one = [view.changes for view in training] == [evaluation.changes]
    if as_one:  # photos that are trained on and evaluated
        both = dict.fromkeys([*training.pop().photos, *evaluation.photos])
        evaluation = replace(evaluation, photos=tuple(both))
    wanted = [evaluation, *training]
    if ranks.first:
        tested_next = stage == "fit" and data.is_tested_next
        later = [evaluated(data, data.test_sets())] if tested_next else []
        hashes = data.index.hashes
        check_room([(w.cache(encoder), hashes(w.photos).values()) for w in (*later, *wanted)])
    found = []
    for part in wanted:
        found.append(part.cache(encoder).fetch(part.photos, device, data.index.hashes, ranks))
        data.stamps.check(*part.photos)
        if ranks.first:
            data.index.save()
    data.evaluation_views, data.train_views = found[:1], found[:1] if as_one else found[1:]


def _sets(data: LocalizationDataModule, stage: str) -> list[LocalizationDataset]:
    if stage == "test":
        return data.test_sets()
    return [data.predict_set()] if stage == "predict" else data.valid_sets()
