"""dynamic_int8: what its integers stand for, which kernels the runtime makes of them, and what is shared."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import ModelProto, helper, numpy_helper

from app.domain.recipe import DynamicInt8
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.conftest import Made, Maker
from workers.quantization.technique import Context, quantize
from workers.runtimes.session import load

finite = st.floats(-50, 50, width=32).filter(lambda number: number == 0 or abs(number) > 1e-3)


def stored(proto: ModelProto) -> dict[str, Array]:
    return {entry.name: numpy_helper.to_array(entry) for entry in proto.graph.initializer}


def slow_activation(x: Array) -> tuple[Array, float]:
    """Whole numbers from the zero point, and their scale (ONNX operators, DynamicQuantizeLinear-11)."""
    low, high = min(np.float32(0), x.min()), max(np.float32(0), x.max())
    scale = np.float32((high - low) / np.float32(255)) if high > low else np.float32(1)
    zero = np.clip(np.rint(np.float32(0) - low / scale), 0, 255)
    whole = np.clip(np.rint(x / scale) + zero, 0, 255)
    return whole.astype(np.int64) - int(zero), float(scale)


@settings(max_examples=60, deadline=None)
@given(
    x=arrays(np.float32, st.tuples(st.integers(1, 3), st.just(6)), elements=finite),
    weight=arrays(np.float32, st.tuples(st.just(6), st.integers(1, 5)), elements=finite),
    op_type=st.sampled_from(["MatMul", "Gemm", "Gemm, transB", "Gemm, alpha"]),
    weight_type=st.sampled_from(["int8", "uint8"]),
    per_channel=st.booleans(),
)
def test_a_product_is_what_whole_numbers_give(
    tmp_path_factory: pytest.TempPathFactory,
    x: Array,
    weight: Array,
    op_type: str,
    weight_type: str,
    per_channel: bool,
) -> None:
    folder = tmp_path_factory.mktemp("dynamic")
    flipped, factor = "transB" in op_type, 0.5 if "alpha" in op_type else 1.0
    name = op_type.split(",")[0]
    bias = np.linspace(-1, 2, weight.shape[1]).astype(np.float32)
    attributes = {"transB": int(flipped), "alpha": factor} if name == "Gemm" else {}
    model = models.model(
        [helper.make_node(name, ["x", "w", "b"][: 3 if name == "Gemm" else 2], ["y"], name="m", **attributes)],
        [models.value("x", ["n", 6])],
        [models.value("y", ["n", weight.shape[1]])],
        [numpy_helper.from_array(np.ascontiguousarray(weight.T if flipped else weight), "w"), models.tensor("b", bias)],
    )
    recipe = DynamicInt8.model_validate(
        # Seven bits, so that no processor saturates on the way.
        {"weight_type": weight_type, "per_channel": per_channel, "reduce_range": True}
    )
    path = models.save(model, folder / "model.onnx")

    made = quantize(path, folder / "out.onnx", recipe, Context(work=folder))

    tensors = stored(onnx.load(made.file))
    middle = 128 if weight_type == "uint8" else 0
    integers = tensors["w_quantized"].astype(np.int64) - middle
    assert np.abs(integers).max() <= 63
    exact = weight * factor
    assert (np.abs(integers * tensors["w_scale"].astype(np.float64) - exact) <= tensors["w_scale"] * 0.501).all()
    whole, scale = slow_activation(x)
    expected = (whole @ integers) * scale * tensors["w_scale"].astype(np.float64) + (bias if name == "Gemm" else 0)
    (found,) = load(made.file, optimization="none").run({"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4 * (np.abs(expected).max() + 1e-3))


@settings(max_examples=25, deadline=None)
@given(
    x=arrays(np.float32, (1, 4, 5, 5), elements=finite),
    group=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 2),
    per_channel=st.booleans(),
)
def test_a_convolution_is_what_whole_numbers_give(
    tmp_path_factory: pytest.TempPathFactory, x: Array, group: int, stride: int, per_channel: bool
) -> None:
    folder = tmp_path_factory.mktemp("dynamic")
    weight = np.random.default_rng(group).standard_normal((4, 4 // group, 3, 3)).astype(np.float32)
    weight *= np.array([0.01, 0.1, 1, 10], np.float32).reshape(-1, 1, 1, 1)
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], name="c", pads=[1, 1, 1, 1], group=group, strides=[stride, stride]
    )
    model = models.model(
        [node],
        [models.value("x", [1, 4, 5, 5])],
        [models.value("y", None)],
        [numpy_helper.from_array(weight, "w"), models.tensor("b", [1, 2, 3, 4])],
    )
    recipe = DynamicInt8(op_types=("Conv",), per_channel=per_channel, reduce_range=True)

    made = quantize(models.save(model, folder / "m.onnx"), folder / "o.onnx", recipe, Context(work=folder))

    tensors = stored(onnx.load(made.file))
    whole, scale = slow_activation(x)
    padded = np.pad(whole, ((0, 0), (0, 0), (1, 1), (1, 1)))
    size = (5 - 1) // stride + 1
    (found,) = load(made.file, optimization="none").run({"x": x})
    w_scale = np.broadcast_to(tensors["w_scale"].reshape(-1), 4)
    for channel in range(4):
        first = channel // (4 // group) * (4 // group)
        for row in range(size):
            for column in range(size):
                at = padded[0, first : first + 4 // group, row * stride :, column * stride :][:, :3, :3]
                total = int((at * tensors["w_quantized"][channel].astype(np.int64)).sum())
                expected = total * scale * float(w_scale[channel]) + channel + 1
                assert abs(found[0, channel, row, column] - expected) <= 1e-5 * abs(expected) + 1e-5


def test_channels_of_a_convolution_have_scales_of_their_own(make: Maker) -> None:
    """onnxruntime's own quantizer gives them one a tensor, which depthwise convolutions do not survive."""
    recipe = DynamicInt8(op_types=("Conv", "Gemm"), reduce_range=True)

    made = make(models.conv_net(), recipe)

    assert stored(made.proto)["dw_w_scale"].shape == (8, 1, 1)
    assert made.sqnr_db > make(models.conv_net(), recipe.model_copy(update={"per_channel": False})).sqnr_db


