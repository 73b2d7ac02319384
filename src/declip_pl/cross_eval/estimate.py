"""What the pieces of a cross-evaluation take, from a measurement on a few of its photos."""

import shutil
import time
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from declip_pl.cross_eval.counts import Counts
from declip_pl.cross_eval.map_scores import score_maps
from declip_pl.cross_eval.progress import duration
from declip_pl.data.cache_folders import GIB, features_folder
from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.data.dataset import Batch, LocalizationDataset, collate
from declip_pl.data.feature_cache import tokens_of
from declip_pl.data.layout import find_samples
from declip_pl.errors import UserError
from declip_pl.files import existing
from declip_pl.jobs.where import Local, Slurm
from declip_pl.metrics import Thresholds
from declip_pl.model.checkpoint import Checkpoint, load_network
from declip_pl.model.features import OUTPUT_SIZE, Features
from declip_pl.model.network import DeCLIP
from declip_pl.panels import panel
from declip_pl.training.recipe import Recipe
from declip_pl.training.task import LocalizationTask

STARTED = time.time() - psutil.Process().create_time()
"""Seconds that this process took to start, for the most part to import torch and Lightning."""
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
_LEFT_OUT = "forging photos, what Lightning takes of a step, checkpoints and the report"


@dataclass(frozen=True)
class Measured:
    """Seconds for a photo, and what it takes of memory and disk.

    Attributes:
        device: Where it was measured.
        start: Starting a process and making the localizer, no photo yet.
        encode: Reading, decoding and encoding a photo.
        feature_bytes: Of a photo's features.
        train: A photo in training.
        score: A photo's map and all metrics of it.
        draw: A photo's panel.
        model_bytes: Of a run's checkpoints.
        gpu_bytes: Most memory of a GPU that was in use; None without one.
        photos: How many were looked at.
        seconds: How long the measurement took.
    """

    device: str
    start: float
    encode: float
    feature_bytes: int
    train: float
    score: float
    draw: float
    model_bytes: int
    gpu_bytes: int | None
    photos: int
    seconds: float


@dataclass(frozen=True)
class Measurable:
    """A localizer that is measured.

    Attributes:
        network: Encoder and decoder.
        task: How it is trained; None for one that is trained already.
        batch_size: Photos in a batch of its training.
        seconds: What it took to make it.
    """

    network: DeCLIP
    task: LocalizationTask | None
    batch_size: int
    seconds: float


def of_recipe(recipe: Recipe) -> Measurable:
    """Return the localizer that a recipe trains."""
    start, said = time.monotonic(), recipe.entries
    task = LocalizationTask(**{name: said[f"model.{name}"] for name in _PARTS})
    return Measurable(task.network, task, said["data.batch_size"], time.monotonic() - start)


def of_checkpoint(checkpoint: Checkpoint) -> Measurable:
    """Return a localizer that is trained already."""
    start = time.monotonic()
    return Measurable(load_network(checkpoint), None, 0, time.monotonic() - start)


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
    network = of.network.to(device)
    data.preprocessing = network.encoder.preprocessing
    photos = _few(data)
    encode, batch, bytes_each = _encoding(network, photos, device)
    train = _training(of.task, batch, of.batch_size) if of.task else 0.0
    score = _scoring(network, batch, device)
    draw = _drawing(photos, batch)
    weights = sum(parameter.numel() for parameter in network.decoder.parameters())
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Measured(
        str(device), STARTED + of.seconds, encode, bytes_each, train, score, draw,
        weights * 4 * _ADAM * _KEPT, memory, len(photos), time.monotonic() - start,
    )  # fmt: skip


def as_text(
    counts: Counts, measured: Measured, where: Local | Slurm | None, others: int
) -> list[str]:
    """Return what it takes, in lines.

    Args:
        counts: Photos that the pieces look at.
        measured: What one of them takes.
        where: Where the pieces run; None stands for this process.
        others: Pieces beside the trainings; here they need no process of their own.
    """
    started = counts.models + (others if where else 0)
    stages = {
        "start": (started * measured.start, f"{started} process" + "es" * (started != 1)),
        "encode": (
            counts.encoded * measured.encode,
            f"{counts.encoded} photos, if none are cached",
        ),
        "train": (
            counts.trained * measured.train + counts.drawn * measured.draw,
            f"{counts.models} models, all epochs",
        ),
        "score": (counts.scored * measured.score, f"{counts.scored} maps, validation too"),
    }
    total = sum(seconds for seconds, _ in stages.values())
    lines = [f"  can't be trained, and is not counted: {line}" for line in counts.refused]
    lines += [f"  {name}: up to about {_hours(took)} ({of})" for name, (took, of) in stages.items()]
    shared = ""
    if isinstance(where, Local):
        shared = f", {_hours(total / where.processes)} with {where.processes} at once"
    lines.append(f"  together: up to about {_hours(total)}{shared}; {_LEFT_OUT} not counted")
    memory = "not measured, as there is no GPU here"
    if measured.gpu_bytes is not None:
        memory = f"{measured.gpu_bytes / GIB:.1f} GiB at most, when this was measured"
    lines.append(f"  GPU memory: {memory}")
    features, models = counts.cached * measured.feature_bytes, counts.models * measured.model_bytes
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
        if find_samples(data.layout, "test", name)[0]:
            found = data.evaluation_set(name, "test", name)
            return found.every(-(-len(found.samples) // PHOTOS), 0)
    raise UserError(f"{data.root} has no test photos to measure on")


@torch.no_grad()
def _encoding(
    network: DeCLIP, photos: LocalizationDataset, device: torch.device
) -> tuple[float, Batch, int]:
    """Return seconds for a photo, the photos' features and masks, and the bytes of each."""
    encoder = network.encoder
    encoder(collate([photos[0]])["image"].to(device))  # the first takes longer
    start = time.monotonic()
    batch = collate([photos[place] for place in range(len(photos))])
    features = encoder(batch["image"].to(device))
    tokens = tokens_of(features)  # the processor has them: nothing is still at work
    took = (time.monotonic() - start) / len(photos)
    batch["image"] = features
    batch["mask"] = [mask.to(device) for mask in batch["mask"]]
    batch["label"] = batch["label"].to(device)
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
def _scoring(network: DeCLIP, batch: Batch, device: torch.device) -> float:
    """Return seconds for a photo's map and its metrics."""
    took = 0.0
    for _ in range(2):  # the first takes longer
        start = time.monotonic()
        logits = network(batch["image"])
        score_maps(logits.sigmoid(), batch["mask"], Thresholds(0.5, {}, 0.5), is_fake=True)
        _finish(device)
        took = time.monotonic() - start
    return took / len(batch["path"])


def _drawing(photos: LocalizationDataset, batch: Batch) -> float:
    """Return seconds for a photo's panel."""
    mask, start = batch["mask"][0].cpu().numpy(), 0.0
    for _ in range(2):  # the first takes longer
        start = time.monotonic()
        picture = panel(photos.shown(batch["path"][0]), mask, mask.astype(np.float32))
        picture.save(BytesIO(), "PNG", compress_level=1)
    return time.monotonic() - start


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
