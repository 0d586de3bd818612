"""Small real models, one for each trap that quantizers know."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = NDArray[Any]


def weights(name: str, *shape: int, seed: int = 0, spread: float = 0.2) -> TensorProto:
    """Seeded normal float32 weights."""
    values = np.random.default_rng([seed, *shape]).normal(0, spread, shape)
    return numpy_helper.from_array(values.astype(np.float32), name)


def tensor(name: str, values: Any, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def value(name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    initializers: Sequence[TensorProto] = (),
    *,
    opset: int = 17,
    domains: Sequence[tuple[str, int]] = (),
) -> ModelProto:
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*domain) for domain in domains)]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(initializers))
    return helper.make_model(graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports, True))


def save(made: ModelProto, path: Path, *, external: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if external:
        onnx.save(made, path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    else:
        onnx.save(made, path)
    return path


def conv_net(*, batch: int | str = "batch", opset: int = 17) -> ModelProto:
    """Convolution, batch norm, ReLU6, depthwise convolution, pooling and a classifier: (b, 3, 12, 12) → (b, 10)."""
    return model(
        [
            helper.make_node("Conv", ["image", "stem_w"], ["stem"], name="/stem/Conv", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["stem", *"gbmv"], ["norm"], name="/stem/BatchNorm", epsilon=0.1),
            helper.make_node("Clip", ["norm", "zero", "six"], ["act"], name="/stem/Clip"),
            helper.make_node("Conv", ["act", "dw_w", "dw_b"], ["dw"], name="/block/Conv", pads=[1, 1, 1, 1], group=8),
            helper.make_node("Relu", ["dw"], ["dw_act"], name="/block/Relu"),
            helper.make_node("Add", ["dw_act", "act"], ["sum"], name="/block/Add"),
            helper.make_node("GlobalAveragePool", ["sum"], ["pool"], name="/head/Pool"),
            helper.make_node("Flatten", ["pool"], ["flat"], name="/head/Flatten"),
            helper.make_node("Gemm", ["flat", "fc_w", "fc_b"], ["logits"], name="/head/Gemm", transB=1),
        ],
        [value("image", [batch, 3, 12, 12])],
        [value("logits", [batch, 10])],
        [
            weights("stem_w", 8, 3, 3, 3),
            tensor("g", np.linspace(0.5, 2, 8)),
            tensor("b", np.linspace(-1, 1, 8)),
            tensor("m", np.linspace(-0.2, 0.2, 8)),
            tensor("v", np.linspace(0.5, 1.5, 8)),
            tensor("zero", 0.0),
            tensor("six", 6.0),
            weights("dw_w", 8, 1, 3, 3),
            weights("dw_b", 8),
            weights("fc_w", 10, 8, spread=1.0),
            weights("fc_b", 10),
        ],
        opset=opset,
    )


def gemm(*, batch: int | str = "batch", inputs: int = 16, outputs: int = 8) -> ModelProto:
    """One fully connected layer: (b, 16) → (b, 8)."""
    return model(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc")],
        [value("x", [batch, inputs])],
        [value("y", [batch, outputs])],
        [weights("w", inputs, outputs), weights("b", outputs)],
    )


def two_heads(kinds: int = 3, species: int = 5) -> ModelProto:
    """Two classifiers of one input: `kind` and `species`, (n, 4) → (n, 3) and (n, 5)."""
    return model(
        [helper.make_node("MatMul", ["x", f"w_{name}"], [name], name=name) for name in ("kind", "species")],
        [value("x", ["batch", 4])],
        [value("kind", ["batch", kinds]), value("species", ["batch", species])],
        [weights("w_kind", 4, kinds), weights("w_species", 4, species, seed=1)],
    )


def mlp(*, constants: bool = False, named: bool = True, opset: int = 17) -> ModelProto:
    """MatMul, Add, ReLU, Gemm: (b, 32) → (b, 5). With `constants`, weights lie in Constant nodes, one
    of them behind a Transpose."""
    stored = [weights("w1", 32, 24), weights("b1", 24), weights("w2", 5, 24), weights("b2", 5)]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h1"], name="dense/MatMul"),
        helper.make_node("Add", ["h1", "b1"], ["h2"], name="dense/Add"),
        helper.make_node("Relu", ["h2"], ["h3"], name="dense/Relu"),
        helper.make_node("Gemm", ["h3", "w2", "b2"], ["y"], name="head/Gemm", transB=1),
    ]
    if constants:
        flipped = numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(stored[0]).T), "w1_t")
        nodes = [
            helper.make_node("Constant", [], ["w1_t"], value=flipped),
            helper.make_node("Transpose", ["w1_t"], ["w1"], perm=[1, 0]),
            *(helper.make_node("Constant", [], [entry.name], value=entry) for entry in stored[1:]),
            *nodes,
        ]
        stored = []
    if not named:
        for node in nodes:
            node.name = ""
    return model(nodes, [value("x", ["batch", 32])], [value("y", ["batch", 5])], stored, opset=opset)


def transformer(*, words: int = 50, width: int = 16) -> ModelProto:
    """One attention block over token ids: ids and mask (b, s) → (b, s, 16) and (b, 16)."""
    scale = tensor("scale", 1 / np.sqrt(width))
    return model(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["emb"], name="/embed/Gather"),
            helper.make_node("LayerNormalization", ["emb", "ln_g", "ln_b"], ["x"], name="/norm/LayerNorm", axis=-1),
            helper.make_node("MatMul", ["x", "wq"], ["q"], name="/attn/q/MatMul"),
            helper.make_node("MatMul", ["x", "wk"], ["k"], name="/attn/k/MatMul"),
            helper.make_node("MatMul", ["x", "wv"], ["v"], name="/attn/v/MatMul"),
            helper.make_node("Transpose", ["k"], ["kt"], name="/attn/Transpose", perm=[0, 2, 1]),
            helper.make_node("MatMul", ["q", "kt"], ["scores"], name="/attn/scores/MatMul"),
            helper.make_node("Mul", ["scores", "scale"], ["scaled"], name="/attn/Mul"),
            helper.make_node("Cast", ["attention_mask"], ["mask"], name="/mask/Cast", to=TensorProto.FLOAT),
            helper.make_node("Sub", ["one", "mask"], ["inverse"], name="/mask/Sub"),
            helper.make_node("Mul", ["inverse", "low"], ["bias"], name="/mask/Mul"),
            helper.make_node("Unsqueeze", ["bias", "axis1"], ["bias3"], name="/mask/Unsqueeze"),
            helper.make_node("Add", ["scaled", "bias3"], ["masked"], name="/attn/Add"),
            helper.make_node("Softmax", ["masked"], ["p"], name="/attn/Softmax", axis=-1),
            helper.make_node("MatMul", ["p", "v"], ["mixed"], name="/attn/mix/MatMul"),
            helper.make_node("MatMul", ["mixed", "wo"], ["out"], name="/attn/o/MatMul"),
            helper.make_node("Add", ["out", "x"], ["last_hidden_state"], name="/attn/Residual"),
            helper.make_node("ReduceMean", ["last_hidden_state"], ["pooled"], name="/Pool", axes=[1], keepdims=0),
        ],
        [
            value("input_ids", ["batch", "sequence"], TensorProto.INT64),
            value("attention_mask", ["batch", "sequence"], TensorProto.INT64),
        ],
        [value("last_hidden_state", ["batch", "sequence", width]), value("pooled", ["batch", width])],
        [
            weights("table", words, width, spread=1.0),
            tensor("ln_g", np.ones(width)),
            tensor("ln_b", np.zeros(width)),
            *(
                weights(name, width, width, seed=index, spread=0.4)
                for index, name in enumerate(("wq", "wk", "wv", "wo"))
            ),
            scale,
            tensor("one", 1.0),
            tensor("low", -1e4),
            tensor("axis1", [1], np.int64),
        ],
    )


def branches() -> ModelProto:
    """Two bodies of an If that use the same names inside and capture a ReLU's output: (b, 16) → (b, 8)."""

    def body(factor: float, kind: str) -> GraphProto:
        return helper.make_graph(
            [
                helper.make_node("Constant", [], ["scale"], value_float=factor),
                helper.make_node("MatMul", ["hidden", "w"], ["h"], name=f"{kind}/MatMul"),
                helper.make_node("Mul", ["h", "scale"], ["m"], name=f"{kind}/Mul"),
                helper.make_node("Min", ["m", "cap"], ["result"], name=f"{kind}/Min"),
            ],
            kind,
            [],
            [value("result", None)],
            [weights("w", 12, 8, seed=int(factor)), tensor("cap", 100.0)],
        )

    return model(
        [
            helper.make_node("MatMul", ["x", "w0"], ["h0"], name="first/MatMul"),
            helper.make_node("Relu", ["h0"], ["hidden"], name="first/Relu"),
            helper.make_node("ReduceSum", ["x"], ["total"], name="total", keepdims=0),
            helper.make_node("Greater", ["total", "zero"], ["positive"], name="positive"),
            helper.make_node(
                "If", ["positive"], ["y"], name="choice", then_branch=body(1.0, "then"), else_branch=body(3.0, "else")
            ),
        ],
        [value("x", ["batch", 16])],
        [value("y", ["batch", 8])],
        [weights("w0", 16, 12), tensor("zero", 0.0)],
    )


