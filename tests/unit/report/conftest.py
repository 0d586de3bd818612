"""The report of a real job, and the same with what a profiled job adds."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parts import models
from tests.unit.steps.conftest import Job, images


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A static job with everything that this version measures, its layers included."""
    job = Job(tmp_path_factory.mktemp("report"))
    job.save_model(models.conv_net())
    job.save_dataset("calibration", image=images(8, seed=1))
    job.save_dataset("evaluation", image=images(40, seed=2), labels=np.arange(40) % 10)
    job.spec = {
        "recipe": {"technique": "static_int8", "sensitivity": True},
        "goal": {"constraints": [{"metric": "top1", "max_drop": 0.5}]},
    }
    job.run_until("candidates")
    result = job.package(job.measure())
    report: dict[str, Any] = json.loads((job.scratch / "package" / result["report"]).read_text())
    # Of one process: each test adds what it needs.
    report["samples"] = {name: found for name, found in report["samples"].items() if name.endswith("-1")}
    return report


@pytest.fixture
def report(measured: dict[str, Any]) -> dict[str, Any]:
    """A copy of it, to be changed."""
    return copy.deepcopy(measured)


def operator(name: str, op_type: str, ms: float, *nodes: str, kernel: str = "", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "op_type": op_type,
        "kernel": kernel or op_type,
        "provider": "CPUExecutionProvider",
        "calls": 10,
        "ms": ms,
        "share": 0.1,
        "output_bytes": 4000,
        "nodes": list(nodes),
    } | more


def work(name: str, flops: float, moved: float, ms: float | None) -> dict[str, Any]:
    """A node on the roofline."""
    return {
        "name": name,
        "op_type": "Conv",
        "flops": flops,
        "bytes": moved,
        "ms": ms,
        "bound": "memory",
        "best_ms": 0.1,
    }


@pytest.fixture
def profiled(report: dict[str, Any]) -> dict[str, Any]:
    """The same with operators and a roofline."""
    candidate = report["candidates"][0]["id"]
    report["operators"] = {
        "original": [
            operator("conv", "Conv", 2.0, "conv"),
            operator("relu", "Relu", 0.25, "relu"),
            operator("gemm", "Gemm", 0.5, "gemm"),
        ],
        candidate: [
            operator("conv_quant", "QLinearConv", 1.0, "conv", "relu", kernel="MlasConvS8"),
            operator("gemm", "Gemm", 0.5, "gemm"),
            operator("image_QuantizeLinear", "QuantizeLinear", 0.125),
        ],
    }
    report["roofline"] = {
        "peaks": {"fp32_gflops": 60.0, "int8_gops": 110.0, "bandwidth_gbs": 12.0},
        "original": [work("conv", 4e7, 2e6, 2.0), work("gemm", 1e6, 1e6, None)],
        candidate: [work("conv", 4e7, 5e5, 1.0)],
    }
    return report


@pytest.fixture
def evaluated(profiled: dict[str, Any]) -> dict[str, Any]:
    """A job that measured one model and made nothing."""
    candidate = profiled["candidates"][0]["id"]
    del profiled["operators"][candidate], profiled["roofline"][candidate]
    return profiled | {
        "candidates": [],
        "drops": {},
        "chosen": None,
        "gate": "none",
        "verdicts": [],
        "artifacts": [],
        "conclusion": "The model takes 0.2 ms a row here.",
    }


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")
