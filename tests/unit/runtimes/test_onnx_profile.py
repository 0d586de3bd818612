"""Times by operator from onnxruntime's profiler, and the file's nodes behind each operator. No times are asserted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from app.errors import StepError
from tests.parts import models
from tests.unit.steps.conftest import Job, images
from workers.formats.onnx.graph import all_nodes
from workers.quantization.preparation.naming import name_nodes
from workers.runtimes.onnx_profile import read_events
from workers.runtimes.origins import name_every_node, origins
from workers.runtimes.session import Kernel, Profile, load


def profiled(model: ModelProto, folder: Path, runs: int = 4, **feeds: Any) -> Profile:
    path = models.save(model, folder / "model.onnx", external=bool(feeds.pop("external", False)))
    return load(path).profile([feeds], runs, folder)


def by_node(profile: Profile) -> dict[str, list[Kernel]]:
    found: dict[str, list[Kernel]] = {}
    for kernel in profile.kernels:
        for name in kernel.nodes:
            found.setdefault(name, []).append(kernel)
    return found


def test_fused_operators_name_all_that_they_stand_for(tmp_path: Path) -> None:
    profile = profiled(models.conv_net(), tmp_path, image=images(2))

    found = by_node(profile)
    whole = {node.name for node in models.conv_net().graph.node}
    assert set(found) == whole
    assert all(len(kernels) == 1 for kernels in found.values())
    [stem] = found["/stem/Conv"]
    assert stem.nodes == ("/stem/Conv", "/stem/BatchNorm", "/stem/Clip")
    assert "Conv(float32, float32)" in stem.kernel
    assert stem.calls == 1
    assert found["/head/Gemm"][0].output_bytes == 2 * 10 * 4
    assert (len(stem.ms), len(profile.run_ms)) == (4, 4)


def test_the_parts_are_no_more_than_the_whole(tmp_path: Path) -> None:
    profile = profiled(models.conv_net(), tmp_path, image=images(2))

    for run, whole in enumerate(profile.run_ms):
        assert 0 < sum(kernel.ms[run] for kernel in profile.kernels) <= whole


def test_a_convolution_in_int8_and_one_in_float_are_told_apart(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.save_model(models.conv_net())
    job.save_dataset("calibration", image=images(12))
    job.spec = {"recipe": {"technique": "static_int8", "keep_float": ["/block/Conv"]}}
    [made] = job.run_until("candidates")["candidates"]
    path = job.scratch / "candidates" / made["file"]

    found = by_node(load(path).profile([{"image": images(2)}], 3, job.scratch))

    [stem], [block] = found["/stem/Conv"], found["/block/Conv"]
    assert stem.op_type == "QLinearConv"
    assert "uint8, int8" in stem.kernel or "int8, int8" in stem.kernel or "uint8, uint8" in stem.kernel
    assert block.op_type in ("Conv", "FusedConv")
    assert "float32, float32" in block.kernel
    every = {node.name for node in onnx.load(path).graph.node if node.op_type != "Constant"}
    assert set(found) == every, "each node of the artifact is behind some operator"
    quantizer = next(name for name in every if name.startswith("act") and name.endswith("_quantized"))
    assert quantizer in stem.nodes, "what quantizes a result belongs to the operator that made it"


def test_an_artifact_s_nodes_are_the_original_s_where_it_has_no_names(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.save_model(models.mlp(named=False))
    job.save_dataset("calibration", x=np.random.default_rng(0).standard_normal((12, 32)).astype(np.float32))
    job.spec = {"recipe": {"technique": "static_int8"}}
    [made] = job.run_until("candidates")["candidates"]
    feeds = [{"x": np.ones((2, 32), np.float32)}]

    original = by_node(load(job.scratch / job.model).profile(feeds, 2, tmp_path))
    artifact = by_node(load(job.scratch / "candidates" / made["file"]).profile(feeds, 2, tmp_path))

    products = [name for name in original if name.startswith(("MatMul", "Gemm"))]
    assert len(products) == 2
    assert set(products) <= set(artifact)


def test_bodies_count_once(tmp_path: Path) -> None:
    profile = profiled(models.loop(), tmp_path, x=np.ones((1, 4), np.float32))

    found = by_node(profile)
    assert found["body/MatMul"][0].calls == 3
    [loop] = found["loop"]
    assert loop.calls == 1
    for run, whole in enumerate(profile.run_ms):
        assert sum(kernel.ms[run] for kernel in profile.kernels) <= whole


def test_only_the_branch_that_ran_is_there(tmp_path: Path) -> None:
    found = by_node(profiled(models.branches(), tmp_path, x=np.ones((1, 16), np.float32)))

    assert "then/MatMul" in found
    assert "else/MatMul" not in found
    assert found["choice"][0].op_type == "If"


@pytest.mark.parametrize("external", [False, True])
def test_nodes_without_names_go_by_type_and_place(external: bool, tmp_path: Path) -> None:
    profile = profiled(models.mlp(named=False), tmp_path, x=np.ones((2, 32), np.float32), external=external)

    nodes = models.mlp(named=False).graph.node
    assert set(by_node(profile)) == {f"{node.op_type}_{place}" for place, node in enumerate(nodes)}
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["model.onnx", "weights.bin"] if external else ["model.onnx"]
    )


@pytest.mark.parametrize(
    "make", [lambda: models.mlp(named=False), lambda: models.mlp(named=False, constants=True), models.branches]
)
def test_they_are_named_as_preparation_names_them(make: Callable[[], ModelProto]) -> None:
    """Or an artifact's nodes could not be told to be the original's."""
    ours, theirs = make(), make()
    for model in (ours, theirs):
        model.graph.node[-1].name = model.graph.node[0].name = "twice"
        model.graph.node[1].name = "twice_0"
    name_every_node(ours)
    name_nodes(theirs)

    assert [node.name for node in all_nodes(ours)] == [node.name for node in all_nodes(theirs)]


def test_a_model_as_it_is_written_runs_as_it_is_written(tmp_path: Path) -> None:
    path = models.save(models.conv_net(), tmp_path / "model.onnx")

    kernels = load(path, optimization="none").profile([{"image": images(1)}], 2, tmp_path).kernels

    assert [kernel.op_type for kernel in kernels] == [node.op_type for node in models.conv_net().graph.node]
    assert all(kernel.nodes == (kernel.name,) for kernel in kernels)


def test_sums_that_convolutions_do_along_the_way_are_theirs() -> None:
    """onnxruntime's convolution in blocks adds the other operand; the addition's name is then nowhere."""
    original = models.model(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
            helper.make_node("Conv", ["a", "w"], ["b"], name="second"),
            helper.make_node("Add", ["a", "b"], ["sum"], name="add"),
            helper.make_node("Conv", ["sum", "w"], ["y"], name="third"),
        ],
        [models.value("x", [1, 8, 4, 4])],
        [models.value("y", [1, 8, 4, 4])],
        [models.weights("w", 8, 8, 1, 1)],
    )
    blocked = "com.microsoft.nchwc"
    rewritten = models.model(
        [
            helper.make_node("ReorderInput", ["x"], ["t0"], name="ReorderInput", domain=blocked),
            helper.make_node("Conv", ["t0", "r0"], ["t1"], name="a_nchwc", domain=blocked),
            helper.make_node("Conv", ["t1", "r0", "", "t1"], ["t2"], name="b_nchwc", domain=blocked),
            helper.make_node("Conv", ["t2", "r0"], ["t3"], name="y_nchwc", domain=blocked),
            helper.make_node("ReorderOutput", ["t3"], ["y"], name="ReorderOutput", domain=blocked),
        ],
        [models.value("x", [1, 8, 4, 4])],
        [models.value("y", [1, 8, 4, 4])],
    )

    found = origins(original, rewritten)

    assert found == {"a_nchwc": ("first",), "b_nchwc": ("second", "add"), "y_nchwc": ("third",)}


def event(name: str, op_type: str, ts: int, dur: int, **arguments: Any) -> dict[str, Any]:
    args = {"op_name": op_type, "provider": "CPUExecutionProvider", "node_index": "0", "output_size": "16", **arguments}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def ended(ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


def test_times_are_those_of_the_counted_inferences_less_their_bodies() -> None:
    """By hand: two inferences of warm-up, then two in which a Loop of 50 µs runs its body twice."""
    model = models.loop()
    events: list[dict[str, Any]] = []
    for start, body in ((0, 400), (1000, 300), (2000, 10), (3000, 20)):
        events += [
            event("before", "Relu", start, 0),
            event("body/MatMul", "MatMul", start, body),
            event("body/MatMul", "MatMul", start + body, body + 4),
            event("loop", "Loop", start, 2 * body + 24),
            ended(start, 2 * body + 40),
        ]

    profile = read_events(events, model, model)

    times = {kernel.name: (kernel.calls, kernel.ms) for kernel in profile.kernels}
    assert profile.run_ms == (0.06, 0.08)
    assert times["body/MatMul"] == (2, pytest.approx((0.024, 0.044)))
    assert times["loop"] == (1, pytest.approx((0.020, 0.020)))
    assert times["before"] == (1, (0, 0))


def test_an_operator_that_is_not_always_there_took_no_time_then() -> None:
    events = [ended(0, 1), ended(1, 1), event("a", "Relu", 2, 8), ended(2, 9), ended(20, 3)]

    [kernel] = read_events(events, models.mlp(), models.mlp()).kernels

    assert (kernel.calls, kernel.ms) == (0.5, (0.008, 0.0))


def test_a_profile_without_a_whole_inference_is_none() -> None:
    with pytest.raises(StepError) as raised:
        read_events([ended(0, 1), ended(1, 1), event("a", "Relu", 2, 8)], models.mlp(), models.mlp())

    assert raised.value.code == "profile_unavailable"


def test_what_fails_to_run_fails_to_be_profiled(tmp_path: Path) -> None:
    path = models.save(models.transformer(words=10), tmp_path / "model.onnx")

    with pytest.raises(StepError) as raised:
        load(path).profile(
            [{"input_ids": np.full((1, 3), 10), "attention_mask": np.ones((1, 3), np.int64)}], 2, tmp_path
        )

    assert raised.value.code == "model_does_not_run"
    assert list(tmp_path.iterdir()) == [path], "nothing is left behind"


@pytest.mark.parametrize("make", [models.transformer, models.mlp, models.resize_net, models.two_heads])
def test_every_node_is_behind_just_one_operator(make: Any, tmp_path: Path) -> None:
    session = load(models.save(make(), tmp_path / "model.onnx"))
    feeds = {
        port.name: np.ones([size if isinstance(size, int) else 2 for size in port.shape], port.dtype)
        for port in session.inputs
    }

    found = by_node(session.profile([feeds], 2, tmp_path))

    assert set(found) == {node.name for node in all_nodes(make()) if node.op_type != "Constant"}
    assert all(len(kernels) == 1 for kernels in found.values())
