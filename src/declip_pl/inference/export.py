"""A trained localizer as one ONNX file, for machines that have onnxruntime and no torch.

The graph does what :class:`declip_pl.inference.localizer.Localizer` does with a whole photo up
to its probabilities: resize it to the network's input as PIL does, normalise, encode, decode.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from declip_pl.data.transforms import build_transform
from declip_pl.errors import UserError
from declip_pl.files import atomic_path
from declip_pl.inference.localizer import Localizer
from declip_pl.metrics import PEAK, THRESHOLD
from declip_pl.model.network import DeCLIP
from declip_pl.parts import as_text
from declip_pl.privacy import without_folders

INPUT, OUTPUT = "pixels", "probabilities"

OPSET = 18
"""The oldest one that torch's exporter writes."""

TOLERANCE = 1e-3
"""Largest difference of a probability from torch's that an fp32 graph may have."""

QUANTIZED = ("MatMul", "Gemm")
"""What int8 is for: matrices. Convolutions stay in fp32: in int8 they cost more IoU than the
matrices do, and time."""

PIL_UNIT = 2**22
"""PIL computes with whole multiples of 1 / 2**22 as weights."""

MAX_BYTES = 2**31
"""An ONNX file is one protobuf message, and those end here."""

CHECKED = ((1, 256, 256), (3, 300, 450), (2, 60, 40))
"""Batch, height and width of the photos on which graph and torch are compared."""


def export(
    model: str,
    format: Literal["onnx"] = "onnx",
    output: Path | None = None,
    int8: bool = False,
    encoder: str | None = None,
) -> None:
    """Write a trained localizer, encoder included, as one file that runs without torch.

    The graph takes uint8 RGB photos of any size and returns a map of probabilities for each. Its
    answers are compared with torch's before the file appears.

    Args:
        model: A run's folder, a checkpoint, a saved folder, an id on the Hugging Face hub, or
            starter.
        format: Of the file.
        output: The file; the model's name in this folder if left out.
        int8: Store matrices in 8 bits and compute with them: a smaller, faster file with slightly
            other answers.
        encoder: The frozen encoder's folder or hub id, in place of the one on record; its weights
            have to be the same.

    Raises:
        UserError: If the file exists, onnxruntime is missing, the model can't be found or has no
            matrices for int8, or the graph's answers are not torch's.
    """
    _require("onnxruntime", "onnxscript")
    localizer = Localizer.from_pretrained(model, device="cpu", encoder=encoder)
    if int8 and not _has_matrices(localizer.network.encoder):
        raise UserError(
            f"{model}: int8 is for matrices, and the encoder {localizer.checkpoint.identity.name} "
            "has none; leave out --int8"
        )
    path = output or Path(Path(localizer.name).name + ("-int8" if int8 else "") + f".{format}")
    _check_output(path, f".{format}")
    graph = build_graph(localizer)
    with atomic_path(path) as temporary:
        onnx.save(graph, temporary)
        difference = largest_difference(localizer, temporary)
        if not difference <= TOLERANCE:  # False for NaN too
            raise UserError(
                f"the graph of {model} does not compute what torch does: probabilities differ by "
                f"up to {difference:.2g}, expected at most {TOLERANCE:g}; nothing was written"
            )
        if int8:
            quantize(graph, temporary)
            difference = largest_difference(localizer, temporary)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {'int8' if int8 else 'fp32'}")
    print(f"largest difference of a probability from torch's: {difference:.2g}")


class Graph(nn.Module):
    """A localizer from a photo's bytes to probabilities.

    Args:
        network: Encoder and decoder.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: DeCLIP) -> None:
        super().__init__()
        self.network = network
        preprocessing = network.encoder.preprocessing
        self.image_size = preprocessing.image_size
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Localize in ``[B, H, W, 3]`` uint8 RGB: ``[B, 256, 256]`` probabilities in [0, 1]."""
        resized = resize(pixels.permute(0, 3, 1, 2).double(), self.image_size)
        logits: Tensor = self.network((resized.float() - self.mean) / self.std)
        return logits.squeeze(1).sigmoid()


def resize(levels: Tensor, size: int) -> Tensor:
    """Resize as PIL's bilinear filter does: along the rows, then the columns, rounding each time.

    As matrix products, because onnxruntime's antialiased Resize is up to 5 levels away from PIL;
    in double precision, which holds the sums of PIL's 22-bit weights exactly, because in common
    sizes many sums lie half-way between two levels. The order is that of Pillow up to 12; from 13
    on it takes the columns first where ``H > size`` and ``H + size > 2 * W`` (small or slender
    upright photos), and an eighth of the levels then differ by one.

    Args:
        levels: ``[B, 3, H, W]`` whole numbers from 0 to 255, as doubles.
        size: Side of the result in pixels.
    """
    rows = torch.floor(levels @ _filter(levels.shape[3], size).T + 0.5)
    return torch.floor(_filter(levels.shape[2], size) @ rows + 0.5)


