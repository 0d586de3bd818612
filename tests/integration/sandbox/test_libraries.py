"""The libraries that steps use work inside the confinement, two threads each."""

import importlib.util
from pathlib import Path

import pytest

from app.domain.target import Fingerprint
from tests.integration.sandbox.conftest import Start
from tests.integration.sandbox.trial import Trial, limits
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
