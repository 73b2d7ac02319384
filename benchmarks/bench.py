"""Time declip-pl against the published loop, both in this process and on the same photos.

``make bench`` runs it. It prints a table and writes it, with all figures as JSON and a plot, to
``outputs/bench/<date>``. Encoders have the real architecture and random weights, which cost the
same; nothing is downloaded and no accuracy is measured.
"""

import argparse
import ctypes
import gc
import itertools
import json
import logging
import math
import mmap
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, CLIPVisionModel

from benchmarks.ours import Ours
from benchmarks.published import Published, Reference, StandIn
from declip_pl.data.layout import SPLITS
from declip_pl.files import write_text
from declip_pl.model.decoder import build_decoder
from declip_pl.model.encoder import Features, build_encoder

matplotlib.use("agg")
import matplotlib.pyplot as plt

GENERATORS = ("a", "b", "c", "d")
MODELS = len(GENERATORS)
MIB = 2**20
MAPS = 64
"""Maps of one evaluation batch, 256 x 256 px."""


@dataclass
class Network:
    """An encoder with a decoder."""

    name: str
    layer: int
    decoder: str
    vision: dict[str, Any]
    text: dict[str, Any]

    @property
    def config(self) -> CLIPConfig:
        """The architecture of CLIP around this encoder."""
        text, vision = CLIPTextConfig(**self.text), CLIPVisionConfig(**self.vision)
        return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())


def _tower(width: int, blocks: int, **options: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": width // 64,
        **options,
    }


VIT_L = _tower(1024, 24, patch_size=14), _tower(768, 12)
VIT_B = _tower(768, 12, patch_size=16), _tower(512, 12)
NETWORKS = (
    Network("ViT-L/14 conv-20", 20, "conv-20", *VIT_L),
    Network("ViT-L/14 linear", 20, "linear", *VIT_L),
    Network("ViT-B/16 light", 5, "light", *VIT_B),
)
PUBLISHED_DECODERS = ("conv-20", "linear")
"""Those of :data:`NETWORKS` that the public implementation has, with the encoder it has."""

MEASURED = {
    "training, first epoch": "photos/s",
    "training, later epochs": "photos/s",
    "training, peak memory": "MiB",
    "best checkpoint": "MiB",
    "evaluation with all metrics": "photos/s",
    "evaluation, peak memory": "MiB",
    "metrics of an evaluation batch": "photos/s",
    "4 x 4 cross-evaluation": "photos/s",
    "cross-evaluation, peak memory": "MiB",
    "one photo": "photos/s",
    "one photo, peak memory": "MiB",
    "a folder": "photos/s",
}
"""What is measured, and in which unit the table gives it."""


@dataclass
class Row:
    """One line of the table: what both sides took in seconds or bytes, run by run."""

    network: str
    against: str
    what: str
    photos: int
    published: list[float]
    ours: list[float]

    @property
    def ratio(self) -> float:
        """How many times more the published side takes, by the medians."""
        return statistics.median(self.published) / statistics.median(self.ours)

    def amount(self, runs: list[float]) -> str:
        """Return the median of some runs in the unit of the table."""
        unit, median = MEASURED[self.what], statistics.median(runs)
        value = median / MIB if unit == "MiB" else self.photos / median
        digits = max(0, 2 - math.floor(math.log10(value)))  # three significant ones
        return f"{value:.{digits}f} {unit}"


