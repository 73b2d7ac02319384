"""What the pieces of a cross-evaluation take, from a measurement on a few of its photos."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from declip_pl.cross_eval.elsewhere import photos_in
from declip_pl.cross_eval.map_scores import score_maps
from declip_pl.cross_eval.progress import duration
from declip_pl.data.cache_folders import GIB, features_folder
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import Batch, LocalizationDataset, collate
from declip_pl.data.feature_cache import tokens_of
from declip_pl.errors import UserError
from declip_pl.files import existing
from declip_pl.jobs.where import Local, Slurm
from declip_pl.metrics import Thresholds
from declip_pl.model.checkpoint import Checkpoint
from declip_pl.model.features import OUTPUT_SIZE, Features
from declip_pl.training.recipe import Recipe
from declip_pl.training.task import LocalizationTask

PHOTOS = 16
"""Photos that are encoded and scored to measure it; of training one batch."""
STEPS = 2
"""Measured steps of training, after one that is not."""
HOUR = 3600
"""Seconds; less is told in minutes."""
_PARTS = ("encoder", "layer", "decoder", "image_size", "supervision", "loss")
_ADAM = 3
"""Numbers that a checkpoint holds for each weight: its value and AdamW's two moments."""
_KEPT = 2
"""Checkpoints that a run keeps: the best and the last."""


class Counts(NamedTuple):
    """Photos that the pieces look at, each as often as it is looked at.

    Attributes:
        encoded: Photos to be encoded, if none is in the cache yet.
        trained: In all epochs of all trainings together, at most.
        scored: In validation, tests and cells together, at most.
        models: To be trained.
    """

    encoded: int
    trained: int
    scored: int
    models: int


@dataclass(frozen=True)
class Measured:
    """Seconds for a photo, and what it takes of memory and disk.

    Attributes:
        device: Where it was measured.
        encode: Reading, decoding and encoding a photo.
        feature_bytes: Of a photo's features.
        train: A photo in training.
        score: A photo's map and all metrics of it.
        model_bytes: Of a run's checkpoints.
        gpu_bytes: Most memory of a GPU that was in use; None without one.
        photos: How many were looked at.
        seconds: How long the measurement took.
    """

    device: str
    encode: float
    feature_bytes: int
    train: float
    score: float
    model_bytes: int
    gpu_bytes: int | None
    photos: int
    seconds: float


@dataclass(frozen=True)
class Measurable:
    """A localizer that is measured.

    Attributes:
        parts: The options of its task that say what it is made of.
        batch_size: Photos in a batch of its training.
    """

    parts: dict[str, Any]
    batch_size: int = 64


def of_recipe(recipe: Recipe) -> Measurable:
    """Return the localizer that a recipe trains."""
    said = recipe.entries
    return Measurable({name: said[f"model.{name}"] for name in _PARTS}, said["data.batch_size"])


def of_checkpoint(checkpoint: Checkpoint) -> Measurable:
    """Return a localizer that is trained already."""
    return Measurable({name: getattr(checkpoint, name) for name in _PARTS})


def measure(of: Measurable, data: LocalizationDataModule, device: torch.device) -> Measured:
    """Encode, train on and score a few photos; nothing is kept.

    Args:
        of: What is measured.
        data: The data set.
        device: Where it is measured.

    Raises:
        UserError: If the data set has no test photos of a generator, or one can't be read.
    """
    start = time.monotonic()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    task = LocalizationTask(**of.parts).to(device)
    data.preprocessing = task.network.encoder.preprocessing
    photos = _few(data)
    encode, batch, bytes_each = _encoding(task, photos)
    train = _training(task, batch, of.batch_size)
    score = _scoring(task, batch)
    weights = sum(parameter.numel() for parameter in task.network.decoder.parameters())
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Measured(
        str(device), encode, bytes_each, train, score, weights * 4 * _ADAM * _KEPT, memory,
        len(photos), time.monotonic() - start,
    )  # fmt: skip


def count(
    recipe: Recipe | None,
    data: LocalizationDataModule,
    trainings: Sequence[str],
    scorings: int,
    changed: int = 0,
) -> Counts:
    """Return how many photos the pieces look at; forgeries, which may not be made yet, are not in.

    Args:
        recipe: Of models that are trained.
        data: The data set.
        trainings: The generators of each model that is missing.
        scorings: How often all test photos are scored, by whatever model.
        changed: How often they are changed, and encoded once more.
    """
    tests = len(data.files("test", *data.names("test")))
    encoded = changed * tests + (photos_in(data) if recipe else tests)
    trained = scored = 0
    for choice in trainings:
        assert recipe is not None
        epochs = recipe.entries["trainer.max_epochs"] or 1000  # Lightning's own
        own = recipe.data_module(choice)
        trained += epochs * len(own.training_photos())
        scored += epochs * len(own.files("valid", *own.names("valid")))
        scored += len(own.files("test", *own.names("test")))
    return Counts(encoded, trained, scored + scorings * tests, len(trainings))


