"""Models that trip quantizers up, each with rows for it: `name -> () -> (model, rows)`."""

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.parts import models
from tests.parts.models import Array, tensor, value, weights

Rows = list[dict[str, Array]]
Case = Callable[[], tuple[ModelProto, Rows]]


def rows(shape: tuple[int, ...], name: str = "x", count: int = 8, scale: float = 1.0) -> Rows:
    """Seeded normal rows for one float input."""
    return [
        {name: (np.random.default_rng(row).standard_normal(shape) * scale).astype(np.float32)} for row in range(count)
    ]


def one_product(
    stored: Array | TensorProto, *, shape: tuple[int, ...] = (2, 8), op_type: str = "MatMul", **attributes: float
) -> ModelProto:
    """x through one product, then a ReLU: whatever comes out."""
    weight = stored if isinstance(stored, TensorProto) else numpy_helper.from_array(stored, "w")
    return models.model(
        [
            helper.make_node(op_type, ["x", "w"], ["h"], name="product", **attributes),
            helper.make_node("Relu", ["h"], ["y"], name="relu"),
        ],
        [value("x", shape)],
        [value("y", None)],
        [weight],
    )


def normal(*shape: int, spread: float = 0.3) -> Array:
    return (np.random.default_rng(len(shape)).standard_normal(shape) * spread).astype(np.float32)


def mlp_of(w1: Array) -> ModelProto:
    """`models.mlp` with another first weight, (32, 24)."""
    model = models.mlp()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(w1.astype(np.float32), "w1"))
    return model


def scan() -> ModelProto:
    """A Scan whose body multiplies each row with captured weights, and a product before it."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["row", "w2"], ["p"], name="body/MatMul"),
            helper.make_node("Tanh", ["p"], ["made"], name="body/Tanh"),
            helper.make_node("Identity", ["state"], ["state_out"], name="body/Identity"),
        ],
        "body",
        [value("state", [1]), value("row", [8])],
        [value("state_out", [1]), value("made", [8])],
    )
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Scan", ["zero", "h"], ["last", "y"], name="scan", body=body, num_scan_inputs=1),
        ],
        [value("x", [4, 8])],
        [value("y", [4, 8])],
        [weights("w", 8, 8), weights("w2", 8, 8, seed=1), tensor("zero", [0.0])],
    )


def contrib() -> ModelProto:
    """An operator of onnxruntime's own domain between two products."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("BiasGelu", ["h", "b"], ["g"], name="gelu", domain="com.microsoft"),
            helper.make_node("MatMul", ["g", "w2"], ["y"], name="last"),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 8])],
        [weights("w", 8, 8), weights("b", 8), weights("w2", 8, 8, seed=1)],
        domains=[("com.microsoft", 1)],
    )


def shapeless() -> ModelProto:
    """No tensor has a shape, the input and output included."""
    model = models.mlp()
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.ClearField("shape")
    return model


def by_data() -> ModelProto:
    """How many rows the product gets depends on the numbers: NonZero and Compress."""
    return models.model(
        [
            helper.make_node("Greater", ["x", "zero"], ["keep"], name="greater"),
            helper.make_node("ReduceMax", ["flags"], ["any"], name="any", axes=[1], keepdims=0),
            helper.make_node("Cast", ["keep"], ["flags"], name="flags", to=TensorProto.FLOAT),
            helper.make_node("Cast", ["any"], ["chosen"], name="chosen", to=TensorProto.BOOL),
            helper.make_node("Compress", ["x", "chosen"], ["rows"], name="compress", axis=0),
            helper.make_node("MatMul", ["rows", "w"], ["y"], name="product"),
        ],
        [value("x", [4, 8])],
        [value("y", [None, 8])],
        [weights("w", 8, 8), tensor("zero", 1.5)],
    )