@dataclass
class Settings:
    """What both sides run on."""

    photos: int
    root: Path
    temporary: Path
    device: torch.device
    reference: Path | None

    @property
    def arguments(self) -> tuple[Path, str, int, torch.device]:
        """Data, training generator, batch size and device."""
        return self.root, GENERATORS[0], max(1, min(64, self.photos // 2)), self.device

    @property
    def test_photos(self) -> list[Path]:
        """The test photos of one generator."""
        return sorted((self.root / "fake" / GENERATORS[0] / "images" / "test").iterdir())

    def times(self, work: Callable[[], object], repeats: int = 1) -> list[float]:
        """Return the seconds of each run."""
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return seconds


def main() -> None:
    """Measure and report."""
    options = _options()
    # Lightning's remarks on devices, and torch's and its advice on numbers of workers.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torch.utils.data|lightning")
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path("outputs/bench") / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    with tempfile.TemporaryDirectory() as temporary:
        root = _write_photos(Path(temporary) / "data", options.photos)
        settings = Settings(options.photos, root, Path(temporary), device, options.reference)
        machine = _machine(settings)
        # What libraries take once should not count as the first network's, on neither side.
        print("warming up")
        _measure(NETWORKS[-1], settings)
        shutil.rmtree(os.environ["DECLIP_FEATURES"])
        rows = [row for network in NETWORKS for row in _measure(network, settings)]
        costs = {network.name: _costs(network, settings) for network in NETWORKS}
        steps = {network.name: _decoder_steps(network, settings) for network in NETWORKS}
    report = _table(rows, machine, costs) + _steps_table(steps)
    figures: dict[str, Any] = {"machine": machine, "costs": costs, "decoder steps": steps}
    figures["rows"] = [_as_dict(row) for row in rows]
    write_text(folder / "bench.md", report)
    write_text(folder / "bench.json", json.dumps(figures, indent=2) + "\n")
    _plot(rows, folder / "bench.png")
    print(f"\n{report}\nresults: {folder}/bench.md, bench.json, bench.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    photos = 1024 if torch.cuda.is_available() else 8
    parser.add_argument("--photos", type=int, default=photos, help="photos in each split")
    parser.add_argument(
        "--reference", type=Path, help="a checkout of the public implementation, to time it itself"
    )
    return parser.parse_args()


def _measure(network: Network, settings: Settings) -> list[Row]:
    encoder = _encoder(network, settings)
    ours = _measure_ours(network, encoder, settings)
    against, published = _measure_published(network, encoder, settings)
    counts = {"metrics of an evaluation batch": MAPS, "one photo": 1}
    counts["4 x 4 cross-evaluation"] = len(GENERATORS) * settings.photos
    rows = []
    for what in MEASURED:
        count = counts.get(what, settings.photos)
        row = Row(network.name, against, what, count, published[what], ours[what])
        rows.append(row)
        print(f"  {what:32} {row.amount(row.published):>18} {row.amount(row.ours):>18}")
    return rows


def _measure_ours(network: Network, encoder: Path, settings: Settings) -> dict[str, list[float]]:
    os.environ["DECLIP_FEATURES"] = str(settings.temporary / f"features-{network.decoder}")
    checkpoint = settings.temporary / "ours.ckpt"

    def build() -> Ours:
        return Ours(encoder, f"layer{network.layer}", network.decoder, *settings.arguments)

    with _peak_memory(settings.device) as peak:
        first, *later = build().train(3, checkpoint)
    return {
        "training, first epoch": [first],
        "training, later epochs": later,
        "training, peak memory": peak,
        "best checkpoint": [checkpoint.stat().st_size],
        **_measure_use(build, lambda ours: ours.cross_evaluate(GENERATORS, MODELS), settings),
    }


def _measure_published(
    network: Network, encoder: Path, settings: Settings
) -> tuple[str, dict[str, list[float]]]:
    """Return also what was measured: the public implementation or the stand-in."""

    def build() -> Published:
        return _published(network, encoder, settings)

    with _peak_memory(settings.device) as peak:
        theirs = build()
        against = theirs.name
        print(f"{network.name}: {against}, declip-pl")
        first, *later = settings.times(theirs.train_epoch, 3)
        checkpoint = settings.temporary / "published.pth"
        theirs.save(checkpoint)
    del theirs

    def cross_evaluate(theirs: Published) -> None:
        for _, generator in itertools.product(range(MODELS), GENERATORS):
            theirs.evaluate(generator)

    return against, {
        "training, first epoch": [first],
        "training, later epochs": later,
        "training, peak memory": peak,
        "best checkpoint": [checkpoint.stat().st_size],
        **_measure_use(build, cross_evaluate, settings),
    }


def _measure_use(
    build: Callable[[], Any], cross_evaluate: Callable[[Any], None], settings: Settings
) -> dict[str, list[float]]:
    """Time what one does with a localizer; it is built anew where its memory counts."""
    photos, maps, times = settings.test_photos, _maps(settings), settings.times
    with _peak_memory(settings.device) as evaluation_peak:
        side = build()
        evaluation = times(lambda: side.evaluate(GENERATORS[0]))
    del side
    with _peak_memory(settings.device) as matrix_peak:
        side = build()
        matrix = times(lambda: cross_evaluate(side))
    del side
    with _peak_memory(settings.device) as photo_peak:
        side = build()
        one_photo = times(lambda: side.predict(photos[:1]), 3)
    return {
        "evaluation with all metrics": evaluation,
        "evaluation, peak memory": evaluation_peak,
        "metrics of an evaluation batch": times(lambda: side.metrics(*maps), 3),
        "4 x 4 cross-evaluation": matrix,
        "cross-evaluation, peak memory": matrix_peak,
        "one photo": one_photo,
        "one photo, peak memory": photo_peak,
        "a folder": times(lambda: side.predict(photos)),
    }


def _published(network: Network, encoder: Path, settings: Settings) -> Published:
    layer = f"layer{network.layer}"
    if settings.reference and network.decoder in PUBLISHED_DECODERS:
        return Reference(settings.reference, layer, network.decoder, *settings.arguments)
    frozen = build_encoder(str(encoder), layer)
    return StandIn(network.config, frozen, network.layer, network.decoder, *settings.arguments)


def _encoder(network: Network, settings: Settings) -> Path:
    """Save a vision tower with random weights."""
    folder = settings.temporary / network.name.split()[0].replace("/", "-").lower()
    if not folder.exists():
        CLIPVisionModel(CLIPVisionConfig(**network.vision)).save_pretrained(folder)
    return folder


def _write_photos(root: Path, count: int) -> Path:
    """Write noise with a box as its mask; one photo suffices for validation, which is not timed."""
    rng = np.random.default_rng(0)
    mask = np.full((256, 256), 255, np.uint8)
    mask[60:160, 60:120] = 0
    for generator, split in itertools.product(GENERATORS, SPLITS):
        folders = [root / "fake" / generator / kind / split for kind in ("images", "masks")]
        for folder in folders:
            folder.mkdir(parents=True)
        for index in range(1 if split == "valid" else count):
            pixels = rng.integers(0, 255, (256, 256, 3), np.uint8)
            for folder, array in zip(folders, (pixels, mask), strict=True):
                Image.fromarray(array).save(folder / f"{index:05}.png")
    return root


def _maps(settings: Settings) -> tuple[Tensor, Tensor]:
    heat = torch.rand(MAPS, 256, 256, device=settings.device)
    masks = torch.zeros(MAPS, 256, 256, dtype=torch.bool, device=settings.device)
    masks[:, 60:160, 60:120] = True
    return heat, masks


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Measure how much memory is taken at most beyond what is taken now, in bytes.

    On a CPU that of this process; those that decode photos beside it are not counted.
    """
    gc.collect()
    peak = [float(mmap.PAGESIZE)]  # the tests' networks fit into what is free
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() - before
        return
    if platform.system() == "Linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what the last network took
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _costs(network: Network, settings: Settings) -> dict[str, float]:
    """Count multiply-adds for one photo, and the bytes of its features in the cache."""
    encoder: Any = build_encoder(str(_encoder(network, settings)), f"layer{network.layer}")
    decoder = build_decoder(network.decoder, encoder)
    tower: Any = CLIPVisionModel(CLIPVisionConfig(**network.vision))
    pixels = torch.zeros(2, 3, 224, 224)  # batch norm needs two in training
    features = encoder(pixels)
    return {
        "tower": multiply_adds(lambda: tower(pixels)) / 2,
        "encoder": multiply_adds(lambda: encoder(pixels)) / 2,
        "decoder": multiply_adds(lambda: decoder(features)) / 2,
        "decoder in training": multiply_adds(lambda: decoder(features).sum().backward()) / 2,
        "features": sum(part.half().nbytes for part in features if part is not None) / 2,
    }


def multiply_adds(work: Callable[[], object]) -> float:
    """Count the multiply-adds of some work."""
    # The plain products: the counter has no formulas for fused attention.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return float(counter.get_total_flops()) / 2


def _decoder_steps(network: Network, settings: Settings) -> dict[str, float]:
    """Time a training step of the decoder as it is, in bf16 and compiled, in seconds."""
    encoder = build_encoder(str(_encoder(network, settings)), f"layer{network.layer}")
    decoder = build_decoder(network.decoder, encoder).to(settings.device)
    batch, side = settings.arguments[2], encoder.grid_size
    grid = torch.randn(batch, encoder.channels, side, side, device=settings.device)
    features = Features(grid.contiguous(memory_format=torch.channels_last), None)

    def step(run: Callable[[Features], Tensor], bf16: bool) -> None:
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=bf16):
            logits = run(features)
        loss: Any = logits.float().square().mean()
        loss.backward()

    kinds: dict[str, tuple[Callable[[Features], Tensor], bool]] = {
        "plain": (decoder, False),
        "bf16": (decoder, True),
    }
    if settings.device.type == "cuda" or shutil.which(os.environ.get("CXX", "g++")):
        compiled = torch.compile(decoder)
        kinds |= {"compiled": (compiled, False), "compiled, bf16": (compiled, True)}
    return {
        kind: statistics.median(settings.times(partial(step, *way), 4)[1:])  # the first compiles
        for kind, way in kinds.items()
    }


def _machine(settings: Settings) -> dict[str, Any]:
    """Describe the device; its peak is what a large matrix product or convolution reaches."""
    gpu = settings.device.type == "cuda"
    name = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads"
    peak = {
        str(t).removeprefix("torch."): _peak(t, settings) for t in (torch.float32, torch.bfloat16)
    }
    return {"device": name, "torch": torch.__version__, "peak FLOP/s": peak}


def _peak(dtype: torch.dtype, settings: Settings) -> float:
    side = 8192 if settings.device.type == "cuda" else 2048
    a = torch.randn(side, side, device=settings.device).to(dtype)
    product = 2 * side**3 / min(settings.times(lambda: a @ a, 5))
    # On some CPUs convolutions have the better kernels.
    layer = nn.Conv2d(512, 512, 5, padding=2).to(settings.device, dtype)
    layer = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    grid = torch.randn(4, 32, 32, 512, device=settings.device).to(dtype).movedim(-1, 1)
    with torch.inference_mode():
        seconds = min(settings.times(lambda: layer(grid), 5))
    return max(product, 2 * 25 * 512**2 * 4 * 32**2 / seconds)


def _as_dict(row: Row) -> dict[str, Any]:
    return asdict(row) | {"unit": MEASURED[row.what], "ratio": row.ratio}


def _table(rows: list[Row], machine: dict[str, Any], costs: dict[str, dict[str, float]]) -> str:
    peak = machine["peak FLOP/s"]["float32"]
    lines = [
        f"{machine['device']}, torch {machine['torch']}, fp32; a matrix product or convolution "
        f"alone reaches {peak / 1e9:.0f} GFLOP/s",
        "",
        "| network | what | published | declip-pl | ratio |",
        "|---|---|---|---|---|",
    ]
    measured = {row.network: row.against for row in rows}
    lines[1:1] = ["", *(f"{name} is measured against the {it}." for name, it in measured.items())]
    for row in rows:
        amounts = f"{row.amount(row.published)} | {row.amount(row.ours)}"
        lines.append(f"| {row.network} | {row.what} | {amounts} | {row.ratio:.1f} |")
    lines += [
        "",
        "| network | multiply-adds of the tower | up to the layer | of the decoder | with its "
        "backward pass | the decoder in later epochs | features on disk |",
        "|---|---|---|---|---|---|---|",
    ]
    later = {row.network: row for row in rows if row.what == "training, later epochs"}
    for name, row in later.items():
        *adds, disk = costs[name].values()
        parts = " | ".join(f"{count / 1e9:.3g} G" for count in adds)
        speed = 2 * costs[name]["decoder in training"] * row.photos / statistics.median(row.ours)
        share = f"{speed / 1e9:.0f} GFLOP/s, {100 * speed / peak:.0f} % of that"
        lines.append(f"| {name} | {parts} | {share} | {disk / MIB:.2f} MiB a photo |")
    return "\n".join(lines) + "\n"


def _steps_table(steps: dict[str, dict[str, float]]) -> str:
    kinds = list(next(iter(steps.values())))
    lines = [
        "",
        f"| a training step of the decoder | {' | '.join(kinds)} |",
        "|---" * (1 + len(kinds)) + "|",
    ]
    for name, seconds in steps.items():
        first = seconds[kinds[0]]
        ratios = " | ".join(f"{s:.3g} s ({first / s:.2f} x)" for s in seconds.values())
        lines.append(f"| {name} | {ratios} |")
    return "\n".join(lines) + "\n"


def _plot(rows: list[Row], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(MEASURED) + 1), layout="constrained")
    names = list(dict.fromkeys(row.network for row in rows))
    for name, marker in zip(names, "osD", strict=False):
        of_one = [row for row in rows if row.network == name]
        ratios, heights = [row.ratio for row in of_one], list(range(len(of_one)))
        axes.plot(ratios, heights, marker, label=name, alpha=0.8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(MEASURED)), list(MEASURED))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("how many times better than the published loop (time, memory or bytes)")
    axes.grid(axis="y", linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