def as_text(counts: Counts, measured: Measured, where: Local | Slurm | None) -> list[str]:
    """Return what it takes, in lines.

    Args:
        counts: Photos that the pieces look at.
        measured: What one of them takes.
        where: Where the pieces run; None stands for this process.
    """
    stages = {
        "encode": (counts.encoded * measured.encode, f"{counts.encoded} photos"),
        "train": (counts.trained * measured.train, f"{counts.models} models, all epochs"),
        "score": (counts.scored * measured.score, f"{counts.scored} maps, validation too"),
    }
    total = sum(seconds for seconds, _ in stages.values())
    lines = [f"  {name}: up to about {_hours(took)} ({of})" for name, (took, of) in stages.items()]
    shared = ""
    if isinstance(where, Local):
        shared = f", {_hours(total / where.processes)} with {where.processes} at once"
    lines.append(
        f"  together: up to about {_hours(total)}{shared}; starting and the report not counted"
    )
    memory = "not measured, as there is no GPU here"
    if measured.gpu_bytes is not None:
        memory = f"{measured.gpu_bytes / GIB:.1f} GiB at most, when this was measured"
    lines.append(f"  GPU memory: {memory}")
    features, models = counts.encoded * measured.feature_bytes, counts.models * measured.model_bytes
    place = existing(features_folder())
    free = shutil.disk_usage(place).free
    lines.append(
        f"  disk: {_size(features)} of features if none are cached ({_size(free)} are free in "
        f"{place}), {_size(models)} of checkpoints"
    )
    lines.append(
        f"measured in {measured.seconds:.0f} s on {measured.photos} photos, on "
        f"{measured.device} of this machine"
    )
    return lines


def _few(data: LocalizationDataModule) -> LocalizationDataset:
    """Return a few test photos of one generator, evenly spread."""
    for name in data.generators:
        found = data.evaluation_set(name, "test", name)
        if found.samples:
            return found.every(-(-len(found.samples) // PHOTOS), 0)
    raise UserError(f"{data.root} has no test photos to measure on")


@torch.no_grad()
def _encoding(task: LocalizationTask, photos: LocalizationDataset) -> tuple[float, Batch, int]:
    """Return seconds for a photo, the photos' features and masks, and the bytes of each."""
    encoder = task.network.encoder
    encoder(collate([photos[0]])["image"].to(task.device))  # the first takes longer
    start = time.monotonic()
    batch = collate([photos[place] for place in range(len(photos))])
    features = encoder(batch["image"].to(task.device))
    tokens = tokens_of(features)  # the processor has them: nothing is still at work
    took = (time.monotonic() - start) / len(photos)
    batch["image"] = features
    batch["mask"] = [mask.to(task.device) for mask in batch["mask"]]
    batch["label"] = batch["label"].to(task.device)
    return took, batch, tokens[0].nbytes


def _training(task: LocalizationTask, batch: Batch, size: int) -> float:
    """Return seconds for a photo in a batch of a size."""
    places = [place % len(batch["path"]) for place in range(size)]
    features = batch["image"]
    assert isinstance(features, Features)
    several = Batch(
        image=Features(
            features.grid[places], None if features.cls is None else features.cls[places]
        ),
        mask=[_squared(batch["mask"][place]) for place in places],
        label=batch["label"][places],
        path=[batch["path"][place] for place in places],
        name=[batch["name"][place] for place in places],
    )
    optimizer, start = task.configure_optimizers(), 0.0
    for step in range(STEPS + 1):
        start = time.monotonic() if step == 1 else start
        optimizer.zero_grad()
        task.loss(task(several["image"]), several).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        _finish(task.device)
    return (time.monotonic() - start) / (STEPS * size)


@torch.inference_mode()
def _scoring(task: LocalizationTask, batch: Batch) -> float:
    """Return seconds for a photo's map and its metrics."""
    took = 0.0
    for _ in range(2):  # the first takes longer
        start = time.monotonic()
        logits = task(batch["image"])
        score_maps(logits.sigmoid(), batch["mask"], Thresholds(0.5, {}, 0.5), is_fake=True)
        _finish(task.device)
        took = time.monotonic() - start
    return took / len(batch["path"])


def _squared(mask: Tensor) -> Tensor:
    """Return a mask at the size of the network's output."""
    return interpolate(mask[None, None].float(), (OUTPUT_SIZE, OUTPUT_SIZE))[0, 0] > 0


def _finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _hours(seconds: float) -> str:
    return f"{seconds / HOUR:.1f} h" if seconds >= HOUR else duration(seconds)


def _size(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 100 else f"{count / 2**20:.1f} MiB"