def many_outputs(count: int = 60) -> ModelProto:
    """A layer and so many heads on it, all with one stored matrix."""
    heads = [helper.make_node("MatMul", ["h", "w"], [f"y{index}"], name=f"head{index}") for index in range(count)]
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="first"),
            helper.make_node("Tanh", ["p"], ["h"], name="tanh"),
            *heads,
        ],
        [value("x", ["batch", 8])],
        [value(f"y{index}", ["batch", 8]) for index in range(count)],
        [weights("w", 8, 8, spread=0.5)],
    )


def shared_by_float_and_quantized() -> ModelProto:
    """One stored matrix that a product, a Gather and an addition read."""
    return models.model(
        [
            helper.make_node("Gather", ["w", "ids"], ["e"], name="embed"),
            helper.make_node("MatMul", ["e", "w"], ["h"], name="product"),
            helper.make_node("Add", ["h", "e"], ["s"], name="residual"),
            helper.make_node("ReduceMax", ["w"], ["most"], name="most", keepdims=0),
            helper.make_node("Add", ["s", "most"], ["y"], name="shift"),
        ],
        [value("ids", ["batch"], TensorProto.INT64)],
        [value("y", ["batch", 8])],
        [weights("w", 8, 8, spread=1.0)],
    )


def empty_operand() -> ModelProto:
    """A Concat one of whose operands has no elements, between two convolutions."""
    return models.model(
        [
            helper.make_node("Conv", ["x", "w1"], ["c"], name="first"),
            helper.make_node("Concat", ["c", "nothing"], ["j"], name="join", axis=1),
            helper.make_node("Conv", ["j", "w2"], ["y"], name="second"),
        ],
        [value("x", [1, 2, 5, 5])],
        [value("y", [1, 3, 5, 5])],
        [weights("w1", 4, 2, 1, 1), weights("w2", 3, 4, 1, 1), tensor("nothing", np.empty((1, 0, 5, 5)))],
    )


def sequences() -> ModelProto:
    """A product whose output becomes a sequence and comes back."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("SplitToSequence", ["h"], ["parts"], name="split", axis=1),
            helper.make_node("SequenceAt", ["parts", "at"], ["part"], name="at"),
            helper.make_node("MatMul", ["part", "w2"], ["y"], name="last"),
        ],
        [value("x", [4, 8])],
        [value("y", [4, 3])],
        [weights("w", 8, 8), weights("w2", 1, 3), tensor("at", 2, np.int64)],
    )


def optionals() -> ModelProto:
    """A product whose output goes through an optional."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Optional", ["h"], ["maybe"], name="wrap"),
            helper.make_node("OptionalGetElement", ["maybe"], ["sure"], name="unwrap"),
            helper.make_node("MatMul", ["sure", "w2"], ["y"], name="last"),
        ],
        [value("x", [4, 8])],
        [value("y", [4, 8])],
        [weights("w", 8, 8), weights("w2", 8, 8, seed=1)],
    )


def tied() -> ModelProto:
    """A table that is embedding and, transposed, head."""
    return models.model(
        [
            helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
            helper.make_node("MatMul", ["e", "w"], ["h"], name="inner"),
            helper.make_node("Transpose", ["table"], ["t"], name="flip", perm=[1, 0]),
            helper.make_node("MatMul", ["h", "t"], ["y"], name="head"),
        ],
        [value("ids", ["batch"], TensorProto.INT64)],
        [value("y", ["batch", 100])],
        [weights("table", 100, 16, spread=1.0), weights("w", 16, 16)],
    )


def in_float64() -> ModelProto:
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["y"], name="relu"),
        ],
        [value("x", ["batch", 8], TensorProto.DOUBLE)],
        [value("y", ["batch", 8], TensorProto.DOUBLE)],
        [numpy_helper.from_array(normal(8, 8).astype(np.float64), "w")],
    )


