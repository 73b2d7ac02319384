"""What declip-pl is timed against: the published way of training and testing DeCLIP.

:class:`StandIn` is a loop of our own that spends time and memory where the public implementation
does: fp32, all of CLIP in memory and in checkpoints, all blocks with all their outputs, metrics of
every image in every training step, nothing cached. :class:`Reference` drives a user's own checkout
of the public implementation instead; nothing of it is part of this repository.
"""

import importlib
import sys
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import BinaryAveragePrecision, BinaryConfusionMatrix
from transformers import CLIPConfig, CLIPModel

from benchmarks.settings import Work, times
from declip_pl.data.images import read_photo
from declip_pl.data.layout import Sample, Split, build_layout, samples
from declip_pl.data.masks import Polarity, read_mask
from declip_pl.data.transforms import build_transform, resize_mask
from declip_pl.metrics import DILATE, ERODE, THRESHOLD
from declip_pl.model.decoder import build_decoder
from declip_pl.model.encoder import Encoder
from declip_pl.model.features import OUTPUT_SIZE, Features, Preprocessing

WORKERS = 4
"""Processes that decode photos, as in the public implementation's options."""


class Published(ABC):
    """One network of the published kind, with what is timed of it.

    Attributes:
        name: What the report calls it.
        work: What it trains on.
    """

    name: str
    work: Work

    def train(self, epochs: int, checkpoint: Path) -> list[float]:
        """Train for some epochs, save, and return each epoch's seconds."""
        seconds = times(self.train_epoch, self.work.device, epochs)
        self.save(checkpoint)
        return seconds

    def cross_evaluate(self, generators: Sequence[str], models: int) -> None:
        """Score every test photo of all generators with several models, one after the other."""
        for _ in range(models):
            for generator in generators:
                self.evaluate(generator)

    @abstractmethod
    def train_epoch(self) -> None:
        """Train on every photo once."""

    @abstractmethod
    def evaluate(self, generator: str) -> None:
        """Score every test photo of a generator with all metrics."""

    @abstractmethod
    def predict(self, photos: Sequence[Path]) -> Tensor:
        """Return a probability for each pixel, ``[B, 256, 256]``, photo after photo."""

    @abstractmethod
    def metrics(self, probabilities: Tensor, masks: Tensor) -> None:
        """Compute all metrics of ``[B, H, W]`` maps and masks."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write a checkpoint."""


