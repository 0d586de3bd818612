"""The rooms' walls: what importing one part may load."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "scipy", "pyarrow", "PIL")


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(found.stdout.split())


def test_the_server_loads_no_numerics_and_no_worker() -> None:
    loaded = loaded_by("import app.main; app.main.create_app()")
    assert "fastapi" in loaded
    assert loaded.isdisjoint({*HEAVY, "workers"})


def test_the_worker_s_parent_side_loads_no_numerics() -> None:
    loaded = loaded_by("import workers.celery_app")
    assert "celery" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("step", ["measure_latency", "measure_load"])
def test_a_measuring_child_loads_no_model_library(step: str) -> None:
    loaded = loaded_by(f"import workers.steps.program, workers.steps.{step}")
    assert loaded.isdisjoint({"torch", "onnx", "sqlalchemy", "celery", "fastapi"})


def test_the_client_stands_alone() -> None:
    loaded = loaded_by("import bitpress.client")
    assert "httpx" in loaded
    assert loaded.isdisjoint({*HEAVY, "app", "workers", "pydantic", "sqlalchemy", "celery"})
