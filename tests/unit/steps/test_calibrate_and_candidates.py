"""From ranges to an artifact that was loaded again and compared with its original."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.parts import models
from tests.unit.steps.conftest import Job, StepFailed, images, vectors
from workers.quantization.calibration.statistics import Statistics
from workers.quantization.emulation.probe import arithmetic_here
from workers.quantization.technique import Context, Produced
from workers.quantization.techniques import dynamic_int8
from workers.runtimes.session import load

STATIC = {"technique": "static_int8"}


@pytest.fixture
def conv_job(job: Job) -> Job:
    """A convolutional net with calibration rows and labelled evaluation rows."""
    job.save_model(models.conv_net())
    job.save_dataset("calibration", image=images(12, seed=1))
    job.save_dataset("evaluation", image=images(20, seed=2), labels=np.arange(20) % 10)
    job.spec = {"recipe": STATIC}
    return job


def measured(candidate: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry for entry in candidate["measurements"]}


@pytest.mark.parametrize("technique", ["dynamic_int8", "float16"])
def test_nothing_is_calibrated_where_nothing_needs_it(job: Job, technique: str) -> None:
    job.save_model(models.mlp())
    job.spec = {"recipe": {"technique": technique}}

    assert job.run("calibrate")["tensors"] == 0


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_ranges_are_found_from_as_many_rows_as_asked_for(conv_job: Job, method: str) -> None:
    conv_job.spec = {"recipe": {**STATIC, "calibration": {"method": method, "samples": 5}}}

    result = conv_job.run("calibrate")

    assert result["samples"] == 5
    seen_by_step = Statistics.read(conv_job.scratch / "calibrate" / result["file"])
    assert len(seen_by_step.tensors) == result["tensors"] > 3
    seen = images(12, seed=1)[:5]
    if method == "minmax":
        assert (seen_by_step.tensors["image"].low, seen_by_step.tensors["image"].high) == (
            float(seen.min()),
            float(seen.max()),
        )
    assert sorted(path.name for path in (conv_job.scratch / "calibrate").iterdir()) == [
        "request.json", "result.json", "statistics.npz",
    ]  # fmt: skip


def test_fewer_rows_than_asked_for_are_noted(conv_job: Job) -> None:
    result = conv_job.run("calibrate")

    assert result["samples"] == 12
    assert any("12 rows, fewer than the 200" in note for note in result["notes"])


def test_static_needs_calibration_rows(job: Job) -> None:
    job.save_model(models.mlp())
    job.spec = {"recipe": STATIC}

    with pytest.raises(StepFailed) as raised:
        job.run("calibrate")

    assert raised.value.code == "calibration_missing"


def test_keep_float_is_checked_before_the_model_is_run(conv_job: Job) -> None:
    conv_job.spec = {"recipe": {**STATIC, "keep_float": ["/head/Gem"]}}

    with pytest.raises(StepFailed) as raised:
        conv_job.run("calibrate")

    assert raised.value.code == "keep_float_matches_nothing"
    assert "/head/Gemm" in raised.value.detail


def test_an_artifact_is_described_and_compared(conv_job: Job) -> None:
    (candidate,) = conv_job.run_until("candidates")["candidates"]

    path = conv_job.scratch / "candidates" / candidate["file"]
    assert candidate["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert candidate["bytes"] == path.stat().st_size == measured(candidate)["artifact_bytes"]["value"]
    assert candidate["id"].startswith("cnd_")
    assert len(candidate["id"]) == 30
    # The fingerprint has AVX2 without VNNI.
    assert candidate["recipe"]["reduce_range"] == "by_layer"
    assert set(measured(candidate)) == {"artifact_bytes", "top1", "agreement", "sqnr_db", "cosine"}
    assert measured(candidate)["sqnr_db"]["value"] > 25
    with np.load(conv_job.scratch / "candidates" / candidate["outputs"]) as kept:
        expected = load(path).run({"image": images(20, seed=2)})[0]
        np.testing.assert_allclose(kept["logits"], expected, rtol=1e-5, atol=1e-6)


def test_it_is_told_how_an_artifact_does_on_other_processors(conv_job: Job) -> None:
    """Of the two processors that are emulated this machine is one, so that side can be measured."""
    full_range = {**STATIC, "reduce_range": False, "recovery": [], "calibration": {"method": "minmax"}}
    conv_job.spec = {"recipe": full_range}
    (candidate,) = conv_job.run_until("candidates")["candidates"]
    told = candidate["numerics"]["outputs"][0]
    artifact = load(conv_job.scratch / "candidates" / candidate["file"])
    original = load(conv_job.scratch / conv_job.model)
    rows = [{"image": image[np.newaxis]} for image in images(20, seed=2)[: candidate["numerics"]["rows"]]]
    wanted, got = (np.stack([session.run(row)[0] for row in rows]).astype(float) for session in (original, artifact))
    measured_db = 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum())
    assert told[f"{arithmetic_here()}_sqnr_db"] == pytest.approx(measured_db, abs=0.01)
    assert any("VNNI" in note for note in candidate["notes"])


def test_seven_bits_give_the_same_on_every_processor(conv_job: Job) -> None:
    conv_job.spec = {"recipe": {**STATIC, "reduce_range": True, "recovery": []}}
    (candidate,) = conv_job.run_until("candidates")["candidates"]
    told = candidate["numerics"]["outputs"][0]
    assert told["exact_sqnr_db"] == told["saturating_sqnr_db"]
    assert candidate["numerics"]["layers"] == []
    assert any("nothing saturates" in note for note in candidate["notes"])


def test_sensitivities_are_rows_of_the_candidate(conv_job: Job) -> None:
    conv_job.spec = {"recipe": {**STATIC, "sensitivity": True}}

    (candidate,) = conv_job.run_until("candidates")["candidates"]

    found = candidate["sensitivity"]
    assert {layer["node"] for layer in found["layers"]} >= {"/stem/Conv", "/block/Conv", "/head/Gemm"}
    assert {"sqnr_db", "kl", "agreement"} == set(found["tensors"][0]["alone"])


def test_taking_over_uses_the_ranges_and_makes_the_same_artifact(conv_job: Job) -> None:
    (first,) = conv_job.run_until("candidates")["candidates"]
    shutil.rmtree(conv_job.scratch / "candidates")

    (second,) = conv_job.run("candidates")["candidates"]

    assert (first["id"], first["sha256"]) == (second["id"], second["sha256"])


def test_another_recipe_is_another_candidate(conv_job: Job) -> None:
    first = conv_job.run_until("candidates")["candidates"][0]["id"]
    conv_job.spec = {"recipe": {**STATIC, "per_channel": False}}

    assert conv_job.run("candidates", "candidates-2")["candidates"][0]["id"] != first


def test_the_parent_may_name_the_candidate(conv_job: Job) -> None:
    conv_job.run_until("calibrate")

    (candidate,) = conv_job.run("candidates", candidate="cnd_" + "z" * 26)["candidates"]

    assert candidate["id"] == "cnd_" + "z" * 26


def test_what_onnxruntime_cannot_load_is_told_with_its_node(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model_path: Path, out_path: Path, options: Any, context: Context) -> Produced:
        model = onnx.load(model_path)
        # onnx's checker knows no kernels: there is none for a Gemm of strings or of 16-bit integers.
        for entry in (*model.graph.input, *model.graph.output):
            entry.type.tensor_type.elem_type = onnx.TensorProto.INT16
        del model.graph.initializer[:]
        for name, shape in (("w", (16, 8)), ("b", (8,))):
            model.graph.initializer.append(models.tensor(name, np.zeros(shape), np.int16))
        onnx.save(model, out_path)
        return Produced(out_path)

    monkeypatch.setattr(dynamic_int8, "quantize", broken)
    job.save_model(models.gemm())
    job.run("baseline")

    with pytest.raises(StepFailed) as raised:
        job.run("candidates")

    assert raised.value.code == "artifact_does_not_load"
    assert "fc" in raised.value.detail
    assert str(job.scratch) not in raised.value.detail


def test_what_breaks_the_standard_is_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model_path: Path, out_path: Path, options: Any, context: Context) -> Produced:
        model = onnx.load(model_path)
        # onnxruntime sees nothing wrong with two values of one key.
        for value in ("1", "2"):
            model.metadata_props.add(key="twice", value=value)
        onnx.save(model, out_path)
        return Produced(out_path)

    monkeypatch.setattr(dynamic_int8, "quantize", broken)
    job.save_model(models.gemm())
    job.run("baseline")

    with pytest.raises(StepFailed) as raised:
        job.run("candidates")

    assert raised.value.code == "artifact_does_not_load"
    assert "metadata_props" in raised.value.detail


def test_what_cannot_be_run_is_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model_path: Path, out_path: Path, options: Any, context: Context) -> Produced:
        onnx.save(models.transformer(words=2), out_path)
        return Produced(out_path)

    monkeypatch.setattr(dynamic_int8, "quantize", broken)
    job.save_model(models.transformer())
    job.save_dataset("evaluation", input_ids=np.full((3, 4), 30), attention_mask=np.ones((3, 4), np.int64))
    job.run("baseline")

    with pytest.raises(StepFailed) as raised:
        job.run("candidates")

    assert raised.value.code == "artifact_does_not_load"
    assert "/embed/Gather" in raised.value.detail


def test_required_options_are_used_and_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.steps import candidates

    used = []
    quantize = dynamic_int8.quantize

    def with_options(model_path: Path, out_path: Path, options: Any, context: Context) -> Produced:
        made = quantize(model_path, out_path, options, context)
        return Produced(made.file, session_options={"session.x64quantprecision": "1"})

    def watched(path: Path, **given: Any) -> Any:
        used.append(given.get("session_options"))
        return load(path, **given)

    monkeypatch.setattr(dynamic_int8, "quantize", with_options)
    monkeypatch.setattr(candidates, "load", watched)
    job.save_model(models.mlp())
    job.run("baseline")

    (candidate,) = job.run("candidates")["candidates"]

    assert candidate["session_options"] == {"session.x64quantprecision": "1"}
    # As anyone would load it, then as it must be loaded.
    assert used == [None, {"session.x64quantprecision": "1"}]


def test_values_that_are_no_numbers_are_flagged(job: Job) -> None:
    job.save_model(models.gemm())
    # Half precision ends at 65,504.
    job.save_dataset("evaluation", x=np.full((4, 16), 1e5, np.float32))
    job.spec = {"recipe": {"technique": "float16", "keep_io_types": False}}

    (candidate,) = job.run_until("candidates")["candidates"]

    assert candidate["unusual"] == {"y": 4}
    assert "Output y of the artifact is infinite or not a number in 4 of 4 rows." in candidate["notes"]
    sqnr = measured(candidate)["sqnr_db"]
    assert sqnr["method"] == "absent"
    assert "non_finite" in sqnr["flags"]


def test_measurements_on_random_rows_say_so(job: Job) -> None:
    job.save_model(models.mlp())

    (candidate,) = job.run_until("candidates")["candidates"]

    assert measured(candidate)["sqnr_db"]["flags"] == ["synthetic"]
    assert measured(candidate)["sqnr_db"]["count"] == 32


@pytest.mark.parametrize("technique", ["dynamic_int8", "static_int8", "static_int16", "float16"])
def test_a_file_set_goes_through_every_step(job: Job, technique: str) -> None:
    job.save_file_set(models.mlp())
    job.save_dataset("calibration", x=vectors(8))
    job.spec = {"recipe": {"technique": technique}}

    (candidate,) = job.run_until("candidates")["candidates"]

    assert candidate["files"][0]["name"] == "model.onnx"
    assert candidate["bytes"] == sum(file["bytes"] for file in candidate["files"])


def test_a_mixed_recipe_goes_through_every_step(conv_job: Job) -> None:
    products = {"nodes": [{"op_type": "Gemm"}], "recipe": {"technique": "weight_only", "block_size": 16}}
    conv_job.spec = {"recipe": {"technique": "mixed", "parts": [products], "rest": STATIC}}

    results = conv_job.run("calibrate")
    (candidate,) = conv_job.run_until("candidates")["candidates"]

    assert results["tensors"] > 2
    made = {node.op_type for node in onnx.load(conv_job.scratch / "candidates" / candidate["file"]).graph.node}
    assert {"QuantizeLinear", "MatMulNBits"} <= made
    # The fingerprint has AVX2 without VNNI.
    assert candidate["recipe"]["rest"]["reduce_range"] == "by_layer"
    assert measured(candidate)["sqnr_db"]["value"] > 15


def test_a_mixed_recipe_without_static_parts_needs_no_calibration(job: Job) -> None:
    job.save_model(models.mlp())
    job.spec = {"recipe": {"technique": "mixed", "rest": {"technique": "bfloat16"}}}

    assert job.run("calibrate")["tensors"] == 0


def test_inputs_in_half_precision_are_fed(job: Job) -> None:
    job.save_model(models.mlp())
    job.save_dataset("evaluation", x=vectors(8))
    job.spec = {"recipe": {"technique": "float16", "keep_io_types": False}}

    (candidate,) = job.run_until("candidates")["candidates"]

    assert measured(candidate)["sqnr_db"]["value"] > 50


def test_an_original_that_breaks_the_standard_is_no_fault_of_the_artifact(job: Job) -> None:
    model = models.mlp()
    model.graph.name = ""
    job.save_model(model)
    job.run("baseline")

    (candidate,) = job.run("candidates")["candidates"]

    assert any("Neither the original nor the artifact" in note for note in candidate["notes"])
    assert candidate["rows"] == 32
