"""What an exported graph costs: IoU, size and speed of torch, ONNX in fp32 and ONNX in int8.

    python -m benchmarks.onnx --data DIR --generator NAME --model RUN

One photo at a time on one CPU thread, decoding not counted.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from declip_pl import Localizer
from declip_pl.data.images import read_photo
from declip_pl.data.layout import Sample, build_layout, samples
from declip_pl.data.masks import read_mask
from declip_pl.inference.export import INPUT, export
from declip_pl.metrics import iou, resize_to

Photo = NDArray[np.uint8]


def main() -> None:
    """Measure and print the table."""
    options = _options()
    torch.set_num_threads(1)
    layout = build_layout("dolos", options.data)
    photos = samples(layout, "test", options.generator)[: options.photos]
    localizer = Localizer.from_pretrained(options.model, device="cpu")
    rows = [_row("torch", None, photos, lambda photo: torch.from_numpy(localizer(photo).heatmap))]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("fp32", "int8"):
            path = Path(folder) / f"{name}.onnx"
            export(options.model, output=path, int8=name == "int8")
            rows.append(_row(f"ONNX {name}", path, photos, _runner(path)))
    print("| | file (MB) | IoU | photos/s |\n|---|---|---|---|", *rows, sep="\n")


def _row(
    name: str, path: Path | None, photos: list[Sample], localize: Callable[[Photo], Tensor]
) -> str:
    scores, seconds = [], 0.0
    localize(read_photo(photos[0].image))  # the first run prepares memory
    for sample in tqdm(photos, name, leave=False):
        assert sample.mask is not None
        photo, mask = read_photo(sample.image), read_mask(sample.mask, "black")
        start = time.process_time()  # of this process alone, whatever else the machine does
        heatmap = localize(photo)
        seconds += time.process_time() - start
        scores.append(iou(heatmap[None], torch.from_numpy(mask)[None]).item())
    size = f"{path.stat().st_size / 1e6:.1f}" if path else ""
    return f"| {name} | {size} | {np.mean(scores):.1f} | {len(photos) / seconds:.1f} |"


def _runner(path: Path) -> Callable[[Photo], Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def localize(photo: Photo) -> Tensor:
        (probabilities,) = session.run(None, {INPUT: photo[None]})
        return resize_to(torch.from_numpy(probabilities)[None], torch.Size(photo.shape[:2]))[0, 0]

    return localize


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data in Dolos' layout")
    parser.add_argument("--model", required=True, help="a localizer")
    parser.add_argument("--generator", default="migan", help="whose test photos")
    parser.add_argument("--photos", type=int, default=200, help="how many of them")
    return parser.parse_args()


if __name__ == "__main__":
    main()
