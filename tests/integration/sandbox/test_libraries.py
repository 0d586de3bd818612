"""The libraries that steps use work inside the confinement, two threads each."""

import importlib.util
from pathlib import Path

import pytest

from tests.integration.sandbox.conftest import Start
from tests.integration.sandbox.trial import Trial, limits
from workers.sandbox.limits import GiB


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
    log = (tmp_path / "log").read_text()
    assert "Permission" not in log, log
    assert "Operation not permitted" not in log, log


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed (extra `train`)")
def test_torch(start: Start) -> None:
    with start(target="libraries:serve", limits=limits(memory_bytes=4 * GiB)) as child:
        found = Trial(child).expect("torch")
    assert found["set"] == 2
    assert found["threads"] >= 2