class StandIn(Published):
    """The published loop, in our own words.

    Args:
        config: Architecture of CLIP; its weights are random.
        encoder: Our encoder of the same architecture, which says what the decoder must fit.
        layer: Number of the feature layer.
        decoder: Name of the decoder.
        work: What it trains on.
    """

    name = "stand-in for the published loop"

    def __init__(
        self, config: CLIPConfig, encoder: Encoder, layer: int, decoder: str, work: Work
    ) -> None:
        device = work.device
        self.clip: Any = CLIPModel(config)
        self.clip.train(False).requires_grad_(False).to(device)
        self.decoder = build_decoder(decoder, encoder.shape).to(device)
        self.decoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.decoder.parameters(), lr=1e-3, weight_decay=0)
        self.layer, self.work, self.device = layer, work, device
        self.layout, self.preprocessing = build_layout("dolos", work.root), encoder.preprocessing

    def train_epoch(self) -> None:
        """Train on every photo once."""
        self.decoder.train()
        for pixels, masks, _ in self._batches("train", self.work.generator, shuffle=True):
            targets = masks.to(self.device).float()
            logits = self._logits(pixels)
            for heat, mask in zip(logits.detach().sigmoid(), targets, strict=True):
                _image_metrics(heat, mask)
            self.optimizer.zero_grad()
            loss: Any = F.binary_cross_entropy_with_logits(logits, targets)
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def evaluate(self, generator: str, split: Split = "test") -> None:
        """Score every photo of a generator's split with all metrics."""
        self.decoder.eval()
        for pixels, _, found in self._batches(split, generator):
            for heat, path in zip(self._logits(pixels).sigmoid(), found, strict=True):
                mask = torch.from_numpy(read_mask(Path(path), self.layout.polarity))
                mask = mask.to(self.device).float()
                resized = F.interpolate(heat[None, None], mask.shape, mode="bilinear")[0, 0]
                _image_metrics(resized, mask)

    @torch.no_grad()
    def predict(self, photos: Sequence[Path]) -> Tensor:
        """Return a probability for each pixel, ``[B, 256, 256]``, photo after photo."""
        self.decoder.eval()
        transform = build_transform(self.preprocessing)
        singles = (transform(image=read_photo(photo))["image"][None] for photo in photos)
        return torch.cat([self._logits(pixels).sigmoid() for pixels in singles])

    def metrics(self, probabilities: Tensor, masks: Tensor) -> None:
        """Compute all metrics of ``[B, H, W]`` maps and masks."""
        for heat, mask in zip(probabilities, masks.float(), strict=True):
            _image_metrics(heat, mask)

    def save(self, path: Path) -> None:
        """Write CLIP, the decoder and the optimiser's state."""
        state = {"model": {**self.clip.state_dict(), **self.decoder.state_dict()}}
        torch.save(state | {"optimizer": self.optimizer.state_dict()}, path)

    def _logits(self, pixels: Tensor) -> Tensor:
        vision = self.clip.vision_model
        outputs = vision(pixel_values=pixels.to(self.device), output_hidden_states=True)
        tokens = outputs.hidden_states[self.layer + 1]
        side = round((tokens.shape[1] - 1) ** 0.5)
        grid = tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side)).contiguous()
        logits: Tensor = self.decoder(Features(grid, tokens[:, 0])).squeeze(1)
        return logits

    def _batches(self, split: Split, generator: str, shuffle: bool = False) -> DataLoader[Any]:
        found = samples(self.layout, split, generator)
        data = _Photos(found, self.layout.polarity, self.preprocessing)
        return DataLoader(data, self.work.batch_size, shuffle=shuffle, num_workers=WORKERS)


class Reference(Published):
    """The public implementation itself, from a user's checkout, with random CLIP weights.

    Args:
        checkout: Folder of the checkout.
        layer: Name of the feature layer.
        decoder: Name of the decoder.
        work: What it trains on.
    """

    name = "public implementation"

    def __init__(self, checkout: Path, layer: str, decoder: str, work: Work) -> None:
        self.code = _import_reference(checkout)
        self.work, self.device = work, work.device
        fake = self._fake(work.generator)
        self.options = Namespace(
            arch="CLIP:ViT-L/14", feature_layer=layer, decoder_type=decoder, fix_backbone=True,
            fully_supervised=True, optim="adam", lr=1e-3, beta1=0.9, weight_decay=0.0,
            init_gain=0.02, gpu_ids=_Device(work.device), checkpoints_dir="", name="",
            train_dataset="ldm",  # this name makes it read masks with Dolos' polarity
            data_label="train", data_aug=None, batch_size=work.batch_size, num_threads=WORKERS,
            train_path=f"{fake}/images/train", train_masks_ground_truth_path=f"{fake}/masks/train",
        )  # fmt: skip
        self.trainer = self.code["trainer"].Trainer(self.options)
        self.loader = self.code["data"].create_dataloader(self.options)

    def train_epoch(self) -> None:
        """Train on every photo once."""
        self.trainer.train()
        for batch in self.loader:
            self.trainer.set_input(batch)
            self.trainer.optimize_parameters()

    def evaluate(self, generator: str) -> None:
        """Score every test photo of a generator with all metrics."""
        fake = self._fake(generator)
        paths = {
            "test_path": f"{fake}/images/test",
            "test_masks_ground_truth_path": f"{fake}/masks/test",
        }
        options = Namespace(**vars(self.options) | paths | {"data_label": "test"})
        loader = self.code["data"].create_dataloader(options)
        self.trainer.eval()
        self.code["validate"].validate_fully_supervised(self.trainer.model, loader, "ldm")

    @torch.no_grad()
    def predict(self, photos: Sequence[Path]) -> Tensor:
        """Return a probability for each pixel, ``[B, 256, 256]``, photo after photo."""
        self.trainer.eval()
        transform = build_transform(Preprocessing())
        singles = (transform(image=read_photo(photo))["image"][None] for photo in photos)
        maps = [self.trainer.model(pixels.to(self.device)).sigmoid() for pixels in singles]
        return torch.cat(maps).view(-1, OUTPUT_SIZE, OUTPUT_SIZE)

    def metrics(self, probabilities: Tensor, masks: Tensor) -> None:
        """Compute all metrics of ``[B, H, W]`` maps and masks."""
        utils = self.code["utils"]
        maps, truth = list(probabilities), list(masks.float())
        utils.compute_batch_iou(maps, truth)
        utils.compute_batch_localization_f1(maps, truth)
        utils.compute_batch_ap(maps, truth)

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        self.trainer.save_dir = str(path.parent)
        self.trainer.save_networks(path.name)

    def _fake(self, generator: str) -> str:
        return f"{self.work.root}/fake/{generator}"