def partly_float64() -> ModelProto:
    """One product in float64 between two in float32."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Cast", ["h"], ["wide"], name="widen", to=TensorProto.DOUBLE),
            helper.make_node("MatMul", ["wide", "w64"], ["p"], name="middle"),
            helper.make_node("Cast", ["p"], ["narrow"], name="narrow", to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["narrow", "w"], ["y"], name="last"),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 8])],
        [weights("w", 8, 8), numpy_helper.from_array(normal(8, 8).astype(np.float64), "w64")],
    )


def in_float16() -> ModelProto:
    half = numpy_helper.from_array(normal(32, 8).astype(np.float16), "w")
    return models.model(
        [
            helper.make_node("Cast", ["x"], ["xh"], name="in", to=TensorProto.FLOAT16),
            helper.make_node("MatMul", ["xh", "w"], ["h"], name="first"),
            helper.make_node("Cast", ["h"], ["y"], name="out", to=TensorProto.FLOAT),
        ],
        [value("x", ["batch", 32])],
        [value("y", ["batch", 8])],
        [half],
    )


def integer_product() -> ModelProto:
    """A MatMul of int32 beside one of floats."""
    return models.model(
        [
            helper.make_node("MatMul", ["ids", "table"], ["whole"], name="whole"),
            helper.make_node("Cast", ["whole"], ["real"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["real", "w"], ["y"], name="product"),
        ],
        [value("ids", ["batch", 4], TensorProto.INT32)],
        [value("y", ["batch", 8])],
        [tensor("table", np.arange(32).reshape(4, 8) % 7 - 3, np.int32), weights("w", 8, 8)],
    )


def image_bytes() -> ModelProto:
    """Pixels come in as uint8."""
    return models.model(
        [
            helper.make_node("Cast", ["x"], ["f"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Conv", ["f", "w"], ["c"], name="conv"),
            helper.make_node("Relu", ["c"], ["y"], name="relu"),
        ],
        [value("x", ["batch", 3, 6, 6], TensorProto.UINT8)],
        [value("y", ["batch", 4, 4, 4])],
        [weights("w", 4, 3, 3, 3)],
    )


def default_input() -> ModelProto:
    """A weight that callers may set: an initializer that is an input too, in IR version 8."""
    model = models.gemm()
    model.graph.input.append(value("w", [16, 8]))
    return model


def stored_output() -> ModelProto:
    """An initializer and an input are outputs as they are."""
    model = models.gemm()
    model.graph.output.extend([value("w", [16, 8]), value("x", ["batch", 16])])
    return model


def same_operand_twice() -> ModelProto:
    return models.model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
            helper.make_node("Mul", ["c", "c"], ["s"], name="square"),
            helper.make_node("Add", ["s", "s"], ["d"], name="double"),
            helper.make_node("Conv", ["d", "w2"], ["y"], name="last"),
        ],
        [value("x", [1, 2, 5, 5])],
        [value("y", [1, 3, 5, 5])],
        [weights("w", 4, 2, 1, 1), weights("w2", 3, 4, 1, 1)],
    )


def weights_on_the_left() -> ModelProto:
    return models.model(
        [
            helper.make_node("MatMul", ["w", "x"], ["h"], name="left"),
            helper.make_node("MatMul", ["h", "w2"], ["y"], name="right"),
        ],
        [value("x", [8, 4])],
        [value("y", [6, 5])],
        [weights("w", 6, 8), weights("w2", 4, 5)],
    )


def sparse() -> ModelProto:
    """A weight stored as a sparse tensor."""
    model = models.mlp()
    made = helper.make_sparse_tensor(
        numpy_helper.from_array(normal(40), "extra"), tensor("at", np.arange(40) * 3, np.int64), [24, 24]
    )
    model.graph.sparse_initializer.append(made)
    model.graph.node[1].output[0] = "h2_before"
    model.graph.node.insert(2, helper.make_node("MatMul", ["h2_before", "extra"], ["h2"], name="sparse/MatMul"))
    return model


def odd_names() -> ModelProto:
    """Tensors named like those that a quantizer adds, and letters of other scripts."""
    model = models.mlp()
    renamed = {
        "h1": "w1_quantized",
        "h2": "x_scale",
        "h3": "x_dequantized",
        "w2": "w1_zero_point",
        "b2": "вес/权重 [0]",
    }
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for stored in model.graph.initializer:
        stored.name = renamed.get(stored.name, stored.name)
    return model


def infinite_inside() -> ModelProto:
    """exp of a large number is infinite, and 1 / (1 + ∞) is zero: the outputs are finite."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Mul", ["h", "thousand"], ["big"], name="big"),
            helper.make_node("Exp", ["big"], ["e"], name="exp"),
            helper.make_node("Add", ["e", "one"], ["s"], name="plus"),
            helper.make_node("Div", ["one", "s"], ["z"], name="inverse"),
            helper.make_node("MatMul", ["z", "w"], ["y"], name="last"),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 8])],
        [weights("w", 8, 8), tensor("thousand", 1000.0), tensor("one", 1.0)],
    )


