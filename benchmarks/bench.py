"""Time declip-pl against the published loop, both in this process and on the same photos.

``make bench`` runs it. It prints a table and writes it, with all figures as JSON and a plot, to
``outputs/bench/<date>``. Encoders have the real architecture and random weights, which cost the
same; nothing is downloaded and no accuracy is measured.
"""

import argparse
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.costs import costs, decoder_steps
from benchmarks.machine import peak_memory
from benchmarks.networks import NETWORKS, PUBLISHED_DECODERS, Network
from benchmarks.ours import Ours
from benchmarks.published import Published, Reference, StandIn
from benchmarks.report import LATER, MEASURED, Results, Row
from benchmarks.settings import GENERATORS, MAPS, MODELS, Settings, write_photos
from declip_pl.model.encoder import build_encoder

EPOCHS = 3

Figures = dict[str, list[float]]
"""Seconds or bytes of each run, by what was measured."""


class Side(Protocol):
    """One of the two that are compared, as a network that has just been built."""

    def train(self, epochs: int, checkpoint: Path) -> list[float]:
        """Train for some epochs, save, and return each epoch's seconds."""

    def evaluate(self, generator: str) -> None:
        """Score every test photo of a generator with all metrics."""

    def cross_evaluate(self, generators: Sequence[str], models: int) -> None:
        """Score every test photo of all generators with several models."""

    def predict(self, photos: Sequence[Path]) -> Tensor:
        """Return a probability for each pixel, ``[B, 256, 256]``."""

    def metrics(self, probabilities: Tensor, masks: Tensor) -> None:
        """Compute all metrics of ``[B, H, W]`` maps and masks."""


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
        root = write_photos(Path(temporary) / "data", options.photos)
        settings = Settings(options.photos, root, Path(temporary), device, options.reference)
        results = _measure_all(settings)
    report = results.write(folder)
    print(f"\n{report}\nresults: {folder}/bench.md, bench.json, bench.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    photos = 1024 if torch.cuda.is_available() else 8
    parser.add_argument("--photos", type=int, default=photos, help="photos in each split")
    parser.add_argument(
        "--reference", type=Path, help="a checkout of the public implementation, to time it itself"
    )
    return parser.parse_args()


def _measure_all(settings: Settings) -> Results:
    here = machine.describe(settings.device)
    # What libraries take once should not count as the first network's, on neither side.
    print("warming up")
    _measure(NETWORKS[-1], settings)
    shutil.rmtree(os.environ["DECLIP_FEATURES"])
    return Results(
        here,
        rows=[row for network in NETWORKS for row in _measure(network, settings)],
        costs={network.name: costs(network, settings) for network in NETWORKS},
        steps={network.name: decoder_steps(network, settings) for network in NETWORKS},
    )


def _measure(network: Network, settings: Settings) -> list[Row]:
    # A cache for each network, as the first epoch is the one that encodes.
    os.environ["DECLIP_FEATURES"] = str(settings.temporary / f"features-{network.decoder}")
    encoder = network.save_tower(settings.temporary)
    ours = _figures(
        lambda: Ours(encoder, network.layer_name, network.decoder, settings.work), settings
    )
    use_reference = settings.reference and network.decoder in PUBLISHED_DECODERS
    against = (Reference if use_reference else StandIn).name
    print(f"{network.name}: {against}, declip-pl")
    published = _figures(lambda: _published(network, encoder, settings), settings)
    rows = [
        Row(network.name, against, what, _photos(what, settings), published[what], ours[what])
        for what in MEASURED
    ]
    for row in rows:
        print(f"  {row.what:32} {row.amount(row.published):>18} {row.amount(row.ours):>18}")
    return rows


def _photos(what: str, settings: Settings) -> int:
    """Return how many photos are worked on to measure something."""
    counts = {"metrics of an evaluation batch": MAPS, "one photo": 1}
    counts["4 x 4 cross-evaluation"] = len(GENERATORS) * settings.photos
    return counts.get(what, settings.photos)


def _published(network: Network, encoder: Path, settings: Settings) -> Published:
    layer = network.layer_name
    if settings.reference and network.decoder in PUBLISHED_DECODERS:
        return Reference(settings.reference, layer, network.decoder, settings.work)
    frozen = build_encoder(str(encoder), layer)
    return StandIn(network.config, frozen, network.layer, network.decoder, settings.work)


def _figures(build: Callable[[], Side], settings: Settings) -> Figures:
    """Measure one side; it is built anew where its memory counts."""
    return _training(build, settings) | _evaluation(build, settings) | _use(build, settings)


def _training(build: Callable[[], Side], settings: Settings) -> Figures:
    checkpoint = settings.temporary / "bench.ckpt"
    with peak_memory(settings.device) as peak:
        first, *later = build().train(EPOCHS, checkpoint)
    return {
        "training, first epoch": [first],
        LATER: later,
        "training, peak memory": peak,
        "best checkpoint": [float(checkpoint.stat().st_size)],
    }


def _evaluation(build: Callable[[], Side], settings: Settings) -> Figures:
    with peak_memory(settings.device) as evaluation_peak:
        side = build()
        evaluation = settings.times(lambda: side.evaluate(GENERATORS[0]))
    del side
    with peak_memory(settings.device) as matrix_peak:
        side = build()
        matrix = settings.times(lambda: side.cross_evaluate(GENERATORS, MODELS))
    return {
        "evaluation with all metrics": evaluation,
        "evaluation, peak memory": evaluation_peak,
        "4 x 4 cross-evaluation": matrix,
        "cross-evaluation, peak memory": matrix_peak,
    }


def _use(build: Callable[[], Side], settings: Settings) -> Figures:
    photos, maps = settings.test_photos, settings.maps()
    with peak_memory(settings.device) as peak:
        side = build()
        one_photo = settings.times(lambda: side.predict(photos[:1]), 3)
    return {
        "one photo": one_photo,
        "one photo, peak memory": peak,
        "metrics of an evaluation batch": settings.times(lambda: side.metrics(*maps), 3),
        "a folder": settings.times(lambda: side.predict(photos)),
    }


if __name__ == "__main__":
    main()
