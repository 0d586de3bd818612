"""The technique as a whole: forms, shared and nested weights, options, and what is refused."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from app.domain.recipe import OperatorType, WeightOnly
from app.errors import StepError
from tests.parts import models
from tests.unit.quantization.bad_models import sparse
from tests.unit.quantization.conftest import Made, Maker
from workers.formats.onnx.graph import all_nodes
from workers.quantization.technique import Context, quantize, resolve
from workers.quantization.weight_only import statistics
from workers.quantization.weight_only.choices import storage_grid
from workers.runtimes.session import load

VNNI = frozenset({"avx2", "avx512f", "avx512_vnni"})

MODELS: dict[str, Callable[[], ModelProto]] = {
    "conv": models.conv_net,
    "mlp": models.mlp,
    "mlp of constants, no names": lambda: models.mlp(constants=True, named=False),
    "mlp, opset 9": lambda: models.mlp(opset=9),
    "transformer": models.transformer,
    "branches": models.branches,
    "loop": models.loop,
    "function": models.function_model,
}

LEAST_DB = {2: 3, 4: 15, 8: 38}
"""Of some layers one after another. Each bit is 6 dB; two bits of normal weights are 9 dB at best."""


def quantized_nodes(made: Made) -> list[NodeProto]:
    """All nodes that hold quantized weights, nested bodies included."""
    wanted = ("MatMulNBits", "DequantizeLinear", "GatherBlockQuantized")
    return [node for node in all_nodes(made.proto) if node.op_type in wanted]


def attribute(node: NodeProto, name: str) -> Any:
    return next(helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name)


@pytest.mark.parametrize("external", [False, True], ids=["one file", "external data"])
@pytest.mark.parametrize(
    ("model", "bits", "form"),
    [
        (model, bits, form)
        for model, bits, form in product(MODELS, (2, 4, 8), ("matmul_nbits", "qdq"))
        # Its one product has ten outputs: see the test of what onnxruntime misreads.
        if (MODELS[model], bits, form) != (models.conv_net, 2, "qdq")
    ],
)
def test_stays_near_the_original(make: Maker, model: str, bits: Any, form: Any, external: bool) -> None:
    made = make(MODELS[model](), WeightOnly(bits=bits, block_size=16, form=form), external=external)

    assert LEAST_DB[bits] < made.sqnr_db < LEAST_DB[bits] + 40
    assert quantized_nodes(made)
    assert [port.name for port in made.session.outputs] == [value.name for value in MODELS[model]().graph.output]


@pytest.mark.parametrize("algorithm", ["rtn", "mse", "hqq", "gptq", "awq"])
@pytest.mark.parametrize("model", [models.mlp, models.transformer, models.branches])
def test_every_algorithm_runs_on_every_kind(make: Maker, model: Callable[[], ModelProto], algorithm: Any) -> None:
    made = make(model(), WeightOnly(algorithm=algorithm, block_size=32), features=VNNI)

    assert made.sqnr_db > 15
    assert all(attribute(node, "accuracy_level") == 4 for node in quantized_nodes(made))


@pytest.mark.parametrize("block", [16, 64, "channel"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_both_forms_hold_the_same_weights(make: Maker, block: Any, symmetric: bool) -> None:
    options = {"block_size": block, "symmetric": symmetric, "accuracy_level": 0}
    fast = make(models.gemm(inputs=100, outputs=12), WeightOnly(**options))
    plain = make(models.gemm(inputs=100, outputs=12), WeightOnly(form="qdq", **options))

    for one, other in zip(fast.artifact, plain.artifact, strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-4, atol=1e-5)


def test_one_scale_a_channel(make: Maker) -> None:
    made = make(models.gemm(inputs=100, outputs=12), WeightOnly(block_size="channel"))
    scales = next(numpy_helper.to_array(entry) for entry in made.proto.graph.initializer if "scales" in entry.name)

    assert (scales == scales[:, :1]).all()
    assert len(np.unique(scales)) == 12


@pytest.mark.parametrize(("inputs", "block"), [(16, 16), (17, 32), (64, 64), (576, 128), (5, 16)])
def test_blocks_are_no_larger_than_need_be(inputs: int, block: int) -> None:
    assert storage_grid(WeightOnly(block_size=128), inputs, 4).block == block


def gemm_with(inputs: dict[str, Any], addend: str, **attributes: Any) -> ModelProto:
    """A Gemm of x [b, 32] with stored w and an addend c, each as given."""
    stored = [models.tensor(name, values) for name, values in inputs.items()]
    return models.model(
        [helper.make_node("Gemm", ["x", "w", addend], ["y"], name="fc", **attributes)],
        [models.value("x", ["b", 32]), *([models.value("c", ["b", 6])] if addend == "c" and "c" not in inputs else [])],
        [models.value("y", ["b", 6])],
        stored,
    )


W = np.random.default_rng(0).standard_normal((32, 6))


@pytest.mark.parametrize("form", ["matmul_nbits", "qdq"])
@pytest.mark.parametrize(
    "model",
    [
        gemm_with({"w": W, "c": np.arange(6)}, "c"),
        gemm_with({"w": W.T, "c": np.arange(6)}, "c", transB=1, alpha=0.5),
        gemm_with({"w": W, "c": np.arange(6)}, "c", beta=2.0),
        gemm_with({"w": W, "c": np.full((1, 6), 3.0)}, "c"),
        gemm_with({"w": W, "c": np.arange(6)}, "c", beta=0.0),
        gemm_with({"w": W}, "c", alpha=-1.0),
    ],
    ids=["bias", "transposed, alpha", "beta", "row", "no beta", "addend at run time"],
)
def test_a_gemm_keeps_its_meaning(make: Maker, model: ModelProto, form: Any) -> None:
    rng = np.random.default_rng(1)
    names = [value.name for value in model.graph.input]
    feeds = [{n: rng.standard_normal((2, 32 if n == "x" else 6)).astype(np.float32) for n in names} for _ in range(3)]

    assert make(model, WeightOnly(bits=8, form=form, block_size=16), feeds=feeds).sqnr_db > 38


def test_a_gemm_with_transposed_input_stays(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)],
        [models.value("x", [32, "b"])],
        [models.value("y", ["b", 6])],
        [models.tensor("w", W)],
    )
    assert refused(model, WeightOnly(), tmp_path).code == "nothing_to_quantize"


def shared() -> ModelProto:
    """One table that a Gather reads, a product flipped, another product twice, and a Mul."""
    return models.model(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], name="embed"),
            helper.make_node("Transpose", ["table"], ["flipped"], name="flip", perm=[1, 0]),
            helper.make_node("MatMul", ["rows", "w"], ["h1"], name="first"),
            helper.make_node("MatMul", ["h1", "w"], ["h2"], name="second"),
            helper.make_node("Mul", ["w", "two"], ["w2"], name="double"),
            helper.make_node("MatMul", ["h2", "w2"], ["h3"], name="third"),
            helper.make_node("MatMul", ["h3", "flipped"], ["logits"], name="head"),
        ],
        [models.value("ids", ["b"], TensorProto.INT64)],
        [models.value("logits", ["b", 50])],
        [models.weights("table", 50, 32, spread=1.0), models.weights("w", 32, 32), models.tensor("two", 2.0)],
    )


def test_weights_shared_with_a_float_reader_stay_and_are_quantized_once(make: Maker) -> None:
    made = make(shared(), WeightOnly(bits=8))

    by_name = {node.name: node for node in made.proto.graph.node}
    assert by_name["first"].input[1] == by_name["second"].input[1]
    assert by_name["third"].op_type == "MatMul"
    assert {"embed", "double", "head"} <= by_name.keys()
    assert by_name["head"].op_type == "MatMulNBits"
    assert "flip" not in by_name
    stored = {entry.name for entry in made.proto.graph.initializer}
    assert {"table", "w"} <= stored  # a Gather and a Mul still read them
    assert made.sqnr_db > 38


def test_tables_are_quantized_when_asked(make: Maker) -> None:
    made = make(shared(), WeightOnly(bits=8, embeddings="quantize"))

    by_name = {node.name: node for node in made.proto.graph.node}
    assert by_name["embed"].op_type == "GatherBlockQuantized"
    assert "table" not in {entry.name for entry in made.proto.graph.initializer}
    assert made.sqnr_db > 35


@pytest.mark.parametrize(("heads", "bits"), [("same", 4), ("8", 8), ("keep", None)])
def test_heads_go_by_rule(make: Maker, heads: Any, bits: int | None) -> None:
    made = make(shared(), WeightOnly(heads=heads))

    by_name = {node.name: node for node in made.proto.graph.node}
    assert attribute(by_name["first"], "bits") == 4
    head = by_name["head"]
    assert (attribute(head, "bits") if head.op_type == "MatMulNBits" else None) == bits


def test_what_is_kept_stays_in_float(make: Maker) -> None:
    made = make(models.mlp(), WeightOnly(keep_float=(OperatorType(op_type="Gemm"),)))

    assert made.op_types.count("Gemm") == 1
    assert made.op_types.count("MatMulNBits") == 1


def test_float16_weights_give_float16_scales(make: Maker) -> None:
    model = models.gemm(inputs=64)
    for entry in model.graph.initializer:
        entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry).astype(np.float16), entry.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    feeds = [{"x": np.random.default_rng(0).standard_normal((2, 64)).astype(np.float16)}]

    made = make(model, WeightOnly(bits=8), feeds=feeds)

    scales = next(entry for entry in made.proto.graph.initializer if "scales" in entry.name)
    assert scales.data_type == TensorProto.FLOAT16
    assert made.sqnr_db > 35


def gated() -> ModelProto:
    """An RMS norm and a gated feed-forward layer, with inputs of very unlike sizes."""
    spread = np.where(np.arange(64) % 16 == 3, 12.0, 0.7)
    return models.model(
        [
            helper.make_node("Mul", ["x", "g"], ["n"], name="norm"),
            helper.make_node("MatMul", ["n", "wg"], ["gate"], name="gate"),
            helper.make_node("Sigmoid", ["gate"], ["s"], name="sigmoid"),
            helper.make_node("MatMul", ["n", "wu"], ["up"], name="up"),
            helper.make_node("Mul", ["s", "up"], ["wide"], name="gated"),
            helper.make_node("MatMul", ["wide", "wd"], ["y"], name="down"),
        ],
        [models.value("x", ["b", 64])],
        [models.value("y", ["b", 64])],
        [
            models.tensor("g", spread),
            models.weights("wg", 64, 96, spread=0.05),
            models.weights("wu", 64, 96, seed=1),
            models.weights("wd", 96, 64, seed=2),
        ],
    )


@pytest.mark.parametrize("external", [False, True])
def test_awq_folds_its_factors_into_the_norm(make: Maker, external: bool) -> None:
    feeds = [{"x": np.random.default_rng(row).standard_normal((64, 64)).astype(np.float32)} for row in range(4)]
    scaled = make(gated(), WeightOnly(algorithm="awq", block_size=64), feeds=feeds, external=external)
    nearest = make(gated(), WeightOnly(algorithm="rtn", block_size=64), feeds=feeds, external=external)

    assert [node.op_type for node in scaled.proto.graph.node] == [node.op_type for node in nearest.proto.graph.node]
    assert scaled.proto.graph.node[0].input[1] != "g"
    assert any("scales 2 of 2 activations" in note for note in scaled.produced.notes)
    assert scaled.sqnr_db > nearest.sqnr_db + 6


def test_an_activation_with_another_reader_is_not_scaled(make: Maker) -> None:
    model = gated()
    model.graph.output.append(models.value("n", ["b", 64]))

    made = make(model, WeightOnly(algorithm="awq", block_size=64))

    assert made.proto.graph.node[0].input[1] == "g"
    assert made.sqnr_db > 15


def siblings(opset: int) -> ModelProto:
    """Three products of one activation, of unlike widths, and a fourth whose weights the third shares."""
    return models.model(
        [
            helper.make_node("Relu", ["x"], ["a"], name="relu"),
            helper.make_node("MatMul", ["a", "wq"], ["q"], name="q"),
            helper.make_node("MatMul", ["a", "wk"], ["k"], name="k"),
            helper.make_node("MatMul", ["a", "wv"], ["v"], name="v"),
            helper.make_node("MatMul", ["a", "ws"], ["s"], name="s"),
            helper.make_node("MatMul", ["s", "ws"], ["t"], name="t"),
        ],
        [models.value("x", ["b", 32])],
        [models.value(name, ["b", size]) for name, size in (("q", 24), ("k", 8), ("v", 5), ("t", 32))],
        [models.weights(f"w{of}", 32, size) for of, size in (("q", 24), ("k", 8), ("v", 5), ("s", 32))],
        opset=opset,
    )


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("algorithm", ["rtn", "gptq"])
def test_products_of_one_activation_become_one(make: Maker, opset: int, algorithm: Any) -> None:
    merged = make(siblings(opset), WeightOnly(bits=8, algorithm=algorithm))

    assert merged.op_types.count("MatMulNBits") == 3
    assert merged.op_types.count("Split") == 1
    assert "MatMul" not in merged.op_types
    assert merged.sqnr_db > 38


def test_what_is_kept_is_not_merged(make: Maker) -> None:
    made = make(siblings(17), WeightOnly(bits=8, keep_float=("k",)))

    assert made.op_types.count("MatMul") == 1
    assert made.sqnr_db > 38


def refused(model: ModelProto, recipe: WeightOnly, folder: Path, **context: Any) -> StepError:
    path = models.save(model, folder / "model.onnx")
    with pytest.raises(StepError) as caught:
        quantize(path, folder / "out.onnx", resolve(recipe, VNNI), Context(work=folder, **context))
    return caught.value


def test_three_bits_are_refused(tmp_path: Path) -> None:
    assert refused(models.mlp(), WeightOnly(bits=3), tmp_path).code == "bits_not_supported"


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_calibrated_algorithms_want_rows(tmp_path: Path, algorithm: Any) -> None:
    assert refused(models.mlp(), WeightOnly(algorithm=algorithm), tmp_path).code == "calibration_missing"
    assert (
        refused(models.mlp(), WeightOnly(algorithm=algorithm), tmp_path, feeds=lambda: iter(())).code
        == "calibration_missing"
    )


def test_rows_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    rows = [({"x": np.full((1, 32), np.nan, dtype=np.float32)}, 1)]

    error = refused(models.mlp(), WeightOnly(algorithm="gptq"), tmp_path, feeds=lambda: iter(rows))

    assert error.code == "calibration_failed"


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
@pytest.mark.parametrize("share", [1, statistics.MOST_BYTES], ids=["each by itself", "together"])
def test_of_tensors_that_are_not_finite_the_first_computed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: Any, share: int
) -> None:
    monkeypatch.setattr(statistics, "MOST_BYTES", share)
    rows = [({"x": np.full((1, 32), value, dtype=np.float32)}, 1) for value in (1.0, np.nan)]

    error = refused(models.mlp(), WeightOnly(algorithm=algorithm), tmp_path, feeds=lambda: iter(rows))

    assert error.code == "calibration_failed"
    assert "the tensor 'x' is not finite on row 2" in error.detail


def test_numbers_without_a_square_are_told_from_those_that_are_none(tmp_path: Path) -> None:
    rows = [({"x": np.full((1, 32), 1e25, dtype=np.float32)}, 1)]

    error = refused(models.mlp(), WeightOnly(algorithm="gptq"), tmp_path, feeds=lambda: iter(rows))

    assert "too large to be squared on row 1" in error.detail


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_rows_without_elements_are_refused(tmp_path: Path, algorithm: Any) -> None:
    rows = [({"x": np.zeros((0, 32), dtype=np.float32)}, 1)] * 2

    error = refused(models.mlp(), WeightOnly(algorithm=algorithm), tmp_path, feeds=lambda: iter(rows))

    assert error.code == "calibration_empty"


def test_a_row_without_elements_among_others_is_no_matter(tmp_path: Path) -> None:
    full = [({"x": np.random.default_rng(row).standard_normal((2, 32)).astype(np.float32)}, 1) for row in range(3)]
    path = models.save(models.mlp(), tmp_path / "model.onnx")
    recipe = resolve(WeightOnly(algorithm="gptq"), VNNI)

    def made(rows: list[Any], name: str) -> bytes:
        context = Context(work=tmp_path, feeds=lambda: iter(rows))
        return quantize(path, tmp_path / name, recipe, context).file.read_bytes()

    assert made([({"x": np.zeros((0, 32), np.float32)}, 1), *full], "a.onnx") == made(full, "b.onnx")


def test_what_the_runtime_misreads_is_said_where_nothing_else_is_left(tmp_path: Path) -> None:
    model = models.gemm(outputs=10)

    error = refused(model, WeightOnly(bits=2, form="qdq"), tmp_path)

    assert error.code == "nothing_to_quantize"
    assert "misreads 2-bit weights of 10 outputs. Choose" in error.detail
    assert "not kept in float" not in error.detail


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("algorithm", ["rtn", "mse", "hqq"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float, algorithm: Any) -> None:
    model = models.gemm()
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[3, 2] = value
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))

    error = refused(model, WeightOnly(algorithm=algorithm), tmp_path)

    assert error.code == "weights_not_finite"
    assert "'w'" in error.detail


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_rows_are_not_blamed_for_weights_that_are_not_finite(tmp_path: Path, algorithm: Any) -> None:
    model = models.mlp()
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[3, 2] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w1"))
    rows = [({"x": np.ones((1, 32), np.float32)}, 1)]

    error = refused(model, WeightOnly(algorithm=algorithm), tmp_path, feeds=lambda: iter(rows))

    assert error.code == "weights_not_finite"
    assert "'w1'" in error.detail


@pytest.mark.parametrize("external", [False, True], ids=["one file", "external data"])
@pytest.mark.parametrize(
    "recipe",
    [WeightOnly(bits=8), WeightOnly(bits=8, form="qdq"), WeightOnly(bits=8, algorithm="gptq"),
     WeightOnly(bits=8, algorithm="awq", form="qdq")],
    ids=["matmul_nbits", "qdq", "gptq", "awq"],
)  # fmt: skip
def test_sparse_weights_are_quantized_like_others(make: Maker, recipe: WeightOnly, external: bool) -> None:
    made = make(sparse(), recipe, external=external)

    assert made.sqnr_db > 38
    assert len(quantized_nodes(made)) == 3
    assert not made.proto.graph.sparse_initializer


def test_a_number_without_axes_stays_one(make: Maker) -> None:
    model = models.model(
        [helper.make_node("Gemm", ["x", "w", "c"], ["y"], name="gemm", beta=0.5)],
        [models.value("x", ["batch", 8])],
        [models.value("y", ["batch", 4])],
        [models.weights("w", 8, 4), models.tensor("c", 2.0)],
    )

    made = make(model, WeightOnly(bits=8))

    assert made.sqnr_db > 38
    assert [list(tensor.dims) for tensor in made.proto.graph.initializer if "beta" in tensor.name] == [[]]


def test_a_model_without_stored_weights_is_refused(tmp_path: Path) -> None:
    assert refused(models.no_weights(), WeightOnly(), tmp_path).code == "nothing_to_quantize"


def test_two_bits_in_the_standard_form_avoid_what_onnxruntime_misreads(make: Maker) -> None:
    made = make(models.mlp(), WeightOnly(bits=2, form="qdq", block_size=16))

    # The head has five outputs.
    assert any("head/Gemm stays in float" in note for note in made.produced.notes)
    assert len(quantized_nodes(made)) == 1


def test_the_same_model_gives_the_same_bytes(make: Maker) -> None:
    first = make(models.transformer(), WeightOnly(algorithm="gptq")).produced.file.read_bytes()

    assert make(models.transformer(), WeightOnly(algorithm="gptq")).produced.file.read_bytes() == first


def large_model(folder: Path, layers: int, width: int) -> Path:
    """A chain of products with external data, written a weight at a time."""
    nodes, stored = [], []
    with (folder / "big.data").open("wb") as file:
        for at in range(layers):
            values = np.random.default_rng(at).standard_normal((width, width), dtype=np.float32)
            values /= np.float32(np.sqrt(width))
            tensor = TensorProto(name=f"w{at}", data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            for key, entry in (("location", "big.data"), ("offset", file.tell()), ("length", values.nbytes)):
                tensor.external_data.add(key=key, value=str(entry))
            file.write(values.tobytes())
            stored.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"x{at}", f"w{at}"], [f"x{at + 1}"], name=f"layer{at}"))
    made = models.model(nodes, [models.value("x0", ["b", width])], [models.value(f"x{layers}", ["b", width])], stored)
    onnx.save(made, folder / "big.onnx")
    return folder / "big.onnx"


def test_kept_tensors_come_over_whatever_their_places_leave_out(tmp_path: Path) -> None:
    path = large_model(tmp_path, 3, 64)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer:
        for index in range(len(entry.external_data) - 1, -1, -1):
            if entry.external_data[index].key == "length":
                del entry.external_data[index]
    onnx.save(model, path)
    out = tmp_path / "out" / "big.onnx"
    out.parent.mkdir()

    quantize(path, out, resolve(WeightOnly(keep_float=("layer1",)), VNNI), Context(work=tmp_path))

    kept = next(entry for entry in onnx.load(out).graph.initializer if entry.name == "w1")
    wanted = np.fromfile(tmp_path / "big.data", dtype=np.float32, count=64 * 64, offset=64 * 64 * 4)
    assert np.array_equal(numpy_helper.to_array(kept).reshape(-1), wanted)
    assert out.with_name("big.onnx.data").stat().st_size < 64 * 64 * 4 + 2 * 64 * 64


CHILD = """
    import sys
    from pathlib import Path
    from app.domain.recipe import WeightOnly
    from workers.quantization.technique import Context, quantize, resolve

    def peak():  # getrusage would give that of the process which started this one, if that was larger
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    recipe = resolve(WeightOnly(algorithm=sys.argv[3]), frozenset())
    before = peak()
    quantize(model, out, recipe, Context(work=out.parent, threads=2))
    print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("algorithm", ["rtn", "mse"])
def test_memory_holds_a_tensor_and_not_the_model(tmp_path: Path, algorithm: str) -> None:
    layers, width = 24, 2048
    path = large_model(tmp_path, layers, width)
    out = tmp_path / "out" / "big.onnx"
    out.parent.mkdir()

    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), str(out), algorithm]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path.cwd()).stdout)

    model_bytes, tensor_bytes = layers * width * width * 4, width * width * 4
    # One mapped tensor, its packed codes, and panels of two threads: far from the 400 MB of the model.
    assert grown < 6 * tensor_bytes < model_bytes / 3
    row = np.random.default_rng(0).standard_normal((1, width)).astype(np.float32)
    before, after = (load(file).run({"x0": row})[0] for file in (path, out))
    # 24 roundings to four bits one after another.
    assert 2 < 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum()) < 20