def fused(made: Made, folder: Path) -> list[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(made.produced.file, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_runtime_fuses_products_with_their_biases(
    make: Maker, tmp_path: Path, weight_type: str, per_channel: bool
) -> None:
    recipe = DynamicInt8.model_validate(
        {"weight_type": weight_type, "per_channel": per_channel, "reduce_range": True, "smoothing": False}
    )

    assert fused(make(models.mlp(), recipe), tmp_path) == ["DynamicQuantizeMatMul", "Relu", "DynamicQuantizeMatMul"]


def test_queries_keys_and_values_read_one_quantized_activation(make: Maker) -> None:
    made = make(models.transformer(), DynamicInt8(reduce_range=True, smoothing=False))

    quantized = [node for node in made.proto.graph.node if node.op_type == "DynamicQuantizeLinear"]
    assert sorted(node.input[0] for node in quantized) == ["mixed", "x"]


def test_a_kept_gemm_stays_a_gemm(make: Maker) -> None:
    made = make(models.mlp(), DynamicInt8(reduce_range=True, keep_float=("head/Gemm",)))

    (head,) = (node for node in made.proto.graph.node if node.name == "head/Gemm")
    assert (head.op_type, list(head.input)[1:]) == ("Gemm", ["w2", "b2"])


def test_a_weight_that_a_kept_node_reads_is_there_for_it(make: Maker) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w"], ["i"], name="second"),
        helper.make_node("MatMul", ["i", "w"], ["y"], name="third"),
    ]
    model = models.model(
        nodes, [models.value("x", ["n", 8])], [models.value("y", ["n", 8])], [models.weights("w", 8, 8)]
    )

    made = make(model, DynamicInt8(reduce_range=True, keep_float=("second",), smoothing=False))

    tensors = stored(made.proto)
    assert {name for name in tensors if name.endswith("quantized")} == {"w_quantized"}
    np.testing.assert_array_equal(tensors["w"], numpy_helper.to_array(models.weights("w", 8, 8)))
    assert made.sqnr_db > 25


def test_tables_and_recurrences_are_left_to_the_runtimes_own_quantizer(make: Maker) -> None:
    made = make(models.transformer(), DynamicInt8(op_types=("Gather", "MatMul"), reduce_range=True))

    assert stored(made.proto)["table_quantized"].dtype in (np.int8, np.uint8)
    assert "MatMulInteger" in made.op_types
    assert made.sqnr_db > 20


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("axes", "rows"),
    [((6,), (3,)), ((1, 6), (3,)), ((1, 6), ()), ((1, 1, 6), (3,)), ((1, 1, 6), (3, 5)), ((1, 1, 1, 6), (3, 5))],
)
@pytest.mark.parametrize("between", [False, True])
def test_an_addend_gives_the_result_its_axes_after_fusion_too(
    tmp_path: Path, axes: tuple[int, ...], rows: tuple[int, ...], known: bool, between: bool
) -> None:
    model = models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
            *[helper.make_node("Identity", ["a"], ["i"], name="identity")] * between,
            helper.make_node("Add", ["b", "i" if between else "a"], ["y"], name="sum"),
        ],
        [models.value("x", [*["n"] * len(rows), 8] if known else None)],
        [models.value("y", None)],
        [models.weights("w", 8, 6), models.tensor("b", np.ones(axes))],
    )
    path = models.save(model, tmp_path / "model.onnx")
    made = quantize(path, tmp_path / "out.onnx", DynamicInt8(reduce_range=True), Context(work=tmp_path))
    x = np.random.default_rng(0).standard_normal((*rows, 8)).astype(np.float32)
    (exact,), (found,) = (load(file).run({"x": x}) for file in (path, made.file))
    assert found.shape == exact.shape
