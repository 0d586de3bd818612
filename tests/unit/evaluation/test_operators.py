"""Profiles as figures, one model's beside another's, and the step that makes one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parts import models
from tests.unit.steps.conftest import Job, StepFailed, images
from workers.evaluation.operators import MOST_OPERATORS, OperatorTime, profile_operators, side_by_side, summarized
from workers.runtimes.session import Kernel, Profile, load
from workers.steps.profile import ProfileResult


def kernel(name: str, *ms: float, nodes: tuple[str, ...] = (), op_type: str = "Conv") -> Kernel:
    return Kernel(name, op_type, f"{op_type}(float32)", "CPUExecutionProvider", 1.0, ms, 16, nodes)


def operator(name: str, ms: float, *nodes: str) -> OperatorTime:
    return OperatorTime(
        name=name, op_type="Conv", kernel=f"kernel of {name}", provider="", calls=1, ms=ms, share=0.1,
        output_bytes=None, nodes=nodes,
    )  # fmt: skip


def test_each_operator_is_its_median_run_and_shares_add_up() -> None:
    profile = Profile((kernel("a", 1.0, 9.0, 2.0), kernel("b", 6.0, 6.0, 5.0)), (9.0, 16.0, 8.0), 0.001)

    found = summarized(profile, 10.0, {"runtime": "onnxruntime"})

    assert [(entry.ms, entry.share) for entry in found.operators] == [(2.0, 0.25), (6.0, 0.75)]
    assert (found.operators_ms, found.profiled_ms, found.unprofiled_ms, found.runs) == (8.0, 9.0, 10.0, 3)
    assert found.unaccounted == pytest.approx(0.2)
    assert found.conditions == {"runtime": "onnxruntime"}


def test_what_the_profiler_adds_shows_as_less_than_nothing() -> None:
    found = summarized(Profile((kernel("a", 3.0),), (4.0,), 0.001), 2.0, {})

    assert found.unaccounted == pytest.approx(-0.5)


def test_a_profile_of_nothing_has_no_shares() -> None:
    found = summarized(Profile((kernel("a", 0.0),), (0.1,), 0.001), 0.1, {})

    assert (found.operators[0].share, found.unaccounted) == (0.0, 1.0)


def test_the_slowest_are_kept_in_their_order() -> None:
    many = tuple(kernel(str(index), index % 7 + (index == 3)) for index in range(MOST_OPERATORS + 10))

    found = summarized(Profile(many, (1.0,), 0.001), 1.0, {})

    assert (len(found.operators), found.left_out) == (MOST_OPERATORS, 10)
    places = [int(entry.name) for entry in found.operators]
    assert places == sorted(places)
    assert min(entry.ms for entry in found.operators) == 0
    assert found.operators_ms == pytest.approx(sum(entry.ms[0] for entry in many), abs=1e-5)


def test_the_same_nodes_stand_side_by_side() -> None:
    before = [operator("conv", 4.0, "conv", "relu"), operator("add", 1.0, "add"), operator("reorder", 0.5)]
    after = [
        operator("quantize", 0.25, "x_quantized"),
        operator("qconv", 1.0, "conv", "x_dequantized", "y_quantized"),
        operator("relu", 0.125, "relu"),
        operator("add", 2.0, "add", "y_dequantized"),
    ]

    found = [(row.nodes, row.original_ms, row.artifact_ms) for row in side_by_side(before, after)]

    assert found == [
        (("conv", "relu"), 4.0, 1.125),
        (("add",), 1.0, 2.0),
        ((), 0.5, None),
        (("x_quantized",), None, 0.25),
    ]


def test_nodes_that_are_fused_in_either_stand_together() -> None:
    before = [operator("one", 1.0, "a", "b"), operator("two", 2.0, "c"), operator("three", 4.0, "d")]
    after = [operator("1", 0.5, "a"), operator("2", 0.25, "b", "c"), operator("3", 0.125, "d")]

    rows = side_by_side(before, after)

    assert [(row.nodes, row.original_ms, row.artifact_ms) for row in rows] == [
        (("a", "b", "c"), 3.0, 0.75),
        (("d",), 4.0, 0.125),
    ]
    assert rows[0].artifact_kernels == ("kernel of 1", "kernel of 2")


def test_what_two_operators_of_the_artifact_share_does_not_join_them() -> None:
    """A value that is dequantized for two readers is in both, and is no node of the original."""
    before = [operator("a", 1.0, "a"), operator("b", 2.0, "b")]
    after = [operator("qa", 3.0, "a", "v_dequantized"), operator("qb", 4.0, "b", "v_dequantized")]

    assert [row.artifact_ms for row in side_by_side(before, after)] == [3.0, 4.0]


def test_no_time_is_lost_or_counted_twice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        names = [f"n{index}" for index in range(12)]
        sides = []
        for _side in range(2):
            cuts = sorted(rng.choice(np.arange(1, 12), size=rng.integers(1, 8), replace=False).tolist())
            parts = [names[low:high] for low, high in zip([0, *cuts], [*cuts, 12], strict=True)]
            sides.append([operator(str(place), float(rng.integers(1, 9)), *part) for place, part in enumerate(parts)])

        rows = side_by_side(*sides)

        for side, figure in zip(sides, ("original_ms", "artifact_ms"), strict=True):
            assert sum(getattr(row, figure) for row in rows) == sum(entry.ms for entry in side)
        assert sorted(name for row in rows for name in row.nodes) == sorted(names)


def test_a_model_is_profiled_and_timed_without_the_profiler(tmp_path: Path) -> None:
    session = load(models.save(models.conv_net(), tmp_path / "model.onnx"))

    found = profile_operators(session, [{"image": images(2)}, {"image": images(2, 1)}], seconds=0.05, scratch=tmp_path)

    assert found.runs >= 10
    assert found.unprofiled_ms > 0
    assert found.operators_ms == pytest.approx(sum(entry.ms for entry in found.operators), abs=1e-5)
    assert sum(entry.share for entry in found.operators) == pytest.approx(1, abs=1e-4)
    assert found.conditions["threads"] == 1


def made(job: Job, **changes: Any) -> ProfileResult:
    request = {"model": {"path": job.model, "session_options": {}}, "seconds": 0.05}
    return ProfileResult.model_validate(job.run("profile", "profile", **{**request, **changes}))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = Job(tmp_path)
    job.save_model(models.conv_net())
    return job


def test_the_step_profiles_with_the_job_s_rows(job: Job) -> None:
    job.save_dataset("calibration", image=images(6))
    job.spec = {"measure": {"threads": [2], "batch": [3]}}

    found = made(job, subject="cnd_a")

    assert (found.subject, found.batch, found.rows) == ("cnd_a", 3, 6)
    assert found.conditions["threads"] == 2
    assert {"/stem/Conv", "/head/Gemm"} <= {name for entry in found.operators for name in entry.nodes}
    assert sorted(path.name for path in (job.scratch / "profile").iterdir()) == ["request.json", "result.json"]


def test_the_step_makes_rows_where_there_are_none(job: Job) -> None:
    assert made(job).rows == 8


def test_the_step_asks_the_runtime_that_it_is_told(job: Job) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed (extra `openvino`)")

    assert made(job, runtime="openvino").conditions["runtime"] == "openvino"


def test_a_runtime_that_does_not_take_the_file_is_a_coded_error(job: Job) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (extra `tflite`)")

    with pytest.raises(StepFailed) as raised:
        made(job, runtime="litert")

    assert raised.value.code == "runtime_not_for_format"


def test_the_step_imports_no_more_than_it_profiles_with() -> None:
    program = (
        "import sys, workers.steps.profile\n"
        "heavy = {'onnx', 'scipy', 'torch', 'pyarrow', 'PIL', 'openvino', 'ai_edge_litert', 'workers.quantization'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"