def infinite_in_front() -> ModelProto:
    """The logarithm of zero reaches a product."""
    return models.model(
        [
            helper.make_node("Relu", ["x"], ["r"], name="relu"),
            helper.make_node("Log", ["r"], ["l"], name="log"),
            helper.make_node("MatMul", ["l", "w"], ["y"], name="product"),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 8])],
        [weights("w", 8, 8)],
    )


def norm_of_nothing() -> ModelProto:
    """A batch norm without variance nor epsilon behind a convolution."""
    model = models.conv_net()
    model.graph.initializer[4].CopyFrom(tensor("v", np.zeros(8)))
    model.graph.node[1].attribute[0].f = 0.0
    return model


def volumes() -> ModelProto:
    return models.model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="volume", auto_pad="SAME_UPPER", dilations=[1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"], name="relu"),
        ],
        [value("x", [1, 2, 4, 4, 4])],
        [value("y", [1, 3, 4, 4, 4])],
        [weights("w", 3, 2, 3, 3, 3)],
    )


def signal() -> ModelProto:
    return models.model(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="signal", pads=[2, 2], dilations=[2]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("ConvTranspose", ["r", "w2"], ["y"], name="back", strides=[2]),
        ],
        [value("x", ["batch", 2, "time"])],
        [value("y", None)],
        [weights("w", 4, 2, 3), weights("b", 4), weights("w2", 4, 2, 2)],
    )


def in_opset(version: int) -> ModelProto:
    model = models.conv_net()
    if version < 11:
        model.graph.node[2].CopyFrom(helper.make_node("Clip", ["norm"], ["act"], name="/stem/Clip", min=0.0, max=6.0))
    model.opset_import[0].version = version
    return model


def recurrent() -> ModelProto:
    return models.model(
        [
            helper.make_node("LSTM", ["x", "W", "R", "B"], ["h"], name="lstm", hidden_size=4),
            helper.make_node("Squeeze", ["h", "axis"], ["s"], name="squeeze"),
            helper.make_node("MatMul", ["s", "w"], ["y"], name="product"),
        ],
        [value("x", [5, 1, 3])],
        [value("y", [5, 1, 2])],
        [
            weights("W", 1, 16, 3),
            weights("R", 1, 16, 4),
            weights("B", 1, 32),
            tensor("axis", [1], np.int64),
            weights("w", 4, 2),
        ],
    )


def captured_weights() -> ModelProto:
    """Both bodies of an If read the weights of a product before it."""
    bodies = [
        helper.make_graph(
            [helper.make_node("MatMul", ["h", "w"], ["r"], name=f"{kind}/product")], kind, [], [value("r", None)]
        )
        for kind in ("then", "else")
    ]
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("ReduceSum", ["x"], ["total"], name="total", keepdims=0),
            helper.make_node("Greater", ["total", "zero"], ["positive"], name="positive"),
            helper.make_node("If", ["positive"], ["y"], name="choice", then_branch=bodies[0], else_branch=bodies[1]),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 8])],
        [weights("w", 8, 8), tensor("zero", 0.0)],
    )


def out_of_order() -> ModelProto:
    model = models.mlp()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def spelled_out() -> ModelProto:
    """A weight as numbers of their own in the message, and not as bytes."""
    model = models.mlp()
    stored = model.graph.initializer[0]
    numbers = numpy_helper.to_array(stored).reshape(-1).tolist()
    stored.ClearField("raw_data")
    stored.float_data.extend(numbers)
    return model


