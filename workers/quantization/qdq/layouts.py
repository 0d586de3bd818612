"""Operators that onnxruntime computes with channels in one place alone, though it may move them behind another."""

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from workers.quantization.graph import attribute

_WITHOUT_KERNEL = frozenset({TensorProto.INT32})
"""Of a Resize's types, those that onnxruntime 1.32 has no DepthToSpace for, which would shield it."""


def wants_its_own_layout(node: NodeProto, model: ModelProto) -> bool:
    """Whether a node of a model is a Resize of pictures that fails, or goes wrong, with channels last.

    onnxruntime 1.32 then has no cubic Resize that makes anything smaller without antialiasing, a wrong one of a crop,
    and reads scales or sizes of some axes as if they were of all (tried for every mode and way to map coordinates).
    """
    if node.op_type != "Resize" or node.domain:
        return False
    read = _read(node, model)
    if read is None or _rank(read) != 4 or read.type.tensor_type.elem_type in _WITHOUT_KERNEL:
        return False
    axes = next((entry.ints for entry in node.attribute if entry.name == "axes"), ())
    if axes and len(axes) != 4:
        return True
    if _text(node, "mode", "nearest") != "cubic":
        return False
    if _text(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return True
    return not attribute(node, "antialias", 0) and not _only_enlarges(node, model)


def _only_enlarges(node: NodeProto, model: ModelProto) -> bool:
    """Whether stored scales say so; sizes do not without the input's own."""
    name = node.input[2] if len(node.input) > 2 else ""
    scales = next((numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name), None)
    return scales is not None and scales.size > 0 and bool((scales >= 1).all())


def _read(node: NodeProto, model: ModelProto) -> ValueInfoProto | None:
    """What a node reads, as it has been inferred."""
    known = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    return next((value for value in known if value.name == node.input[0]), None)


def _rank(value: ValueInfoProto) -> int | None:
    kind = value.type.tensor_type
    return len(kind.shape.dim) if kind.HasField("shape") else None


def _text(node: NodeProto, name: str, default: str) -> str:
    return next((entry.s.decode() for entry in node.attribute if entry.name == name), default)
