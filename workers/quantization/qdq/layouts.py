"""Operators that onnxruntime computes with channels in one place alone, though it may move them behind another."""

from onnx import ModelProto, NodeProto, numpy_helper

from workers.quantization.graph import attribute


def wants_its_own_layout(node: NodeProto, model: ModelProto) -> bool:
    """Whether a node of a model is a Resize of pictures that fails, or goes wrong, with channels last.

    onnxruntime 1.32 then has no cubic Resize that makes anything smaller without antialiasing, a wrong one of a crop,
    and reads scales or sizes of some axes as if they were of all (tried for every mode and way to map coordinates).
    """
    if node.op_type != "Resize" or node.domain or _rank(node, model) != 4:
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


def _rank(node: NodeProto, model: ModelProto) -> int | None:
    """Axes of what a node reads, as its shape has been inferred."""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        if value.name == node.input[0] and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return None


def _text(node: NodeProto, name: str, default: str) -> str:
    return next((entry.s.decode() for entry in node.attribute if entry.name == name), default)