def computed_weights() -> ModelProto:
    """Weights are the product of a stored direction and a stored length."""
    return models.model(
        [
            helper.make_node("Mul", ["direction", "length"], ["w"], name="weight_norm"),
            helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 4])],
        [weights("direction", 8, 4), weights("length", 1, 4)],
    )


def masked(lowest: float) -> ModelProto:
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Add", ["h", "mask"], ["m"], name="add"),
            helper.make_node("Softmax", ["m"], ["p"], name="softmax"),
            helper.make_node("MatMul", ["p", "w2"], ["y"], name="last"),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 3])],
        [weights("w", 8, 6), tensor("mask", [0, 0, lowest, 0, 0, lowest]), weights("w2", 6, 3)],
    )


def infinite_bias() -> ModelProto:
    model = models.gemm()
    model.graph.initializer[1].CopyFrom(tensor("b", [-np.inf, *[0] * 7]))
    return model


def stored_in_bfloat16() -> ModelProto:
    stored = numpy_helper.from_array(normal(8, 8), "w")
    halves = np.frombuffer(stored.raw_data, np.uint16)[1::2]
    stored.data_type, stored.raw_data = TensorProto.BFLOAT16, halves.tobytes()
    return models.model(
        [
            helper.make_node("Cast", ["w"], ["wide"], name="widen", to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["x", "wide"], ["y"], name="product"),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 8])],
        [stored],
    )


def texts() -> ModelProto:
    return models.model(
        [
            helper.make_node("Identity", ["text"], ["same"], name="same"),
            helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
        ],
        [value("x", ["batch", 8]), value("text", [1], TensorProto.STRING)],
        [value("y", ["batch", 8]), value("same", [1], TensorProto.STRING)],
        [weights("w", 8, 8)],
    )


def scaler() -> ModelProto:
    """An operator of the domain for classical models, whose output onnx cannot type."""
    return models.model(
        [
            helper.make_node("Scaler", ["x"], ["s"], name="scaler", domain="ai.onnx.ml", offset=[0.0], scale=[2.0]),
            helper.make_node("MatMul", ["s", "w"], ["y"], name="product"),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 8])],
        [weights("w", 8, 8)],
        domains=[("ai.onnx.ml", 3)],
    )


def without_inputs() -> ModelProto:
    return models.model(
        [helper.make_node("MatMul", ["a", "w"], ["y"], name="product")],
        [],
        [value("y", [2, 8])],
        [weights("a", 2, 8), weights("w", 8, 8)],
    )


def filled_weights() -> ModelProto:
    return models.model(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["w"], name="fill", value=tensor("v", [0.5])),
            helper.make_node("MatMul", ["x", "w"], ["h"], name="filled"),
            helper.make_node("MatMul", ["h", "w2"], ["y"], name="stored"),
        ],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 3])],
        [tensor("shape", [4, 4], np.int64), weights("w2", 4, 3)],
    )


def shape_arithmetic() -> ModelProto:
    """A Reshape to a shape that is computed from the input's."""
    return models.model(
        [
            helper.make_node("Shape", ["x"], ["sizes"], name="shape"),
            helper.make_node("Gather", ["sizes", "first"], ["count"], name="gather"),
            helper.make_node("Unsqueeze", ["count", "axis"], ["rows"], name="unsqueeze"),
            helper.make_node("Concat", ["rows", "rest"], ["wanted"], name="concat", axis=0),
            helper.make_node("Conv", ["x", "w1"], ["c"], name="conv"),
            helper.make_node("Reshape", ["c", "wanted"], ["flat"], name="reshape"),
            helper.make_node("MatMul", ["flat", "w2"], ["y"], name="product"),
        ],
        [value("x", ["batch", 2, 4, 4])],
        [value("y", ["batch", 3])],
        [
            tensor("first", 0, np.int64),
            tensor("axis", [0], np.int64),
            tensor("rest", [-1], np.int64),
            weights("w1", 2, 2, 1, 1),
            weights("w2", 32, 3),
        ],
    )


