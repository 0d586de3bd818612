"""What operators compute and move, the bound of each on a machine, and what fewer bits could do: by hand, on real
models, and as laws that must hold. No times are asserted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from tests.parts import models
from tests.unit.steps.conftest import Job, images
from workers.evaluation.operator_work import work_of
from workers.evaluation.operators import OperatorTime
from workers.evaluation.roofline import MachinePeaks, ModelWork, Roofline, Work, roofline
from workers.formats.onnx.graph import all_nodes
from workers.runtimes.onnx_profile import observe
from workers.runtimes.session import load
from workers.steps.profile import ProfileResult

PEAKS = MachinePeaks(fp32_gflops=100.0, int8_gops=400.0, bandwidth_gbs=10.0)
"""A millisecond is 100 million operations, 400 million of integers, or 10 million bytes."""


def operator(name: str, ms: float, *nodes: str, op_type: str = "Conv", **how: Any) -> OperatorTime:
    return OperatorTime(
        name=name, op_type=op_type, kernel=how.pop("kernel", op_type), provider="", calls=how.pop("calls", 1.0), ms=ms,
        share=0.0, output_bytes=how.pop("output_bytes", None), nodes=nodes,
    )  # fmt: skip


def work(flops: float, weights: float, activations: float, *, op_type: str = "Conv", **how: Any) -> Work:
    kind = how.pop("kind", "product")
    return Work(flops, weights, activations, frozenset({kind}), frozenset({op_type}), **how)


def of(rows: list[tuple[float, Work]], peaks: MachinePeaks = PEAKS, weight_bytes: float = 1e9) -> Roofline:
    operators = [operator(str(place), ms) for place, (ms, _) in enumerate(rows)]
    return roofline(operators, ModelWork(tuple(done for _, done in rows), weight_bytes), peaks)


# The bound of each operator


def test_an_operator_is_bound_by_what_takes_longer() -> None:
    found = of([(4.0, work(2e8, 1e6, 1e6)), (4.0, work(1e6, 1e7, 1e7))])

    computes, waits = found.operators
    assert (computes.bound, computes.best_ms, computes.reached) == ("compute", 2.0, 0.5)
    assert (waits.bound, waits.best_ms, waits.bytes) == ("memory", 2.0, 2e7)
    assert found.best_ms == 4.0
    assert found.flops == 2.01e8


def test_integers_have_a_peak_of_their_own() -> None:
    found = of([(1.0, work(2e8, 0, 0, integers=True))])

    assert (found.operators[0].arithmetic, found.operators[0].best_ms) == ("int8", 0.5)


def test_without_a_peak_for_integers_the_other_is_taken() -> None:
    found = of([(1.0, work(2e8, 0, 0, integers=True))], PEAKS.model_copy(update={"int8_gops": None}))

    assert (found.operators[0].arithmetic, found.operators[0].best_ms) == ("fp32", 2.0)
    assert found.int8.upper_bound is None
    assert found.int8.same_efficiency is None


def test_what_fits_in_the_cache_does_not_wait_for_memory() -> None:
    cached = PEAKS.model_copy(update={"cache_bytes": 4_000_000})
    rows = [(4.0, work(1e6, 1e6, 3e6)), (4.0, work(1e6, 0, 5e6, op_type="Add", kind="arithmetic"))]

    small = of(rows, cached, weight_bytes=1e6)
    assert (small.operators[0].bound, small.operators[0].best_ms, small.operators[0].cached) == ("cache", 0.01, True)
    assert (small.operators[1].bound, small.operators[1].best_ms) == ("memory", 0.5)

    large = of(rows, cached, weight_bytes=1e9)  # weights that do not fit come from memory each time
    assert (large.operators[0].bound, large.operators[0].best_ms) == ("memory", 0.1)

    known = of(rows, cached.model_copy(update={"cache_bandwidth_gbs": 100.0}), weight_bytes=1e6)
    assert known.operators[0].best_ms == pytest.approx(0.04)


def test_what_does_nothing_and_what_is_not_known_say_so() -> None:
    found = of([
        (0.1, work(0, 0, 0, op_type="Reshape", kind="view")),
        (1.0, work(0, 0, 2e6, op_type="NonMaxSuppression", kind="unknown")),
    ])  # fmt: skip

    assert (found.operators[0].bound, found.operators[0].reached) == ("none", None)
    assert (found.operators[1].bound, found.operators[1].best_ms) == ("unknown", 0.2)
    assert found.not_counted == ("NonMaxSuppression",)


# Whether fewer bits can help


def test_amdahl_by_hand() -> None:
    """10 ms: 6 in a convolution that needs 4 (1 in int8), 2 in an unknown operator, 2 in an addition bound by memory
    that needs 1 (a quarter in int8)."""
    found = of([
        (6.0, work(4e8, 0, 0)),
        (2.0, work(0, 0, 1e6, op_type="NonMaxSuppression", kind="unknown")),
        (2.0, work(1e6, 0, 1e7, op_type="Add", kind="arithmetic")),
    ])  # fmt: skip

    assert found.int8.share == 0.8
    assert found.int8.upper_bound == pytest.approx(10 / (1 + 2 + 0.25), rel=1e-3)
    assert found.int8.same_efficiency == pytest.approx(10 / (6 / 4 + 2 + 2 / 4), rel=1e-3)
    assert found.int4_weights.share == 0.0
    assert found.int4_weights.upper_bound == 1.0


def test_four_bits_help_where_weights_are_waited_for() -> None:
    """A product of one row: 5 ms of its 6 are its bytes, nearly all of them weights; a product of many rows, which
    computes for 5 of its 6 and would for 1.25 with the other operand in 8 bits."""
    found = of([
        (6.0, work(1e6, 4.8e7, 2e6, op_type="MatMul")),
        (6.0, work(5e8, 1e6, 1e6, op_type="MatMul")),
    ])  # fmt: skip

    fewer = (4.8e7 * 5 / 32 + 2e6) / 1e7
    assert found.int4_weights.share == 1.0
    assert found.int4_weights.upper_bound == pytest.approx(12 / (fewer + 1.25), rel=1e-3)
    assert found.int4_weights.same_efficiency == pytest.approx(12 / (6 * fewer / 5 + 6 / 4), rel=1e-3)


def test_where_the_cache_s_rate_is_not_known_memory_s_tells_what_to_hope_for() -> None:
    peaks = PEAKS.model_copy(update={"cache_bytes": 100_000_000})
    found = of([(6.0, work(1e6, 4.8e7, 2e6, op_type="MatMul"))], peaks, weight_bytes=4.8e7)

    fewer = (4.8e7 * 5 / 32 + 2e6) / 1e7
    assert found.operators[0].bound == "cache"
    assert found.int4_weights.same_efficiency == pytest.approx(5 / fewer, rel=1e-3)
    assert found.int4_weights.upper_bound is not None
    assert found.int4_weights.upper_bound > found.int4_weights.same_efficiency


def test_what_is_int8_already_gains_nothing() -> None:
    found = of(
        [(1.0, work(4e7, 1e6, 1e6, integers=True)), (1.0, work(0, 0, 1e6, op_type="Softplus", kind="arithmetic"))]
    )

    assert (found.int8.share, found.int8.upper_bound, found.int8.same_efficiency) == (0.0, 1.0, 1.0)


WORKS = st.builds(
    lambda flops, weights, activations, op_type, kind, reached: (flops, weights, activations, op_type, kind, reached),
    st.floats(1, 1e9), st.floats(0, 1e8), st.floats(1, 1e8), st.sampled_from(["Conv", "MatMul", "Add", "Erf"]),
    st.sampled_from(["product", "arithmetic"]), st.floats(0.05, 1.0),
)  # fmt: skip


@given(st.lists(WORKS, min_size=1, max_size=6), st.sampled_from([None, 10_000_000]))
def test_no_gain_is_less_than_none_or_more_than_its_bound(rows: list[Any], cache: int | None) -> None:
    peaks = PEAKS.model_copy(update={"cache_bytes": cache, "cache_bandwidth_gbs": 50.0 if cache else None})
    works = [work(flops, weights, moved, op_type=name, kind=kind) for flops, weights, moved, name, kind, _ in rows]
    first = of([(1.0, done) for done in works], peaks)
    timed = [(bound.best_ms / row[-1], done) for bound, row, done in zip(first.operators, rows, works, strict=True)]

    found = of(timed, peaks)

    for potential in (found.int8, found.int4_weights):
        assert potential.upper_bound is not None
        assert potential.same_efficiency is not None
        assert 1 - 1e-3 <= potential.same_efficiency <= potential.upper_bound * (1 + 1e-3)
        assert 0 <= potential.share <= 1
    total = sum(ms for ms, _ in timed)
    assert found.best_ms <= total * (1 + 1e-6) + 1e-5
    assert all(bound.reached is None or bound.reached <= 1.001 for bound in found.operators)


# The work of real models


def measured(model: ModelProto, folder: Path, **feeds: Any) -> tuple[dict[str, Work], ModelWork]:
    """The work behind each node's operator, as onnxruntime fuses them."""
    path = models.save(model, folder / "model.onnx")
    kernels = load(path).profile([feeds], 2, folder).kernels
    operators = [
        operator(kernel.name, 1.0, *kernel.nodes, op_type=kernel.op_type, kernel=kernel.kernel, calls=kernel.calls,
                 output_bytes=kernel.output_bytes)
        for kernel in kernels
    ]  # fmt: skip
    found = work_of(observe(path, feeds, folder), operators)
    by_node = {
        name: done
        for entry, done in zip(operators, found.operators, strict=True)
        for name in entry.nodes
    }  # fmt: skip
    return by_node, found


