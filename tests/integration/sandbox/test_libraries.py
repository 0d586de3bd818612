"""The libraries that steps use work inside the confinement, two threads each."""

import importlib.util
from pathlib import Path

import pytest

from app.domain.target import Fingerprint
from tests.integration.sandbox.conftest import Start
from tests.integration.sandbox.trial import Trial, limits
from tests.parts import models
from workers.hardware.probe import probe
from workers.sandbox.limits import GiB

# Another user may need another interpreter.
DIFFERS = ("peaks", "providers", "installed", "versions")


@pytest.mark.parametrize("user", ["own user", "another user"])
def test_the_base_worker_s_libraries(start: Start, user: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    options = {} if user == "own user" else request.getfixturevalue("as_another_user")
    with start(**options, target="libraries:serve", limits=limits(memory_bytes=4 * GiB)) as child:
        trial = Trial(child)
        assert trial.expect("numpy") == 600
        threads = trial.expect("onnxruntime")
        assert threads["2"] >= 2
        assert trial.expect("quantizer") > 100_000
        assert trial.expect("pyarrow") == 10_000
        assert trial.expect("pillow") == [32, 24]
        assert trial.expect("readings") == ["busy", "stolen", "waited", "running"]
    log = (tmp_path / "log").read_text()
    assert "Permission" not in log, log
    assert "Operation not permitted" not in log, log


@pytest.mark.parametrize("user", ["own user", "another user"])
def test_a_machine_is_described_and_measured(start: Start, user: str, request: pytest.FixtureRequest) -> None:
    """As from outside, where everything can be read."""
    options = {} if user == "own user" else request.getfixturevalue("as_another_user")
    with start(**options, target="libraries:serve", limits=limits(memory_bytes=4 * GiB)) as child:
        found = Fingerprint.model_validate(Trial(child).expect("machine"))
    assert found.peaks is not None
    assert {peak.resource for peak in found.peaks.measured} >= {"fp32", "int8"}
    assert found.providers is not None
    assert any(provider.loads for provider in found.providers)
    outside = probe()
    described = {name: getattr(found, name) for name in Fingerprint.model_fields if name not in DIFFERS}
    assert described == {name: getattr(outside, name) for name in described}


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed (extra `train`)")
def test_torch(start: Start) -> None:
    with start(target="libraries:serve", limits=limits(memory_bytes=4 * GiB)) as child:
        found = Trial(child).expect("torch")
    assert found["set"] == 2
    assert found["threads"] >= 2


@pytest.mark.parametrize("user", ["own user", "another user"])
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed (extra `openvino`)")
def test_openvino(start: Start, scratch: Path, user: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    options = {} if user == "own user" else request.getfixturevalue("as_another_user")
    models.save(models.conv_net(), scratch / "model.onnx")
    with start(**options, target="libraries:serve", limits=limits(memory_bytes=4 * GiB)) as child:
        found = Trial(child).expect("openvino", model="model.onnx", scratch=str(scratch))
    assert found["shapes"] == [[3, 10]]
    assert found["conditions"]["threads"] >= 1
    assert found["left"] == [], "no cache is left behind"
    assert "Operation not permitted" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("user", ["own user", "another user"])
@pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="LiteRT is not installed (extra `tflite`)"
)
def test_litert(start: Start, scratch: Path, user: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from tests.parts import tflite_models

    options = {} if user == "own user" else request.getfixturevalue("as_another_user")
    tflite_models.save(tflite_models.dense(), scratch / "model.tflite")
    with start(**options, target="libraries:serve", limits=limits(memory_bytes=4 * GiB)) as child:
        found = Trial(child).expect("litert", model="model.tflite", scratch=str(scratch))
    assert found["shapes"] == [[3, 3]]
    assert found["conditions"]["delegate"] == "XNNPACK"
    assert "Operation not permitted" not in (tmp_path / "log").read_text()


TRUST = {"BITPRESS_TRUST_TORCH_FILES": "1"}
WITH_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed (extra `train`)"
)


@WITH_TORCH
@pytest.mark.parametrize("form", ["exported", "scripted", "traced"])
def test_files_of_torch(start: Start, scratch: Path, form: str, tmp_path: Path) -> None:
    from tests.parts import torch_models

    torch_models.save(getattr(torch_models, form)(torch_models.Dense()), scratch / "model.pt2")
    with start(target="libraries:serve", limits=limits(memory_bytes=4 * GiB, seconds=60.0), environment=TRUST) as child:
        found = Trial(child).expect("torch_program", model="model.pt2", scratch=str(scratch))
    assert found["shapes"] == [[3, 3]]
    assert found["conditions"]["threads"] == 2
    assert "aten::linear" in found["operators"]
    left = [name for name in found["left"] if not name.startswith("torchinductor_")]  # an empty cache, made at import
    assert left == [], "nothing is left behind"
    assert "Operation not permitted" not in (tmp_path / "log").read_text()


@WITH_TORCH
@pytest.mark.parametrize("as_loaded", [False, True])
def test_a_file_of_torch_reads_no_file_of_the_machine(
    start: Start, scratch: Path, as_loaded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.parts import torch_models

    (outside := tmp_path / "outside").write_bytes(bytes(range(64)))
    torch_models.save(torch_models.reading_script(str(outside), as_loaded=as_loaded), scratch / "model.pt")
    with start(target="libraries:serve", limits=limits(memory_bytes=4 * GiB, seconds=60.0), environment=TRUST) as child:
        found = Trial(child).attempt("torch_program", model="model.pt", scratch=str(scratch))
    assert found["refused"] == "StepError"
    assert "Permission denied" in found["because"]

    monkeypatch.setenv(*next(iter(TRUST.items())))
    assert unconfined(scratch / "model.pt") == sum(range(16)) * (not as_loaded), "here it can"


@WITH_TORCH
def test_a_file_of_torch_writes_no_file_of_the_machine(
    start: Start, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.parts import torch_models

    outside = tmp_path / "outside"
    torch_models.save(torch_models.writing_script(str(outside)), scratch / "model.pt")
    with start(target="libraries:serve", limits=limits(memory_bytes=4 * GiB, seconds=60.0), environment=TRUST) as child:
        # torch does not say that it could not.
        Trial(child).attempt("torch_program", model="model.pt", scratch=str(scratch))
    assert not outside.exists()

    monkeypatch.setenv(*next(iter(TRUST.items())))
    unconfined(scratch / "model.pt")
    assert outside.exists(), "here it can"


def unconfined(model: Path) -> float:
    """What a model makes of zeros in this process."""
    import numpy as np

    from workers.runtimes.session import load

    return float(load(model, runtime="torch").run({"x": np.zeros((1, 4), np.float32)})[0].max())


@WITH_TORCH
@pytest.mark.parametrize("form", ["exported", "scripted"])
def test_untrusted_files_of_torch_are_not_loaded(start: Start, scratch: Path, form: str) -> None:
    from tests.parts import torch_models

    torch_models.save(getattr(torch_models, form)(torch_models.Dense()), scratch / "model.pt")
    with start(target="libraries:serve", limits=limits(memory_bytes=4 * GiB, seconds=60.0)) as child:
        found = Trial(child).attempt("torch_program", model="model.pt", scratch=str(scratch))
    assert found["refused"] == "RejectedInput"
    assert "BITPRESS_TRUST_TORCH_FILES" in found["because"]
