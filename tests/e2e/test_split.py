"""One dataset for all roles, over HTTP: the service splits it, and everything it says is of the rows that it says."""

import hashlib
from hashlib import blake2b
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.parts.service import EXAMPLES, Service

ROWS = 400
RECIPE = {"technique": "static_int8", "calibration": {"method": "minmax", "samples": 64}, "recovery": []}
MODEL = "fashion_mobilenet.onnx"


def rows() -> tuple[Any, Any]:
    """The pictures of the dataset, and what is on them."""
    with np.load(EXAMPLES / "evaluation.npz") as whole:
        return whole["image"][:ROWS], whole["labels"][:ROWS]


def plain_split(images: Any) -> dict[str, list[int]]:
    """The usual split by the rule as it is documented, of each row by itself."""
    found: dict[str, list[int]] = {"calibration": [], "tuning": [], "evaluation": []}
    for number, image in enumerate(images):
        heading = f"image\0{image.dtype}{image.shape}\0".encode()
        content = blake2b(heading + image.tobytes(), digest_size=16).digest()
        hashed = blake2b(b"bitpress split 1\0row\0" + content, digest_size=16).digest()
        place = int.from_bytes(hashed[:8], "big") / 2**64
        found["calibration" if place < 0.2 else "tuning" if place < 0.4 else "evaluation"].append(number)
    return found


def ended(service: Service, **spec: Any) -> dict[str, Any]:
    body = service.ended(service.submit(**spec)["id"])
    assert body["state"] == "succeeded", body["error"]
    return body


def value(measurements: list[dict[str, Any]], name: str) -> Any:
    return next(found["value"] for found in measurements if found["name"] == name)


@pytest.fixture(scope="module")
def made(service: Service) -> dict[str, Any]:
    data = service.some_rows("evaluation.npz", ROWS)
    return ended(service, model=service.example(MODEL), datasets={"all": data}, recipe=RECIPE, metrics=["top1"])


def test_a_job_takes_its_roles_from_one_dataset(service: Service, made: dict[str, Any]) -> None:
    images, labels = rows()
    split = plain_split(images)
    counts = {role: len(numbers) for role, numbers in split.items()}
    assert made["rows"] == counts
    assert made["spec"]["split"] == {"calibration": 0.2, "tuning": 0.2, "evaluation": 0.6}
    assert any("split by what each holds" in note for note in made["notes"])

    session = onnxruntime.InferenceSession(EXAMPLES / MODEL, providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {session.get_inputs()[0].name: images[split["evaluation"]]})
    right = float(np.mean(logits.argmax(axis=1) == labels[split["evaluation"]]))
    assert value(made["baseline"]["measurements"], "top1") == pytest.approx(right, abs=1e-12)

    report = service.api.get(made["links"]["report"]).json()
    assert report["rows"] == counts
    assert report["calibration"]["samples"] == min(64, counts["calibration"])
    manifest = service.api.get(f"/v1/artifacts/{made['artifacts'][0]}/manifest").json()
    for said in (report["data"], manifest["data"]):
        for role, numbers in split.items():
            listed = hashlib.sha256(np.array(numbers, "<i8").tobytes()).hexdigest()
            assert said[role]["id"] == made["spec"]["datasets"]["all"]
            assert (said[role]["rows"], said[role]["rows_sha256"]) == (len(numbers), listed)
    page = service.api.get(made["links"]["report"], params={"format": "html"}).text
    assert f"{counts['evaluation']:,}" in page


def test_the_same_split_is_calibrated_once_and_another_anew(service: Service, made: dict[str, Any]) -> None:
    again = {"model": made["model"], "datasets": made["spec"]["datasets"], "recipe": RECIPE | {"per_channel": False}}
    same = ended(service, **again)
    assert any("observed by an earlier job" in note for note in same["notes"])
    assert same["rows"] == made["rows"]
    other = ended(service, **again, split={"calibration": 0.3, "evaluation": 0.7})
    assert not any("observed by an earlier job" in note for note in other["notes"])
    assert other["rows"]["calibration"] > made["rows"]["calibration"]


def test_an_artifact_is_judged_by_what_was_held_out(service: Service, made: dict[str, Any]) -> None:
    body = {"kind": "evaluate", "model": made["artifacts"][0], "datasets": made["spec"]["datasets"]}
    held_out = ended(service, **body)
    assert held_out["rows"] == {"evaluation": made["rows"]["evaluation"]}
    before = made["candidates"][0]["measurements"]
    assert value(held_out["baseline"]["measurements"], "top1") == value(before, "top1")
    everything = ended(service, **body, split={"evaluation": 1})
    assert everything["rows"] == {"evaluation": ROWS}
    doubts = service.api.post("/v1/jobs/validate", json=body | {"split": {"evaluation": 1}}).json()["doubts"]
    assert any("not held out" in doubt for doubt in doubts)


def test_jobs_on_the_same_rows_are_of_one_group(service: Service, made: dict[str, Any]) -> None:
    groups = service.api.get(f"/v1/models/{made['model']}/frontier").json()["groups"]
    mine = [group for group in groups if any(made["id"] in variant["jobs"] for variant in group["variants"])]
    assert mine
    for group in mine:
        assert group["data"] == {"source": "evaluation", "dataset": made["spec"]["datasets"]["all"]}


def test_the_dataset_stays_while_a_job_uses_it(service: Service, made: dict[str, Any]) -> None:
    answer = service.api.delete(f"/v1/datasets/{made['spec']['datasets']['all']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "dataset_in_use")


def test_a_split_that_cannot_be_made_says_what_to_do(service: Service) -> None:
    data = service.some_rows("evaluation.npz", 60)
    body = {"model": service.example(MODEL), "datasets": {"all": data}, "recipe": {"technique": "dynamic_int8"}}
    small = body | {"split": {"calibration": 0.01, "evaluation": 0.99}}
    told = service.api.post("/v1/jobs/validate", json=small).json()
    assert told["valid"]
    assert any("split_too_small" in doubt for doubt in told["doubts"])
    error = service.ended(service.submit(**small)["id"])["error"]
    assert (error["code"], error["stage"]) == ("split_too_small", "inspect")
    assert "calibration was given" in error["detail"]
    answer = service.api.post("/v1/jobs", json=body | {"datasets": {"all": data, "evaluation": data}})
    assert [(found["pointer"], found["code"]) for found in answer.json()["errors"]] == [
        ("/datasets/all", "all_not_alone")
    ]