def test_shapes_are_those_of_the_run(tmp_path: Path) -> None:
    path = models.save(models.transformer(), tmp_path / "model.onnx")
    feeds = {"input_ids": np.ones((2, 5), np.int64), "attention_mask": np.ones((2, 5), np.int64)}
    hidden, pooled = load(path).run(feeds)

    found = observe(path, feeds, tmp_path)

    assert found.shapes["last_hidden_state"] == hidden.shape
    assert found.shapes["pooled"] == pooled.shape
    assert (found.shapes["input_ids"], found.dtypes["input_ids"]) == ((2, 5), "int64")
    assert all(name in found.shapes for node in all_nodes(found.model) for name in (*node.input, *node.output) if name)
    assert set(found.calls) == {node.name for node in all_nodes(found.model) if node.op_type != "Constant"}
    assert list(tmp_path.iterdir()) == [path]


def test_loops_are_counted_as_often_as_they_turn(tmp_path: Path) -> None:
    by_node, _ = measured(models.loop(), tmp_path, x=np.ones((1, 4), np.float32))

    assert by_node["body/MatMul"].flops == 3 * 2 * 4 * 4
    assert by_node["loop"].flops == 0


def test_a_fused_operator_moves_only_what_crosses_its_border(tmp_path: Path) -> None:
    """Stem: 3×3 convolution, batch norm and ReLU6 of two pictures (3, 12, 12) to 8 channels."""
    by_node, found = measured(models.conv_net(), tmp_path, image=images(2))

    stem = by_node["/stem/Conv"]
    elements = 2 * 8 * 12 * 12
    assert stem is by_node["/stem/Clip"]
    assert stem.flops == elements * (2 * 3 * 9 + 2 + 2)
    assert stem.activations == 4 * (2 * 3 * 12 * 12 + elements)
    assert stem.weights == 4 * (8 * 3 * 9 + 4 * 8 + 2)  # kernel, four vectors of the batch norm, two limits
    assert by_node["/head/Flatten"].bytes == 0
    assert found.weight_bytes > stem.weights