def loop() -> ModelProto:
    """A Loop that multiplies three times with captured weights, with a Range inside: (1, 4) → (1, 4)."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["product"], name="body/MatMul"),
            helper.make_node("Tanh", ["product"], ["bounded"], name="body/Tanh"),
            helper.make_node("Max", ["bounded", "floor"], ["next"], name="body/Max"),
            helper.make_node("Identity", ["go"], ["go_on"], name="body/Identity"),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", [1, 4])],
        [value("go_on", [], TensorProto.BOOL), value("next", [1, 4])],
    )
    return model(
        [helper.make_node("Loop", ["times", "", "x"], ["y"], name="loop", body=body)],
        [value("x", [1, 4])],
        [value("y", [1, 4])],
        [weights("w", 4, 4, spread=1.0), tensor("times", 3, np.int64), tensor("floor", -0.5)],
    )


def resize_net() -> ModelProto:
    """Convolution, Resize by scales, convolution: (b, 2, 6, 6) → (b, 2, 12, 12)."""
    return model(
        [
            helper.make_node("Conv", ["x", "w1"], ["c"], name="down", pads=[1, 1, 1, 1]),
            helper.make_node("Resize", ["c", "", "scales"], ["r"], name="up", mode="nearest"),
            helper.make_node("Conv", ["r", "w2"], ["y"], name="out", pads=[1, 1, 1, 1]),
        ],
        [value("x", ["batch", 2, 6, 6])],
        [value("y", ["batch", 2, 12, 12])],
        [weights("w1", 4, 2, 3, 3), weights("w2", 2, 4, 3, 3), tensor("scales", [1, 1, 2, 2])],
    )


def upsample_net() -> ModelProto:
    """A model of opset 9, as exporters of 2019 wrote it: (1, 2, 6, 6) → (1, 2, 12, 12)."""
    made = model(
        [
            helper.make_node("Conv", ["x", "w1"], ["c"], name="down", pads=[1, 1, 1, 1]),
            helper.make_node("Upsample", ["c", "scales"], ["u"], name="up", mode="nearest"),
            helper.make_node("Conv", ["u", "w2"], ["y"], name="out", pads=[1, 1, 1, 1]),
        ],
        [
            value("x", [1, 2, 6, 6]),
            # IR version 3 lists weights among the inputs.
            value("w1", [4, 2, 3, 3]),
            value("w2", [2, 4, 3, 3]),
            value("scales", [4]),
        ],
        [value("y", [1, 2, 12, 12])],
        [weights("w1", 4, 2, 3, 3), weights("w2", 2, 4, 3, 3), tensor("scales", [1, 1, 2, 2])],
        opset=9,
    )
    made.ir_version = 3
    return made


def function_model() -> ModelProto:
    """A dense layer inside a local function: (b, 8) → (b, 4)."""
    body = helper.make_function(
        "local",
        "Dense",
        ["a", "w"],
        ["r"],
        [helper.make_node("MatMul", ["a", "w"], ["p"]), helper.make_node("Relu", ["p"], ["r"])],
        [helper.make_opsetid("", 17)],
    )
    made = model(
        [helper.make_node("Dense", ["x", "w"], ["y"], domain="local", name="dense")],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 4])],
        [weights("w", 8, 4)],
        domains=[("local", 1)],
    )
    made.functions.append(body)
    return made


def shared_bias() -> ModelProto:
    """Two convolutions with one bias, whose name with a number after it is an activation's:
    (b, 2, 6, 6) → (b, 2, 6, 6)."""
    return model(
        [
            helper.make_node("Conv", ["x", "w1", "bias"], ["bias0"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Neg", ["bias0"], ["n"], name="neg"),
            helper.make_node("Conv", ["n", "w2", "bias"], ["y"], name="second", pads=[1, 1, 1, 1]),
        ],
        [value("x", ["batch", 2, 6, 6])],
        [value("y", ["batch", 2, 6, 6])],
        [weights("w1", 2, 2, 3, 3), weights("w2", 2, 2, 3, 3, seed=1), weights("bias", 2)],
    )


def no_weights() -> ModelProto:
    """Nothing but a ReLU: (b, 4) → (b, 4)."""
    return model(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")], [value("x", ["batch", 4])], [value("y", ["batch", 4])]
    )
