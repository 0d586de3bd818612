"""static_int16: what its integers stand for, where they are stored, and what the runtime makes of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import ModelProto, helper, numpy_helper

from app.domain.recipe import AnyRecipe, Calibration, StaticInt8, StaticInt16
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.conftest import Maker
from workers.quantization.calibration.statistics import Observer, Statistics
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.plan import Setting, make_plan
from workers.quantization.technique import Context, quantize
from workers.runtimes.session import load

finite = st.floats(-100, 100, width=32).filter(lambda number: number == 0 or abs(number) > 1e-4)


def stored(proto: ModelProto) -> dict[str, Array]:
    return {entry.name: numpy_helper.to_array(entry) for entry in proto.graph.initializer}


def slow_product(x: Array, tensors: dict[str, Array], low: int, high: int) -> Array:
    """y = x·w + b in whole numbers, one multiplication at a time, and how large the summands were."""
    x_scale, x_zero = float(tensors["x_scale"]), int(tensors["x_zero_point"])
    weight = tensors["w_quantized"].astype(int)
    w_scale = np.broadcast_to(tensors["w_scale"].astype(np.float64).reshape(-1), weight.shape[1])
    bias = tensors["b_quantized"].astype(int)
    result = np.empty((len(x), weight.shape[1]))
    for row in range(len(x)):
        # The division is in float32, as ONNX's QuantizeLinear has it.
        steps = [int(np.rint(np.float32(value) / tensors["x_scale"])) for value in x[row]]
        whole = [min(max(step + x_zero, low), high) for step in steps]
        for column in range(weight.shape[1]):
            total = int(bias[column])
            for index, value in enumerate(whole):
                total += (value - x_zero) * int(weight[index, column])
            result[row, column] = total * x_scale * float(w_scale[column])
    return result


@settings(max_examples=40, deadline=None)
@given(
    rows=arrays(np.float32, st.tuples(st.integers(1, 3), st.just(5)), elements=finite),
    weight=arrays(np.float32, st.tuples(st.just(5), st.integers(1, 4)), elements=finite),
    activation_type=st.sampled_from(["int16", "uint16"]),
    per_channel=st.booleans(),
    weights=st.sampled_from(["exact", "qdq"]),
)
def test_a_product_is_what_whole_numbers_give(
    tmp_path_factory: pytest.TempPathFactory,
    rows: Array,
    weight: Array,
    activation_type: str,
    per_channel: bool,
    weights: str,
) -> None:
    folder = tmp_path_factory.mktemp("int16")
    bias = np.linspace(-3, 5, weight.shape[1]).astype(np.float32)
    model = models.model(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc")],
        [models.value("x", ["batch", 5])],
        [models.value("y", ["batch", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    observer = Observer()
    observer.add(rows, 1)
    Statistics(1, {"x": observer.statistics()}).write(folder / "statistics.npz")
    recipe = StaticInt16.model_validate(
        {
            "activation_type": activation_type,
            "per_channel": per_channel,
            "weights": weights,
            "calibration": {"method": "minmax"},
        }
    )

    made = quantize(
        models.save(model, folder / "model.onnx"),
        folder / "out.onnx",
        recipe,
        Context(work=folder, statistics=folder / "statistics.npz"),
    )

    tensors = stored(onnx.load(made.file))
    low, high = (0, 65_535) if activation_type == "uint16" else (-32_768, 32_767)
    expected = slow_product(rows, tensors, low, high)
    (found,) = load(made.file, session_options=made.session_options).run({"x": rows})
    # What float32 sums may differ by: 8 bits of activations would be off by a thousand times as much.
    size = np.abs(rows) @ np.abs(weight) + np.abs(bias) + 1e-6
    assert (np.abs(found - expected) <= 2e-6 * size).all()
    assert tensors["x_zero_point"].dtype == activation_type
    assert tensors["w_quantized"].dtype == np.int8


MODELS = {
    "conv": models.conv_net,
    "conv, opset 11": lambda: models.conv_net(opset=11),
    "mlp of constants, no names": lambda: models.mlp(constants=True, named=False),
    "transformer": models.transformer,
    "branches": models.branches,
    "resize": models.resize_net,
    "upsample, opset 9": models.upsample_net,
    "function": models.function_model,
    "shared bias": models.shared_bias,
}


@pytest.mark.parametrize("activation_type", ["int16", "uint16"])
@pytest.mark.parametrize("name", MODELS)
def test_nearer_than_eight_bits(make: Maker, name: str, activation_type: str) -> None:
    plain = {"calibration": {"method": "minmax"}, "recovery": ()}
    wide = make(MODELS[name](), StaticInt16.model_validate({"activation_type": activation_type, **plain}))
    narrow = make(MODELS[name](), StaticInt8.model_validate({"reduce_range": False, **plain}))

    # The weights' rounding is left: from one to six layers of it, of which errors of 8 bits may cancel a little.
    assert wide.sqnr_db > max(34, narrow.sqnr_db - 2)
    assert wide.produced.session_options == {}


def test_every_activation_of_a_product_has_16_bits(make: Maker) -> None:
    made = make(models.conv_net(), StaticInt16(recovery=()))

    tensors = stored(made.proto)
    pairs = [node for node in made.proto.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) >= 4
    assert {tensors[node.input[2]].dtype for node in pairs} == {np.dtype(np.int16)}
    for product in (node for node in made.proto.graph.node if node.op_type in ("Conv", "Gemm")):
        assert product.input[0].endswith("_dequantized")


def test_a_symmetric_range_replaces_no_relu(make: Maker) -> None:
    signed = make(models.conv_net(), StaticInt16(recovery=()))
    unsigned = make(models.conv_net(), StaticInt16(recovery=(), activation_type="uint16"))

    assert {"Relu", "Clip"} <= set(signed.op_types)
    assert {"Relu", "Clip"}.isdisjoint(unsigned.op_types)
    # And nothing stands between a convolution and its activation, where runtimes fuse them.
    readers = {node.input[0]: node.op_type for node in signed.proto.graph.node}
    (stem,) = (node for node in signed.proto.graph.node if node.name == "/stem/Conv")
    assert readers[stem.output[0]] == "Clip"


def test_the_runtime_would_round_activations_behind_dequantized_weights(make: Maker) -> None:
    """Why `exact` is the default: should this fail, onnxruntime has changed and the default may too."""
    recipe = StaticInt16(weights="qdq", recovery=(), calibration=Calibration(method="minmax"))
    made = make(models.gemm(inputs=64, outputs=32), recipe)
    careless = load(made.produced.file)

    noise = [row["x"] for row in made.feeds]
    original = [row[0] for row in made.original]
    error = sum(float(((careless.run({"x": x})[0] - y) ** 2).sum()) for x, y in zip(noise, original, strict=True))
    kept = sum(float(((a[0] - b) ** 2).sum()) for a, b in zip(made.artifact, original, strict=True))
    assert error > 1.2 * kept
    assert made.produced.session_options == {"session.disable_quant_qdq": "1"}


def test_a_model_below_opset_21_gets_the_runtimes_own_operators(tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(models.gemm())
    observer = Observer()
    observer.add(np.linspace(-2, 2, 16, dtype=np.float32), 1)
    setting = Setting(frozenset({"Gemm"}), frozenset(), Calibration(method="minmax"), activation_dtype="int16")
    plan = make_plan(model, Statistics(1, {"x": observer.statistics()}), setting)

    made = insert(plan).model

    domains = {node.op_type: node.domain for node in made.graph.node}
    assert domains["QuantizeLinear"] == "com.microsoft"
    assert {entry.domain: entry.version for entry in made.opset_import} == {"": 17, "com.microsoft": 1}
    x = np.linspace(-2, 2, 32, dtype=np.float32).reshape(2, 16)
    (found,) = load(models.save(made, tmp_path / "made.onnx")).run({"x": x})
    (exact,) = load(models.save(models.gemm(), tmp_path / "exact.onnx")).run({"x": x})
    np.testing.assert_allclose(found, exact, atol=0.02)


@pytest.mark.parametrize("recipe", [StaticInt16(), StaticInt8(reduce_range=False)])
def test_ranges_are_needed(tmp_path: Path, recipe: AnyRecipe) -> None:
    path = models.save(models.mlp(), tmp_path / "model.onnx")

    with pytest.raises(StepError) as raised:
        quantize(path, tmp_path / "out.onnx", recipe, Context(work=tmp_path))

    assert raised.value.code == "calibration_missing"
    assert recipe.technique in raised.value.detail


@pytest.mark.parametrize("method", ["minmax", "moving_average", "mean_extremes", "percentile", "entropy", "mse"])
def test_every_method_finds_ranges_for_16_bits(make: Maker, method: str) -> None:
    recipe = StaticInt16.model_validate({"calibration": {"method": method, "percentile": 99.999}, "recovery": ()})

    made = make(models.mlp(), recipe)

    # The averages clip what most rows reach: with sixteen rows, much.
    assert made.sqnr_db > (10 if method in ("moving_average", "mean_extremes") else 38)


def test_what_layers_cost_is_told(make: Maker) -> None:
    sensitivity = make(models.mlp(), StaticInt16(sensitivity=True)).produced.sensitivity
    assert sensitivity is not None
    assert {layer.node for layer in sensitivity.layers} == {"dense/MatMul", "head/Gemm"}


@pytest.mark.parametrize("op_type", ["Conv", "Gemm", "MatMul"])
def test_weights_beside_no_bias_keep_their_scales(make: Maker, op_type: str) -> None:
    """onnxruntime would give them 8 bits and one scale for all channels, since it takes them for floats."""
    rng = np.random.default_rng(7)
    spread = np.exp(rng.uniform(-4, 1, 8)).astype(np.float32)  # of the channels' weights
    if op_type == "Conv":
        weight = rng.standard_normal((8, 8, 3, 3)).astype(np.float32) * spread.reshape(-1, 1, 1, 1)
        shape = [1, 8, 8, 8]
    else:
        weight = rng.standard_normal((8, 8)).astype(np.float32) * spread
        shape = [4, 8]
    model = models.model(
        [helper.make_node(op_type, ["x", "w"], ["y"], name="product")],
        [models.value("x", shape)],
        [models.value("y", None)],
        [numpy_helper.from_array(weight, "w")],
    )
    made = make(model, StaticInt16(recovery=(), calibration=Calibration(method="minmax")))

    plain = load(made.produced.file, optimization="none")
    for feeds, (found,) in zip(made.feeds, made.artifact, strict=True):
        (expected,) = plain.run(feeds)
        channels = tuple(axis for axis in range(found.ndim) if axis != (1 if op_type == "Conv" else found.ndim - 1))
        noise = ((found - expected) ** 2).mean(axis=channels)
        assert (noise <= 1e-6 * (expected**2).mean(axis=channels)).all()