def test_it_grows_with_the_batch_and_weights_do_not(tmp_path: Path) -> None:
    (one, _), (four, _) = (measured(models.conv_net(), tmp_path, image=images(rows)) for rows in (1, 4))

    for name, done in one.items():
        assert four[name].flops == 4 * done.flops
        assert four[name].weights == done.weights
        assert four[name].activations == 4 * done.activations


def test_rows_of_a_table_are_read_and_not_the_table(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("Gather", ["table", "ids"], ["rows"], name="gather")],
        [models.value("ids", ["n"], TensorProto.INT64)],
        [models.value("rows", ["n", 16])],
        [models.weights("table", 1000, 16)],
    )

    by_node, found = measured(model, tmp_path, ids=np.arange(3))

    assert by_node["gather"].bytes == 3 * 8 + 2 * 3 * 16 * 4
    assert found.weight_bytes == 1000 * 16 * 4


def test_int8_weights_are_a_quarter_and_their_scales_do_not_count_as_work(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.save_model(models.conv_net())
    job.save_dataset("calibration", image=images(12))
    job.spec = {"recipe": {"technique": "static_int8", "keep_float": ["/block/Conv"]}}
    [made] = job.run_until("candidates")["candidates"]
    path = job.scratch / "candidates" / made["file"]
    kernels = load(path).profile([{"image": images(1)}], 2, tmp_path).kernels
    operators = [operator(kernel.name, 1.0, *kernel.nodes, op_type=kernel.op_type) for kernel in kernels]

    found = work_of(observe(path, {"image": images(1)}, tmp_path), operators)

    [stem] = [
        done for entry, done in zip(operators, found.operators, strict=True) if "/stem/Conv" in entry.nodes
    ]  # fmt: skip
    elements = 8 * 12 * 12
    assert stem.integers
    # Products, bias, and three operations to quantize each result; the input is dequantized with two.
    assert stem.flops == elements * (2 * 3 * 9 + 1 + 3) + 2 * (3 * 12 * 12)
    assert stem.activations == 3 * 12 * 12 + elements
    assert 8 * 3 * 9 < stem.weights < 2 * 8 * 3 * 9 + 200


def test_the_step_draws_the_roofline_of_a_machine_it_is_told(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.save_model(models.conv_net())
    request = {"model": {"path": job.model}, "seconds": 0.05}

    plain = ProfileResult.model_validate(job.run("profile", "profile-1", **request))
    found = ProfileResult.model_validate(job.run("profile", "profile-2", **request, peaks=PEAKS.model_dump()))

    assert plain.roofline is None
    assert found.roofline is not None
    assert [bound.name for bound in found.roofline.operators] == [entry.name for entry in found.operators]
    assert [bound.ms for bound in found.roofline.operators] == [entry.ms for entry in found.operators]
    assert found.roofline.peaks == PEAKS
    assert found.roofline.not_counted == ()
    assert found.roofline.int8.share > 0


def test_the_same_work_whoever_runs_it(tmp_path: Path) -> None:
    """OpenVINO fuses otherwise, but the products are the same."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed (extra `openvino`)")
    path = models.save(models.conv_net(), tmp_path / "model.onnx")
    feeds = {"image": images(1)}
    observed = observe(path, feeds, tmp_path)
    totals = []
    for runtime in ("onnxruntime", "openvino"):
        kernels = load(path, runtime=runtime).profile([feeds], 2, tmp_path).kernels
        operators = [operator(kernel.name, 1.0, *kernel.nodes, op_type=kernel.op_type) for kernel in kernels]
        totals.append(sum(done.flops for done in work_of(observed, operators).operators))

    assert totals[0] == totals[1]
