"""Files of torch through the whole service: refused unasked, measured where the deployment trusts them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import QUICK
from tests.parts.service import Service, running_service

pytest.importorskip("torch", reason="torch is not installed (extra `train`)")

import torch

from tests.parts import torch_models
from tests.parts.torch_models import Act, save

SETTING = "BITPRESS_TRUST_TORCH_FILES"


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of its own whose operator trusts those who upload."""
    environment = {**QUICK, SETTING: "true", "BITPRESS_INSPECT_SECONDS": "30"}
    with running_service(tmp_path_factory.mktemp("trusting"), **environment) as service:
        yield service


def rows(module: Any, folder: Path, count: int = 60) -> tuple[Path, float]:
    """A dataset with labels, and the share of them that the module itself gets right."""
    inputs = [each.numpy() for each in torch_models.example(module, count)]
    with torch.no_grad():
        scores = module.eval()(*(torch.from_numpy(each) for each in inputs))
    labels = scores.argmax(1).numpy()
    labels[: count // 4] = (labels[: count // 4] + 1) % scores.shape[1]
    names = ("image",) if isinstance(module, torch_models.Picture) else ("x",)
    np.savez(folder / "rows.npz", labels=labels, **dict(zip(names, inputs, strict=True)))
    return folder / "rows.npz", float((scores.argmax(1).numpy() == labels).mean())


def test_a_service_that_nobody_told_to_trust_takes_none(service: Service, tmp_path: Path) -> None:
    for content, name in (
        (torch_models.exported(torch_models.Dense()), "dense.pt2"),
        (torch_models.scripted(torch_models.Dense()), "dense.pt"),
    ):
        body = service.upload("models", save(content, tmp_path / name))
        assert (body["state"], body["error"]["code"]) == ("rejected", "torch_files_not_trusted")
        assert SETTING in body["error"]["detail"]
        assert "torch.onnx.export" in body["error"]["detail"]


def test_pickles_are_refused_by_everybody(trusting: Service, tmp_path: Path) -> None:
    canary = trusting.data_dir / "canary"
    body = trusting.upload("models", save(torch_models.pickled(Act(canary)), tmp_path / "model.pt"))

    assert (body["state"], body["error"]["code"]) == ("rejected", "pickled_model")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("file_name", "make", "format_", "asked"),
    [
        ("picture.pt2", torch_models.exported, "pt2", [1]),
        ("picture.pt", torch_models.scripted, "torchscript", [1, 4]),
    ],
)
def test_a_model_is_measured(
    trusting: Service, tmp_path: Path, file_name: str, make: Any, format_: str, asked: list[int]
) -> None:
    module = torch_models.Picture()
    uploaded = trusting.upload("models", save(make(module), tmp_path / file_name))
    assert (uploaded["state"], uploaded["format"]) == ("ready", format_), uploaded
    path, top1 = rows(module, tmp_path)
    data = trusting.upload("datasets", path)

    job = trusting.submit(
        kind="evaluate",
        model=uploaded["id"],
        datasets={"evaluation": data["id"]},
        metrics=["top1"],
        measure={"runtime": "auto", "batch": asked},
    )
    body = trusting.ended(job["id"])

    assert body["state"] == "succeeded", body["error"]
    found = {each["name"]: each for each in reversed(body["baseline"]["measurements"])}
    assert found["top1"]["value"] == pytest.approx(top1)
    latency = found["latency_p50"]
    assert latency["value"] > 0
    assert (latency["conditions"]["runtime"], latency["conditions"]["threads"]) == ("torch", 1)
    assert latency["conditions"]["version"] == torch.__version__
    batches = [
        each["conditions"]["batch"] for each in body["baseline"]["measurements"] if each["name"] == "latency_p50"
    ]
    assert batches == asked
    assert found["peak_memory"]["value"] >= 0
    assert found["artifact_bytes"]["value"] == uploaded["bytes"]
    report = trusting.api.get(body["links"]["report"]).json()
    operators = report["operators"]["original"]
    assert any("linear" in each["op_type"] or "addmm" in each["kernel"] for each in operators)


def test_shapes_are_asked_for_where_nothing_tells_them(trusting: Service, tmp_path: Path) -> None:
    model = trusting.upload("models", save(torch_models.scripted(torch_models.Dense()), tmp_path / "dense.pt"))["id"]
    answer = trusting.api.post("/v1/jobs", json={"kind": "evaluate", "model": model})
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [
        ("/measure/shapes", "shapes_missing")
    ]

    cases = {"one": {"x": [1, 4]}, "none": {}}
    body = {"kind": "evaluate", "model": model, "measure": {"shapes": {"x": [1, 4]}, "cases": cases}}
    answer = trusting.api.post("/v1/jobs", json=body)
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [
        ("/measure/cases/none", "shapes_missing")
    ]


@pytest.mark.parametrize("make", [torch_models.exported, torch_models.scripted])
def test_none_is_optimized(trusting: Service, tmp_path: Path, make: Any) -> None:
    model = trusting.upload("models", save(make(torch_models.Dense()), tmp_path / "dense.pt2"))["id"]
    answer = trusting.api.post("/v1/jobs", json={"model": model, "recipe": {"technique": "dynamic_int8"}})

    [error] = answer.json()["errors"]
    assert (answer.status_code, error["pointer"], error["code"]) == (422, "/model", "format_not_optimizable")
    assert "torch.onnx.export" in error["detail"]
    body = {"kind": "evaluate", "model": model, "measure": {"runtime": "onnxruntime", "shapes": {"x": [1, 4]}}}
    answer = trusting.api.post("/v1/jobs", json=body)
    assert [each["code"] for each in answer.json()["errors"]] == ["runtime_not_for_format"]


def test_what_never_returns_is_stopped(trusting: Service, tmp_path: Path) -> None:
    model = trusting.upload("models", save(torch_models.scripted(torch_models.Endless()), tmp_path / "endless.pt"))
    assert model["state"] == "ready", model
    job = trusting.submit(
        kind="evaluate",
        model=model["id"],
        measure={"shapes": {"x": [1, 4]}},
        limits={"run_seconds": 12},
    )
    body = trusting.ended(job["id"])

    assert (body["state"], body["error"]["code"]) == ("failed", "time_limit_exceeded")


def test_what_never_ends_being_loaded_is_stopped(trusting: Service, tmp_path: Path) -> None:
    path = save(torch_models.scripted(torch_models.EndlessLoad()), tmp_path / "endless.pt")
    body = trusting.upload("models", path)

    assert (body["state"], body["error"]["code"]) == ("rejected", "time_limit_exceeded")


def test_a_model_reads_nothing_of_the_machine(trusting: Service, tmp_path: Path) -> None:
    content = torch_models.reading_script(str(trusting.data_dir / "api_key"))
    model = trusting.upload("models", save(content, tmp_path / "model.pt"))
    assert model["state"] == "ready", model
    job = trusting.submit(kind="evaluate", model=model["id"], measure={"shapes": {"x": [1, 4]}})
    body = trusting.ended(job["id"])

    assert (body["state"], body["error"]["code"]) == ("failed", "model_does_not_run")
    assert "Permission denied" in body["error"]["detail"]
