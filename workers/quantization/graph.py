"""What quantization needs of a graph as such: nested bodies, order, names, and files of any size."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from workers.formats.onnx.graph import all_tensors, bodies_of, graphs

PROTOBUF_LIMIT = 2_000_000_000
"""Bytes of weights above which a model cannot be one protobuf file (its limit is 2 GiB)."""

_ASIDE_FROM = 4096
"""Tensors smaller than this stay where shape inference can read them (shapes, axes, scales)."""


def defined(graph: GraphProto) -> set[str]:
    """Names that come into being in this graph itself."""
    names = {value.name for value in graph.input}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        names.update(name for name in node.output if name)
    return names


def names_in(model: ModelProto) -> set[str]:
    """Every name of a tensor or a node, in nested bodies too: what is added may have none of them."""
    names: set[str] = set()
    for graph in graphs(model.graph):
        names |= defined(graph)
        names.update(node.name for node in graph.node)
    return names


def attribute(node: NodeProto, name: str, default: float) -> float:
    """A number among a node's attributes."""
    for entry in node.attribute:
        if entry.name == name:
            value: float = helper.get_attribute_value(entry)
            return value
    return default


def captured(node: NodeProto) -> set[str]:
    """Names that a node's nested bodies take from outside; no node lists them among its inputs."""
    names: set[str] = set()
    for body in bodies_of(node.attribute):
        wanted = {value.name for value in body.output}
        for inner in body.node:
            wanted.update(name for name in inner.input if name)
            wanted |= captured(inner)
        names |= wanted - defined(body)
    return names


def reads(graph: GraphProto) -> Counter[str]:
    """How often a graph's nodes read each tensor, their nested bodies included, and once more what it puts out."""
    found = Counter(name for node in graph.node for name in (*node.input, *captured(node)))
    found.update(value.name for value in graph.output)
    return found


def fresh(name: str, taken: set[str]) -> str:
    """A name that is not taken yet, this one if it can be; it is taken from then on."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    taken.add(free)
    return free


def stored(model: ModelProto, name: str) -> NDArray[Any]:
    """The numbers of an initializer. Raises KeyError."""
    return numpy_helper.to_array(_initializer(model, name))


def store(model: ModelProto, name: str, values: NDArray[Any]) -> None:
    """Replace the numbers of an initializer, as float32. Raises KeyError."""
    _initializer(model, name).CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32, order="C"), name))


def _initializer(model: ModelProto, name: str) -> TensorProto:
    found: TensorProto
    for found in model.graph.initializer:
        if found.name == name:
            return found
    raise KeyError(name)


def drop_nodes(graph: GraphProto, indexes: Iterable[int]) -> None:
    """Drop the nodes at these places."""
    for index in sorted(indexes, reverse=True):
        del graph.node[index]


def sort_nodes(graph: GraphProto) -> None:
    """Put nodes after what they need, nested bodies' needs included; else keep their order.

    onnxruntime's own sort knows nothing of captured names. Raises ValueError on a cycle.
    """
    for node in graph.node:
        for body in bodies_of(node.attribute):
            sort_nodes(body)
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = [
        sorted({producers[name] for name in (*node.input, *captured(node)) if name in producers}) for node in graph.node
    ]
    order: list[int] = []
    state = [0] * len(needs)
    for first in range(len(needs)):
        stack = [first]
        while stack:
            index = stack[-1]
            if state[index] == 2:
                stack.pop()
                continue
            state[index] = 1
            missing = [need for need in needs[index] if state[need] != 2]
            if not missing:
                state[index] = 2
                order.append(stack.pop())
            elif any(state[need] == 1 for need in missing):
                raise ValueError("the graph has a cycle")
            else:
                stack.extend(reversed(missing))
    if order != list(range(len(order))):
        nodes = [graph.node[index] for index in order]
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def set_weights_aside(model: ModelProto) -> dict[str, bytes]:
    """Take large tensors out of the model, so that tools which copy it as one message can.

    The tensors stay as references to external data of made-up places; `put_weights_back` undoes it.
    onnx's converter and shape inference keep such references (seen with onnx 1.23).
    """
    aside: dict[str, bytes] = {}
    for tensor in all_tensors(model):
        if not tensor.HasField("raw_data") and len(tensor.float_data) * 4 >= _ASIDE_FROM:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        if len(tensor.raw_data) < _ASIDE_FROM:
            continue
        place = f"aside-{len(aside)}"
        aside[place] = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
    return aside


def put_weights_back(model: ModelProto, aside: dict[str, bytes]) -> None:
    """Undo `set_weights_aside`, on the model or on what a tool made of it; `aside` is emptied on the way."""
    tensors = [tensor for tensor in all_tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    left = Counter(tensor.external_data[0].value for tensor in tensors)
    for tensor in tensors:
        place = tensor.external_data[0].value
        left[place] -= 1
        # Let go of each as early as can be: there may be gigabytes.
        tensor.raw_data = aside[place] if left[place] else aside.pop(place)
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")


def weight_bytes(model: ModelProto) -> int:
    """Bytes of all stored tensors."""
    return sum(len(tensor.raw_data) or tensor.ByteSize() for tensor in all_tensors(model))


def save(model: ModelProto, path: Path, *, external: bool = False) -> bool:
    """Write a model, with its weights in `<name>.data` beside it if asked or too large for one file.

    Returns whether they lie beside it. The same model gives the same bytes.
    """
    external = external or weight_bytes(model) > PROTOBUF_LIMIT
    data = path.with_name(path.name + ".data")
    # onnx appends to a data file that is there already.
    path.unlink(missing_ok=True)
    data.unlink(missing_ok=True)
    if external:
        onnx.save(
            model,
            path,
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=data.name,
            size_threshold=1024,
            convert_attribute=False,
        )
    else:
        onnx.save(model, path)
    return external and data.exists()