def build_graph(localizer: Localizer) -> onnx.ModelProto:
    """Return a localizer as an fp32 ONNX graph that names what it was made of.

    Raises:
        UserError: If it is too large for one file.
    """
    size = sum(weight.nbytes for weight in localizer.network.state_dict().values())
    if size > MAX_BYTES:
        raise UserError(
            f"{localizer.name} has {size / 2**30:.1f} GiB of weights; an ONNX file holds 2 GiB"
        )
    module = Graph(localizer.network)
    pixels = torch.zeros(2, 80, 70, 3, dtype=torch.uint8)  # sizes of 1 would not stay variable
    with _quiet():
        program: Any = torch.onnx.export(
            module.eval(),
            (pixels,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"pixels": {0: "B", 1: "H", 2: "W"}},
        )
    graph: onnx.ModelProto = program.model_proto
    _describe(graph, localizer)
    return graph


def quantize(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph with its :data:`QUANTIZED` weights in int8, inputs quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,  # CPUs without VNNI add up products of 8 bits in 16 bits
            weight_type=QuantType.QInt8,
        )


def largest_difference(localizer: Localizer, path: Path) -> float:
    """Return by how much a graph's probabilities differ at most from those of PIL and torch."""
    rng = np.random.default_rng(0)
    session = _session(path)
    differences = []
    for size in CHECKED:
        photos = np.stack([_photo(rng, *size[1:]) for _ in range(size[0])])
        (found,) = session.run([OUTPUT], {INPUT: photos})
        differences.append(np.abs(found - _expected(localizer, photos)).max())
    return float(np.max(differences))


def _require(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the export needs {' and '.join(missing)}: pip install 'declip-pl[export]', in a "
            "checkout pip install --editable '.[export]'"
        )


def _check_output(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise UserError(f"{path} is no name of such a file: let --output end in {suffix}")
    if path.exists():
        raise UserError(f"{path} exists; name another file with --output")


def _has_matrices(encoder: nn.Module) -> bool:
    return any(isinstance(module, nn.Linear) for module in encoder.modules())


def _filter(length: int, size: int) -> Tensor:
    """Return ``[size, length]`` weights of a triangle that widens where the photo shrinks."""
    pixels = torch.arange(length, dtype=torch.float64) + 0.5
    ratio = (pixels[-1] + 0.5) / size  # not length, which the exporter would divide as a number
    centres = (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * ratio
    weights = (1 - (pixels - centres).abs() / ratio.clamp(min=1)).clamp(min=0)
    return torch.floor(weights / weights.sum(1, keepdim=True) * PIL_UNIT + 0.5) / PIL_UNIT


def _describe(graph: onnx.ModelProto, localizer: Localizer) -> None:
    checkpoint, encoder = localizer.checkpoint, localizer.checkpoint.identity
    facts = {
        "name": localizer.name,
        "encoder": encoder.name,
        "encoder_source": without_folders(encoder.source),
        "encoder_sha256": encoder.sha256,
        "layer": encoder.layer,
        "decoder": without_folders(as_text(checkpoint.decoder)),
        "image_size": str(checkpoint.image_size),
        "threshold": str(THRESHOLD),
        "pooling": checkpoint.pooling,
        "trained_on": localizer.about.trained_on,
        "tested_on": localizer.about.tested_on,
        "licence": "weights: those of the encoder and of whoever trained the decoder; "
        "graph: Apache-2.0 (declip-pl)",
    }
    if notice := localizer.about.notice:
        facts["notice"] = notice
    if (cut := localizer.image_threshold) is not None:
        facts["image_threshold"] = str(cut)
    fake = f"fake above {THRESHOLD}"
    if (floor := localizer.floor) is not None:
        facts["floor"] = str(floor)
        fake = (
            f"fake above the photo's own threshold, of the highest expected IoU; nothing where "
            f"under {1 - PEAK:.0%} of the photo reach {floor:g}"
        )
    onnx.helper.set_model_props(graph, facts)
    graph.doc_string = (
        "DeCLIP: which pixels of a photo did a generative model paint? "
        f"{INPUT}: uint8 RGB [B, H, W, 3], any size. {OUTPUT}: float [B, 256, 256] in [0, 1] over "
        f"the whole photo, {fake}."
    )
    # Which lines of which files on this machine each node comes from is private.
    for part in (*graph.graph.node, *graph.graph.value_info, graph.graph):
        part.ClearField("metadata_props")


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _photo(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Make a photo ``[height, width, 3]`` of smooth areas with a little noise."""
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


@torch.inference_mode()
def _expected(localizer: Localizer, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
    preprocessing = localizer.network.encoder.preprocessing
    transform = build_transform(preprocessing)  # it resizes the columns, as the rows are done
    rows = [_narrow(photo, preprocessing.image_size) for photo in photos]
    pixels = torch.stack([transform(image=photo)["image"] for photo in rows])
    probabilities: NDArray[np.float32] = localizer.network(pixels).squeeze(1).sigmoid().numpy()
    return probabilities


def _narrow(photo: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    image = Image.fromarray(photo)
    return np.asarray(image.resize((width, image.height), Image.Resampling.BILINEAR))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back warnings about the insides of torch's exporter and onnxruntime's quantiser."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
