"""What is timed of declip-pl: the same work as :mod:`benchmarks.published`, by its own code."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.settings import Work
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import LocalizationDataset, collate
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.inference.localizer import Localizer
from declip_pl.metrics import localization_scores
from declip_pl.metrics.accumulate import LocalizationMetrics
from declip_pl.model.checkpoint import Checkpoint
from declip_pl.model.features import Features
from declip_pl.training.task import LocalizationTask


class Ours:
    """A localizer of this package.

    Args:
        encoder: Folder of the encoder.
        layer: Name of the feature layer.
        decoder: Name of the decoder.
        work: What it trains on.
    """

    def __init__(self, encoder: Path, layer: str, decoder: str, work: Work) -> None:
        self.task = LocalizationTask(str(encoder), layer, decoder)
        self.device = work.device
        self.network = self.task.network.to(self.device)
        self.data = LocalizationDataModule(
            str(work.root), work.generator, batch_size=work.batch_size, check=False
        )
        self.data.preprocessing = self.network.encoder.preprocessing

    def train(self, epochs: int, checkpoint: Path) -> list[float]:
        """Train for some epochs, save, and return each epoch's seconds; the first encodes."""
        clock = _Clock()
        trainer = L.Trainer(
            accelerator=self.device.type, devices=1, max_epochs=epochs, limit_val_batches=0,
            callbacks=[clock], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(self.task, self.data)
        trainer.save_checkpoint(checkpoint, weights_only=True)
        self.network.to(self.device)
        return clock.seconds()

    @torch.inference_mode()
    def evaluate(self, generator: str) -> None:
        """Score every test photo of a generator with all metrics, straight from the pixels."""
        self.network.eval()
        data = self.data.evaluation_set(generator, "test", generator)
        metrics = LocalizationMetrics().to(self.device)
        for batch in self._batches(data, self.data.num_workers):
            heat = self.network(batch["image"].to(self.device)).sigmoid()
            metrics.update(heat, [mask.to(self.device) for mask in batch["mask"]])
        metrics.compute()

    @torch.inference_mode()
    def cross_evaluate(self, generators: Sequence[str], models: int) -> None:
        """Score every test photo with several decoders; each photo passes the encoder once."""
        self.network.eval()
        cache = FeatureCache(self.network.encoder)
        for generator in generators:
            data = self.data.evaluation_set(generator, "test", generator)
            data.views = [cache.fetch([sample.image for sample in data.samples], self.device)]
            metrics = [LocalizationMetrics().to(self.device) for _ in range(models)]
            for batch in self._batches(data):
                grid = batch["image"].grid.to(self.device).float()
                masks = [mask.to(self.device) for mask in batch["mask"]]
                for scores in metrics:
                    scores.update(self.network.decoder(Features(grid, None)).sigmoid(), masks)
            for scores in metrics:
                scores.compute()

    def predict(self, photos: Sequence[Path]) -> Tensor:
        """Return a probability for each pixel, ``[B, 256, 256]``, as a user gets them."""
        weights = self.network.decoder.state_dict()
        checkpoint = Checkpoint(**vars(self.task.description), name="bench", weights=weights)
        found = Localizer(checkpoint.name, checkpoint, self.network)(list(photos))
        return torch.stack([torch.from_numpy(one.heatmap) for one in found])

    def _batches(self, data: LocalizationDataset, workers: int = 0) -> DataLoader[Any]:
        size = self.data.batch_size
        return DataLoader(data, size, num_workers=workers, collate_fn=collate)

    def metrics(self, probabilities: Tensor, masks: Tensor) -> None:
        """Compute all metrics of ``[B, H, W]`` maps and masks."""
        localization_scores(probabilities, masks)


class _Clock(Callback):
    def __init__(self) -> None:
        self.ticks = [time.perf_counter()]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ticks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [end - start for start, end in zip(self.ticks, self.ticks[1:], strict=False)]
