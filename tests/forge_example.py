"""Inpainters for tests: a graph, and registries that forget what a test adds."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from declip_pl.data.inpainting.doors import MASKS
from declip_pl.data.inpainting.inpainter import INPAINTERS


def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back at a test's end what it registers."""
    for registry in (INPAINTERS, MASKS):
        for name, value in list(vars(registry).items()):
            if isinstance(value, dict):
                monkeypatch.setattr(registry, name, dict(value))


def write_graph(
    path: Path, hole: str, kind=TensorProto.UINT8, side: int | None = None, grey=50
) -> str:
    """Write a graph that paints holes grey, in the range of its inputs."""
    sides = [side, side] if side else ["h", "w"]
    is_float = kind == TensorProto.FLOAT
    image = helper.make_tensor_value_info("image", kind, [1, 3, *sides])
    mask = helper.make_tensor_value_info("mask", kind, [1, 1, *sides])
    result = helper.make_tensor_value_info("result", kind, [1, 3, *sides])
    zero = helper.make_tensor("zero", kind, [], [0.0 if is_float else 0])
    level = helper.make_tensor("level", kind, [], [grey / 255 if is_float else grey])
    order = ["level", "image"] if hole == "white" else ["image", "level"]
    nodes = [
        helper.make_node("Equal", ["mask", "zero"], ["black"]),
        helper.make_node("Not", ["black"], ["white"]),
        helper.make_node("Where", ["white", *order], ["result"]),
    ]
    made = helper.make_graph(nodes, "grey", [image, mask], [result], [zero, level])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=8), path)
    return str(path)