class _Photos(Dataset[tuple[Tensor, Tensor, str]]):
    def __init__(
        self, files: list[Sample], polarity: Polarity, preprocessing: Preprocessing
    ) -> None:
        self.files, self.polarity = files, polarity
        self.transform = build_transform(preprocessing)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        sample = self.files[index]
        assert sample.mask is not None
        mask = resize_mask(read_mask(sample.mask, self.polarity), OUTPUT_SIZE)
        pixels = self.transform(image=read_photo(sample.image))["image"]
        return pixels, torch.from_numpy(mask), str(sample.mask)


class _Device(list[Any]):
    """What the public code takes for its list of GPUs, on a machine that may have none."""

    def __init__(self, device: torch.device) -> None:
        super().__init__([0 if device.type == "cuda" else "cpu"])
        self.is_gpu = device.type == "cuda"

    def __bool__(self) -> bool:
        return self.is_gpu


def _image_metrics(heat: Tensor, mask: Tensor) -> None:
    """IoU, F1 with TruFor's border at 0.5 and at its best, and AP of one ``[H, W]`` map."""
    predicted, fake = heat > THRESHOLD, mask > THRESHOLD
    (100 * (predicted & fake).sum() / (predicted | fake).sum().clamp(min=1)).item()
    eroded = -F.max_pool2d(-mask[None, None], ERODE, stride=1, padding=ERODE // 2)[0, 0]
    dilated = F.max_pool2d(mask[None, None], DILATE, stride=1, padding=DILATE // 2)[0, 0]
    counted = (eroded > 0) | (dilated == 0)
    positives, scores = (eroded > 0)[counted], heat[counted]
    order = scores.argsort()
    missed = positives[order].cumsum(0)
    rejected = (~positives)[order].cumsum(0)
    hits, alarms = missed[-1] - missed, rejected[-1] - rejected
    (2 * hits / (2 * hits + alarms + missed).clamp(min=1)).max().item()
    BinaryConfusionMatrix().to(heat.device)((scores > THRESHOLD).int(), positives.int())
    BinaryAveragePrecision().to(heat.device)(heat.flatten(), fake.flatten().int()).item()


def _import_reference(checkout: Path) -> dict[str, ModuleType]:
    """Import a checkout; CLIP gets random weights, and ``cuda()`` nothing to do without a GPU."""
    sys.path.insert(0, str(checkout))
    names = {"trainer": "networks.trainer", "data": "data", "utils": "utils.utils"}
    names |= {"validate": "validate", "clip": "models.clip.clip", "model": "models.clip.model"}
    code = {key: importlib.import_module(name) for key, name in names.items()}

    def load(name: str, device: str, intermidiate_layers: bool) -> tuple[nn.Module, None]:
        network = code["model"].CLIP(
            embed_dim=768, image_resolution=224, vision_layers=24, vision_width=1024,
            vision_patch_size=14, context_length=77, vocab_size=49408, transformer_width=768,
            transformer_heads=12, transformer_layers=12, intermidiate_layers=intermidiate_layers,
        )  # fmt: skip
        return network.float().eval(), None

    code["clip"].load = load  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        nn.Module.cuda = Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
    return code