def at(values: Array, index: tuple[int, ...], number: float) -> Array:
    values[index] = number
    return values


MLP_ROWS = (1, 32)

CASES: dict[str, Case] = {
    "branches": lambda: (models.branches(), rows((2, 16))),
    "loop": lambda: (models.loop(), rows((1, 4))),
    "scan": lambda: (scan(), rows((4, 8))),
    "an operator of com.microsoft": lambda: (contrib(), rows((2, 8))),
    "no shapes": lambda: (shapeless(), rows((3, 32))),
    "shapes by the data, none at times": lambda: (by_data(), rows((4, 8))),
    "60 outputs": lambda: (many_outputs(), rows((1, 8))),
    "no weights": lambda: (models.no_weights(), rows((1, 4))),
    "a weight of float and quantized nodes": lambda: (
        shared_by_float_and_quantized(),
        [{"ids": np.array([row, 7 - row])} for row in range(8)],
    ),
    "embedding and tied head": lambda: (tied(), [{"ids": np.array([row, 90 - row])} for row in range(8)]),
    "an empty operand": lambda: (empty_operand(), rows((1, 2, 5, 5))),
    "no rows in the batch": lambda: (models.mlp(), rows((0, 32))),
    "a product without columns": lambda: (one_product(np.empty((8, 0), np.float32)), rows((2, 8))),
    "a product without a summed axis": lambda: (one_product(np.empty((0, 8), np.float32), shape=(2, 0)), rows((2, 0))),
    "dynamic batch and length": lambda: (
        models.transformer(),
        [
            {
                "input_ids": np.random.default_rng(row).integers(0, 50, (1 + row % 3, 3 + row)),
                "attention_mask": np.ones((1 + row % 3, 3 + row), np.int64),
            }
            for row in range(8)
        ],
    ),
    "sequences": lambda: (sequences(), rows((4, 8))),
    "optionals": lambda: (optionals(), rows((4, 8))),
    "float64": lambda: (in_float64(), [{"x": row["x"].astype(np.float64)} for row in rows((2, 8))]),
    "float64 in the middle": lambda: (partly_float64(), rows((2, 8))),
    "float16": lambda: (in_float16(), rows((2, 32))),
    "integer inputs and products": lambda: (
        integer_product(),
        [{"ids": np.random.default_rng(row).integers(-5, 5, (2, 4)).astype(np.int32)} for row in range(8)],
    ),
    "bytes": lambda: (
        image_bytes(),
        [{"x": np.random.default_rng(row).integers(0, 256, (1, 3, 6, 6)).astype(np.uint8)} for row in range(8)],
    ),
    "a weight that callers may set": lambda: (default_input(), rows((2, 16))),
    "a weight and an input as outputs": lambda: (stored_output(), rows((2, 16))),
    "one operand twice": lambda: (same_operand_twice(), rows((1, 2, 5, 5))),
    "weights on the left": lambda: (weights_on_the_left(), rows((8, 4))),
    "sparse weights": lambda: (sparse(), rows(MLP_ROWS)),
    "odd names": lambda: (odd_names(), rows(MLP_ROWS)),
    "volumes": lambda: (volumes(), rows((1, 2, 4, 4, 4))),
    "a signal of any length": lambda: (signal(), rows((1, 2, 10))),
    "weights of one axis": lambda: (one_product(normal(8)), rows((2, 8))),
    "weights of three axes": lambda: (one_product(normal(3, 8, 5)), rows((2, 8))),
    "a scaled Gemm": lambda: (one_product(normal(8, 5), op_type="Gemm", alpha=0.5), rows((2, 8))),
    "a Gemm with turned input": lambda: (one_product(normal(2, 5), op_type="Gemm", transA=1), rows((2, 8))),
    "one weight": lambda: (one_product(normal(1, 1), shape=(2, 1)), rows((2, 1))),
    "opset 7": lambda: (in_opset(7), rows((1, 3, 12, 12), "image")),
    "opset 24": lambda: (in_opset(24), rows((1, 3, 12, 12), "image")),
    "recurrent": lambda: (recurrent(), rows((5, 1, 3))),
    "weights that bodies capture": lambda: (captured_weights(), rows((2, 8))),
    "nodes out of order": lambda: (out_of_order(), rows(MLP_ROWS)),
    "weights spelled out": lambda: (spelled_out(), rows(MLP_ROWS)),
    "weights computed from others": lambda: (computed_weights(), rows((2, 8))),
    "weights filled by shape": lambda: (filled_weights(), rows((2, 4))),
    "weights in bfloat16": lambda: (stored_in_bfloat16(), rows((2, 8))),
    "shape arithmetic": lambda: (shape_arithmetic(), rows((1, 2, 4, 4))),
    "no batch axis": lambda: (one_product(normal(8, 5), shape=(8,)), rows((8,))),
    "no inputs": lambda: (without_inputs(), [{}] * 3),
    "texts": lambda: (texts(), [{**row, "text": np.array(["A"], object)} for row in rows((2, 8))]),
    "an operator of ai.onnx.ml": lambda: (scaler(), rows((2, 8))),
    "a mask of infinities": lambda: (masked(-np.inf), rows((2, 8))),
    "a mask of the lowest number": lambda: (masked(float(np.finfo(np.float32).min)), rows((2, 8))),
    "an infinite bias": lambda: (infinite_bias(), rows((2, 16))),
    "a batch norm of nothing": lambda: (norm_of_nothing(), rows((1, 3, 12, 12), "image")),
    # Numbers among the weights
    "a NaN among the weights": lambda: (mlp_of(at(normal(32, 24), (3, 4), np.nan)), rows(MLP_ROWS)),
    "an infinity among the weights": lambda: (mlp_of(at(normal(32, 24), (3, 4), np.inf)), rows(MLP_ROWS)),
    "weights of zero": lambda: (mlp_of(np.zeros((32, 24))), rows(MLP_ROWS)),
    "equal weights": lambda: (mlp_of(np.full((32, 24), 0.25)), rows(MLP_ROWS)),
    "huge weights": lambda: (mlp_of(normal(32, 24) * 1e30), rows(MLP_ROWS)),
    "tiny weights": lambda: (mlp_of(normal(32, 24) * 1e-30), rows(MLP_ROWS)),
    "denormal weights": lambda: (mlp_of(normal(32, 24) * 1e-40), rows(MLP_ROWS)),
    "one weight beyond the others": lambda: (mlp_of(at(normal(32, 24), (3, 4), 1e6)), rows(MLP_ROWS)),
    # Numbers among the rows
    "one row": lambda: (models.mlp(), rows(MLP_ROWS, count=1)),
    "equal rows": lambda: (models.mlp(), rows(MLP_ROWS, count=1) * 8),
    "constant rows": lambda: (models.mlp(), [{"x": np.full(MLP_ROWS, 0.5, np.float32)}] * 8),
    "rows of zeros": lambda: (models.mlp(), [{"x": np.zeros(MLP_ROWS, np.float32)}] * 8),
    "rows of zeros, no biases": lambda: (models.resize_net(), [{"x": np.zeros((1, 2, 6, 6), np.float32)}] * 4),
    "a NaN in a row": lambda: (
        models.mlp(),
        [*rows(MLP_ROWS, count=3), {"x": at(np.zeros(MLP_ROWS, np.float32), (0, 3), np.nan)}],
    ),
    "an infinity in a row": lambda: (
        models.mlp(),
        [*rows(MLP_ROWS, count=3), {"x": at(np.zeros(MLP_ROWS, np.float32), (0, 3), -np.inf)}],
    ),
    "huge rows": lambda: (models.mlp(), rows(MLP_ROWS, scale=1e30)),
    "denormal rows": lambda: (models.resize_net(), rows((1, 2, 6, 6), scale=1e-40)),
    "infinite inside": lambda: (infinite_inside(), rows((2, 8))),
    "infinite in front of a product": lambda: (infinite_in_front(), rows((2, 8))),
}
