"""Bad input, one test a case: what the caller is told, and that nothing is left behind.

An upload that inspection rejects keeps its row, by design: in the state `rejected`, with the reason.
"""

import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psutil
import pytest
from onnx import helper
from sqlalchemy import func, select, union

from app import wiring
from app.db.tables import Artifact, Blob, Dataset, IdempotencyKey, Job, JobStep, JobStepFile, Model
from app.settings import Settings
from app.storage.store import ObjectStore
from tests.conftest import QUICK
from tests.parts import models
from tests.parts.service import Service, running_service, wait_until

HOLDERS = (
    Model.blob_id,
    Dataset.blob_id,
    Artifact.blob_id,
    Artifact.manifest_blob_id,
    Job.log_blob_id,
    Job.report_blob_id,
    Job.page_blob_id,
    JobStepFile.blob_id,
)

MiB = 1 << 20
ROWS = 12


# What there is


def store_of(service: Service) -> ObjectStore:
    """The service's store, opened a second time."""
    given = {name.removeprefix("BITPRESS_").lower(): value for name, value in service.environment.items()}
    names = ("data_dir", "store_url", *(name for name in Settings.model_fields if name.startswith("s3_")))
    return wiring.object_store(Settings.model_validate({name: given[name] for name in names if name in given}))


def census(service: Service) -> dict[str, Any]:
    """How many rows and objects there are; those that are being deleted are no longer there."""
    held = union(*(select(column).where(column.is_not(None)) for column in HOLDERS)).subquery()
    with service.database.read() as session:
        counts: dict[str, Any] = {
            table.__tablename__: session.scalar(select(func.count()).select_from(table))
            for table in (Model, Dataset, Job, JobStep, Artifact, IdempotencyKey)
        }
        blobs = {row.location: row for row in session.scalars(select(Blob))}
        needed = set(session.scalars(select(held.c[0])))
    going = {location for location, blob in blobs.items() if blob.state == "deleting"}
    # What a job made on the way stays for the grace time.
    resting = {location for location, blob in blobs.items() if blob.state == "stored" and blob.id not in needed}
    objects = {found.location for found in store_of(service).list()} - going
    counts["objects"] = len(objects - resting)
    counts["blobs"] = len(blobs) - len(going | resting)
    counts["unneeded"] = len(resting)
    counts["unknown"] = len(objects - set(blobs))
    # What a starting worker probes its machine with is no job's.
    counts["scratch"] = len(service.scratch_folders())
    return counts


@contextlib.contextmanager
def leaving(service: Service, *, unneeded: bool = False, **more: int) -> Iterator[None]:
    """Afterwards there is as much of everything as before, but for what is named."""
    before = census(service)
    yield
    expected = {name: count + more.pop(name, 0) for name, count in before.items()}
    assert not more

    def as_expected() -> dict[str, Any]:
        after = census(service)
        return {**after, "unneeded": expected["unneeded"]} if unneeded else after

    deadline = time.monotonic() + 10
    while (after := as_expected()) != expected and time.monotonic() < deadline:
        time.sleep(0.1)  # what a cut-off upload leaves is removed after its connection is gone
    assert after == expected


def refused(
    answer: httpx.Response, status: int, code: str, *, at: str | None = None, says: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The answer is a problem document with this status and code, at this place of the body, and says this."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), problem
    if at is not None:
        assert at in {error["pointer"] for error in problem["errors"] if error["code"] == code}, problem
    is_helpful(problem["detail"], says)
    return problem


def is_helpful(detail: str, says: tuple[str, ...]) -> None:
    assert detail.rstrip().endswith((".", "?")), detail
    assert len(detail.split()) > 4, detail
    for words in says:
        assert words in detail, detail


def form(content: bytes, *, end: bytes = b"\r\n--edge--\r\n") -> bytes:
    """A form with one file, by hand."""
    return b'--edge\r\nContent-Disposition: form-data; name="file"; filename="m.onnx"\r\n\r\n' + content + end


FORM = {"Content-Type": "multipart/form-data; boundary=edge"}


# Uploads that inspection rejects


def packed(*files: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


def arrays(*, pickled: bool = False, **given: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=pickled, **given)
    return buffer.getvalue()


def with_external_data(folder: Path, location: str) -> bytes:
    """A model whose weights lie in a file of their own, at this place."""
    made = onnx.load(models.save(models.gemm(), folder / "model.onnx", external=True), load_external_data=False)
    for tensor in made.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    content: bytes = made.SerializeToString()
    return content


def unknown_operator() -> bytes:
    made = models.model(
        [helper.make_node("Frobnicate", ["x"], ["y"], name="strange/Node")],
        [models.value("x", ["batch", 16])],
        [models.value("y", ["batch", 16])],
    )
    content: bytes = made.SerializeToString()
    return content


REJECTED_MODELS: dict[str, tuple[Callable[[Path], bytes], str, tuple[str, ...]]] = {
    "not ONNX": (lambda _: b"\x89PNG\r\n\x1a\n" + b"no model" * 40, "not_onnx", ("png", "Upload a .onnx file")),
    "truncated": (lambda _: models.gemm().SerializeToString()[:-300], "truncated", ("upload the whole file",)),
    "zip bomb": (
        lambda _: packed(("model.onnx", bytes(80 * MiB)), method=zipfile.ZIP_DEFLATED),
        "archive_too_large",
        ("200 times", "uncompressed"),
    ),
    "external data missing": (
        lambda folder: with_external_data(folder, "weights.bin"),
        "external_data_missing",
        ("weights.bin", ".zip"),
    ),
    "external data missing from its archive": (
        lambda folder: packed(("a/model.onnx", with_external_data(folder, "weights.bin"))),
        "external_data_missing",
        ("weights.bin",),
    ),
    "external data pointing outside": (
        lambda folder: packed(("model.onnx", with_external_data(folder, "../../../../etc/passwd"))),
        "external_data_outside",
        (),
    ),
    "archive pointing outside": (
        lambda _: packed(("../model.onnx", models.gemm().SerializeToString())),
        "archive_unsafe",
        ("climbs out",),
    ),
    "opset too old": (
        lambda _: models.conv_net(opset=6).SerializeToString(),
        "opset_too_old",
        ("opset 6", "opset 17"),
    ),
    "unsupported operator": (
        lambda _: unknown_operator(),
        "unsupported_operator",
        ("strange/Node", "Frobnicate"),
    ),
}

REJECTED_DATASETS: dict[str, tuple[Callable[[], bytes], str, tuple[str, ...]]] = {
    "no dataset": (lambda: b"1,2,3\n4,5,6\n", "dataset_format_unknown", (".npz",)),
    "truncated": (lambda: arrays(x=np.ones((ROWS, 16), np.float32))[:-200], "truncated", ()),
    "pickled arrays": (
        lambda: arrays(x=np.array([{"run": "me"}, None], object), pickled=True),
        "dataset_pickled",
        ("'x'", "astype"),
    ),
    "NaN": (
        lambda: arrays(x=np.where(np.eye(ROWS, 16) > 0, np.nan, 1.0).astype(np.float32)),
        "dataset_not_finite",
        ("NaN", "row 0"),
    ),
    "zero rows": (lambda: arrays(x=np.ones((0, 16), np.float32)), "dataset_empty", ("no rows",)),
    "arrays of different length": (
        lambda: arrays(x=np.ones((ROWS, 16), np.float32), labels=np.zeros(ROWS - 1, np.int64)),
        "dataset_rows_differ",
        ("'labels' 11",),
    ),
}


def is_rejected(service: Service, kind: str, content: bytes, file_name: str, code: str, says: tuple[str, ...]) -> None:
    with leaving(service, **{kind: 1, "blobs": 1, "objects": 1}):
        answer = service.api.post(f"/v1/{kind}", files={"file": (file_name, content)})
        assert answer.status_code == 201, answer.text
        body = service.inspected(kind, answer.json()["id"])
        assert (body["state"], body["error"]["code"]) == ("rejected", code), body["error"]
        is_helpful(body["error"]["detail"], says)
        assert str(service.data_dir) not in body["error"]["detail"], "a path of ours"
    # Even then it is the caller's to delete, and its bytes go with it.
    assert service.api.delete(f"/v1/{kind}/{body['id']}").status_code == 204


@pytest.mark.parametrize("case", REJECTED_MODELS)
def test_a_model_that_cannot_be_used(service: Service, tmp_path: Path, case: str) -> None:
    make, code, says = REJECTED_MODELS[case]
    content = make(tmp_path)
    is_rejected(service, "models", content, "m.zip" if content.startswith(b"PK") else "m.onnx", code, says)


@pytest.mark.parametrize("case", REJECTED_DATASETS)
def test_a_dataset_that_cannot_be_used(service: Service, case: str) -> None:
    make, code, says = REJECTED_DATASETS[case]
    is_rejected(service, "datasets", make(), "data.npz", code, says)


def test_a_job_on_a_rejected_model(service: Service) -> None:
    model = service.api.post("/v1/models", files={"file": ("m.onnx", b"no model at all")}).json()
    assert service.inspected("models", model["id"])["state"] == "rejected"
    with leaving(service):
        answer = service.api.post("/v1/jobs", json={"model": model["id"], "recipe": {"technique": "float16"}})
        refused(answer, 422, "model_rejected", at="/model", says=("not an ONNX model",))


# Uploads that are refused at once


@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_an_empty_file(service: Service, kind: str) -> None:
    with leaving(service):
        answer = service.api.post(f"/v1/{kind}", files={"file": ("m.onnx", b"")})
        refused(answer, 422, "empty_file", says=("Upload the whole file",))


@pytest.mark.parametrize("end", [b"", b"\r\n--edge", b"\r\n--edge\r\nContent-Disposition: form-data"])
def test_a_form_without_its_last_boundary(service: Service, end: bytes) -> None:
    """Cut off by something between the client and us that mended the length; also after the file was whole."""
    with leaving(service):
        answer = service.api.post("/v1/models", headers=FORM, content=form(b"x" * MiB, end=end))
        refused(answer, 422, "body_truncated", says=("cut off", "Send it again"))


@pytest.mark.parametrize("abruptly", [True, False])
@pytest.mark.parametrize("sent", [0, 300_000, 9_000_000])
def test_an_upload_cut_off(service: Service, abruptly: bool, sent: int) -> None:
    """The connection goes in the middle of the body: nothing is answered, and nothing stays."""
    host, port = service.url.removeprefix("http://").split(":")
    with leaving(service):
        connection = socket.create_connection((host, int(port)))
        head = (
            f"POST /v1/models HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {service.key}\r\n"
            f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: 20000000\r\n\r\n"
        )
        connection.sendall(head.encode() + form(os.urandom(sent), end=b""))
        wait_until(lambda: pending(service) == 1, what="the upload's announcement", seconds=10)
        if abruptly:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        wait_until(lambda: pending(service) == 0, what="the end of the cut-off upload", seconds=10)


def pending(service: Service) -> int:
    with service.database.read() as session:
        return session.scalar(select(func.count()).select_from(Blob).where(Blob.state == "pending")) or 0


@pytest.mark.parametrize(
    ("files", "data", "code", "at"),
    [
        ({}, {"name": "no file"}, "file_missing", "/file"),
        ({"file": ("m.onnx", b"x")}, {"colour": "blue"}, "unknown_field", "/colour"),
        ({"file": ("m.onnx", b"x")}, {"name": "n" * 201}, "too_large", "/name"),
        ({"file": ("m.onnx", b"x")}, {"name": "n\0"}, "invalid_value", "/name"),
        ({"file": ("m.onnx", b"x")}, {"preprocess": "{"}, "invalid_json", "/preprocess"),
        ({"file": ("m.onnx", b"x")}, {"preprocess": '{"size": [0, 8]}'}, "invalid_value", "/preprocess/size/0"),
        ({"file": ("m.onnx", b"x")}, {"preprocess": '{"input": "x"}'}, "field_missing", "/preprocess/size"),
    ],
)
def test_a_form_with_fields_that_are_not_right(
    service: Service, files: dict[str, Any], data: dict[str, str], code: str, at: str
) -> None:
    """The file has come whole by then, and goes again."""
    with leaving(service):
        # Given so, an empty list of files still makes a form.
        parts = [*((name, (None, value)) for name, value in data.items()), *files.items()]
        answer = service.api.post("/v1/datasets", files=parts)
        problem = answer.json()
        assert answer.status_code == 422, problem
        assert (at, code) in {(error["pointer"], error["code"]) for error in problem["errors"]}, problem


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/octet-stream", "application/x-www-form-urlencoded", ""]
)
def test_a_body_of_the_wrong_type(service: Service, content_type: str) -> None:
    with leaving(service):
        answer = service.api.post("/v1/models", content=b"x" * 100, headers={"Content-Type": content_type})
        refused(answer, 415, "unsupported_media_type", says=("multipart/form-data", "`source`"))


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "x" * 300, "; boundary=other"])
def test_a_form_that_is_none(service: Service, boundary: str) -> None:
    with leaving(service):
        headers = {"Content-Type": "multipart/form-data" + boundary}
        answer = service.api.post("/v1/models", content=form(b"x"), headers=headers)
        assert answer.json()["code"] in ("body_malformed", "body_truncated")
        refused(answer, 422, answer.json()["code"])


BAD_JSON = [
    b"",
    b"{",
    b"{'a': 1}",
    b"\xff\xfe",
    b'{"name": NaN}',
    b'{"name": "\\u0000"}',
    b'{"name": "\\ud800"}',
    b"[" * 50_000,
]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets", "/v1/jobs", "/v1/jobs/validate"])
@pytest.mark.parametrize("body", BAD_JSON, ids=range(len(BAD_JSON)))
def test_invalid_json(service: Service, path: str, body: bytes) -> None:
    with leaving(service):
        answer = service.api.post(path, content=body, headers={"Content-Type": "application/json"})
        refused(answer, 422, "invalid_json", at="")


@pytest.mark.parametrize("body", [None, [], "text", 5, [{"source": "s3://a/b"}]])
def test_json_that_is_no_object(service: Service, body: Any) -> None:
    with leaving(service):
        for path, code in (("/v1/jobs", "invalid_json"), ("/v1/models", "invalid_value")):
            answer = service.api.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
            refused(answer, 422, code, at="", says=("object",))


@pytest.mark.parametrize(
    ("body", "status", "code", "at"),
    [
        ({"source": "s3://somebody-elses/model.onnx"}, 403, "source_not_allowed", None),
        ({"source": "https://example.org/model.onnx"}, 403, "source_not_allowed", None),
        ({"source": "file:///etc/passwd"}, 403, "source_not_allowed", None),
        ({"source": "model.onnx"}, 422, "source_invalid", "/source"),
        ({"source": ""}, 422, "invalid_value", "/source"),
        ({}, 422, "field_missing", "/source"),
        ({"upload": "upl_1"}, 422, "unknown_field", "/upload"),
        ({"source": "s3://a/b", "colour": "blue"}, 422, "unknown_field", "/colour"),
    ],
)
def test_a_source_that_is_not_allowed(
    service: Service, body: dict[str, Any], status: int, code: str, at: str | None
) -> None:
    with leaving(service):
        refused(service.api.post("/v1/models", json=body), status, code, at=at)


def bucket_of(service: Service) -> str:
    return service.environment.get("BITPRESS_STORE_URL", "s3://none-is-allowed").removeprefix("s3://").split("/")[0]


def test_a_source_that_is_not_there(service: Service) -> None:
    with leaving(service):
        answer = service.api.post("/v1/models", json={"source": f"s3://{bucket_of(service)}/no/such/model.onnx"})
        if "BITPRESS_SOURCE_BUCKETS" in service.environment:
            refused(answer, 404, "source_not_found", says=("no/such/model.onnx",))
        else:
            refused(answer, 403, "source_not_allowed", says=("none is allowed",))


def test_a_source_that_is_there(service: Service) -> None:
    """The same call on what is there, so that the refusals mean something; where no bucket is allowed, one more."""
    content = models.gemm(outputs=5).SerializeToString()
    store_of(service).write("incoming/a model.onnx", content)
    answer = service.api.post("/v1/models", json={"source": f"s3://{bucket_of(service)}/incoming/a model.onnx"})
    store_of(service).delete("incoming/a model.onnx")
    if "BITPRESS_SOURCE_BUCKETS" in service.environment:
        body = service.inspected("models", answer.json()["id"])
        assert (body["state"], body["name"], body["bytes"]) == ("ready", "a model", len(content))
    else:
        refused(answer, 403, "source_not_allowed")


# Jobs


def model_of(service: Service) -> str:
    """A model with one input `x` of 16 numbers and 8 classes, uploaded once."""
    return made(service, "models", "gemm.onnx", lambda: models.gemm().SerializeToString())


def made(service: Service, kind: str, name: str, content: Callable[[], bytes]) -> str:
    if name not in service.made:
        answer = service.api.post(f"/v1/{kind}", files={"file": (name, content())})
        body = service.inspected(kind, answer.json()["id"])
        assert body["state"] == "ready", body
        service.made[name] = body["id"]
    upload_id: str = service.made[name]
    return upload_id


def test_a_job_on_a_model_that_is_not_ready(service: Service) -> None:
    inspectors = service.processes("workers.celery_app", "inspections")
    assert inspectors
    for process in inspectors:
        process.send_signal(signal.SIGSTOP)
    try:
        model = service.api.post("/v1/models", files={"file": ("m.onnx", models.mlp().SerializeToString())}).json()
        data = service.api.post("/v1/datasets", files={"file": ("d.npz", arrays(x=np.ones((2, 32))))}).json()
        with leaving(service):
            body = {"model": model["id"], "recipe": {"technique": "float16"}, "datasets": {"evaluation": data["id"]}}
            problem = refused(service.api.post("/v1/jobs", json=body), 422, "model_not_ready", at="/model")
            assert f"GET /v1/models/{model['id']}" in problem["errors"][0]["detail"]
            assert {(error["pointer"], error["code"]) for error in problem["errors"]} == {
                ("/model", "model_not_ready"),
                ("/datasets/evaluation", "dataset_not_ready"),
            }
    finally:
        for process in inspectors:
            process.send_signal(signal.SIGCONT)
    assert service.inspected("models", model["id"])["state"] == "ready"
    service.inspected("datasets", data["id"])


def quantized() -> bytes:
    made = models.model(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        [models.value("x", ["batch", 16])],
        [models.value("y", ["batch", 16])],
        [models.tensor("scale", 0.1), models.tensor("zero", 0, np.uint8)],
    )
    content: bytes = made.SerializeToString()
    return content


def test_a_job_on_a_model_that_is_quantized_already(service: Service) -> None:
    body = {"model": made(service, "models", "quantized.onnx", quantized), "recipe": {"technique": "dynamic_int8"}}
    with leaving(service):
        answer = service.api.post("/v1/jobs", json=body)
        refused(answer, 422, "already_quantized", at="/model", says=("the float model it came from",))
        checked = service.api.post("/v1/jobs/validate", json=body).json()
        assert [error["code"] for error in checked["errors"]] == ["already_quantized"]


def test_shapes_of_an_input_that_the_model_has_not(service: Service) -> None:
    body = {
        "model": model_of(service),
        "recipe": {"technique": "dynamic_int8"},
        "measure": {"shapes": {"X": [1, 16], "x": [1, 17]}},
    }
    with leaving(service):
        answer = service.api.post("/v1/jobs", json=body)
        problem = refused(answer, 422, "shapes_do_not_fit", at="/measure/shapes/X")
        assert {error["pointer"] for error in problem["errors"]} == {"/measure/shapes/X", "/measure/shapes/x"}


X = np.random.default_rng(1).normal(size=(ROWS, 16)).astype(np.float32)
LABELS = np.arange(ROWS, dtype=np.int64) % 8

MISFITS: dict[str, tuple[Callable[[], bytes], str, tuple[str, ...]]] = {
    "names": (lambda: arrays(input=X, labels=LABELS), "dataset_input_missing", ("'x'", "'input'", "Rename")),
    "shapes": (lambda: arrays(x=X.reshape(ROWS, 4, 4), labels=LABELS), "dataset_shape_mismatch", ("[4, 4]", "[16]")),
    "dtypes": (lambda: arrays(x=X.astype(np.float64), labels=LABELS), "dataset_dtype_mismatch", ("float64", "float32")),
    "labels": (lambda: arrays(x=X, labels=LABELS + 1), "labels_out_of_range", ("1 to 8", "subtract 1")),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_dataset_that_does_not_fit(service: Service, case: str) -> None:
    content, code, says = MISFITS[case]
    data = made(service, "datasets", f"misfit-{case}.npz", content)
    body = {"model": model_of(service), "recipe": {"technique": "dynamic_int8"}, "datasets": {"evaluation": data}}
    with leaving(service):
        refused(service.api.post("/v1/jobs", json=body), 422, code, at="/datasets/evaluation", says=says)
        checked = service.api.post("/v1/jobs/validate", json=body).json()
        assert (checked["valid"], [error["code"] for error in checked["errors"]]) == (False, [code])


def test_unknown_recipe_options(service: Service) -> None:
    body = {"model": model_of(service), "recipe": {"technique": "dynamic_int8", "per_chanel": True}}
    with leaving(service):
        answer = service.api.post("/v1/jobs", json=body, headers={"Idempotency-Key": "not used up"})
        refused(answer, 422, "unknown_field", at="/recipe/per_chanel", says=("Did you mean 'per_channel'",))


def test_an_unknown_technique(service: Service) -> None:
    body = {"model": model_of(service), "recipe": {"technique": "int3"}}
    with leaving(service):
        answer = service.api.post("/v1/jobs", json=body)
        refused(answer, 422, "unknown_technique", at="/recipe/technique", says=("static_int8",))


@pytest.mark.parametrize(
    ("constraints", "at"),
    [
        ([{"metric": "size", "min": 9}, {"metric": "artifact_bytes", "max": 5}], "/goal/constraints/1"),
        ([{"metric": "sqnr_db", "min": 40, "max": 30}], "/goal/constraints/0"),
        ([{"metric": "agreement", "max_drop": 0.1, "min": 0.9}], "/goal/constraints/0"),
    ],
)
def test_a_contradictory_goal(service: Service, constraints: list[dict[str, Any]], at: str) -> None:
    goal = {"constraints": constraints}
    body = {"model": model_of(service), "recipe": {"technique": "dynamic_int8"}, "goal": goal}
    with leaving(service):
        refused(service.api.post("/v1/jobs", json=body), 422, "contradiction", at=at)


def test_all_field_errors_come_at_once(service: Service) -> None:
    body = {
        "model": "mdl_" + "0" * 26,
        "recipe": {"technique": "static_int8", "calibration": {"metod": "minmax", "samples": 0}},
        "datasets": {"evaluation": "dst_" + "0" * 26, "training": "mine"},
        "goal": {"minimize": "speed", "constraints": [{"metric": "accuracy", "min": 0.9}]},
        "metrics": ["topl"],
        "priority": 10,
        "labels": {"team": 5},
        "colour": "blue",
    }
    with leaving(service):
        answer = service.api.post("/v1/jobs", json=body)
        assert answer.status_code == 422
        found = {(error["pointer"], error["code"]) for error in answer.json()["errors"]}
        assert found == {
            ("/model", "model_not_found"),
            ("/recipe/calibration/metod", "unknown_field"),
            ("/recipe/calibration/samples", "invalid_value"),
            ("/datasets/calibration", "calibration_missing"),
            ("/datasets/evaluation", "dataset_not_found"),
            ("/datasets/training", "invalid_value"),
            ("/goal/minimize", "not_allowed"),
            ("/goal/constraints/0/metric", "unknown_metric"),
            ("/metrics/0", "unknown_metric"),
            ("/priority", "invalid_value"),
            ("/labels/team", "invalid_value"),
            ("/colour", "unknown_field"),
        }
        for error in answer.json()["errors"]:
            assert len(error["detail"]) > 10


# A machine that is too small, a service of its own


@dataclass
class Cramped:
    """A service that takes uploads of 8 MiB, gives a child 16 MiB of disk, and whose objects can be left no room."""

    service: Service
    scratch: Path
    disk: Path | None
    """Where its data folder is a disk of its own."""

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """There is room for small things only; on a real disk where we may mount one, else by the kernel's limit."""
        if self.disk is not None:
            ballast = self.disk / "ballast"
            free = os.statvfs(self.disk)
            with ballast.open("wb") as file:
                left = free.f_bavail * free.f_frsize - 3 * MiB
                while left > 0:
                    left -= file.write(bytes(min(left, MiB)))
            try:
                yield
            finally:
                ballast.unlink()
        else:
            limited = [*self.service.processes("uvicorn"), *self.service.job_worker()]
            before = [process.rlimit(psutil.RLIMIT_FSIZE) for process in limited]
            for process, (_, hard) in zip(limited, before, strict=True):
                process.rlimit(psutil.RLIMIT_FSIZE, (3 * MiB, hard))
            try:
                yield
            finally:
                for process, limits in zip(limited, before, strict=True):
                    process.rlimit(psutil.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cramped]:
    folder = tmp_path_factory.mktemp("cramped")
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={48 * MiB},mode=700", "bitpress-test", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    settings = {
        **QUICK,
        "BITPRESS_SCRATCH_DIR": str(folder / "scratch"),
        "BITPRESS_MAX_UPLOAD_BYTES": str(8 * MiB),
        "BITPRESS_SANDBOX_DISK_BYTES": str(16 * MiB),
    }
    try:
        with running_service(disk / "data", **settings) as running:
            yield Cramped(running, folder / "scratch", disk if mounted else None)
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("size", [8 * MiB + 1, 20 * MiB])
@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_that_is_too_large(cramped: Cramped, size: int, announced: bool) -> None:
    content = form(bytes(size))
    with leaving(cramped.service):
        sent: Any = content if announced else (content[start : start + MiB] for start in range(0, len(content), MiB))
        answer = cramped.service.api.post("/v1/models", headers=FORM, content=sent)
        refused(answer, 413, "payload_too_large", says=(str(8 * MiB),))


def test_a_json_body_that_is_too_large(cramped: Cramped) -> None:
    with leaving(cramped.service):
        body = {"name": "n" * 2 * MiB}
        for path in ("/v1/jobs", "/v1/models"):
            refused(cramped.service.api.post(path, json=body), 413, "payload_too_large", says=("1 MiB",))


def test_an_upload_to_a_full_disk(cramped: Cramped) -> None:
    service = cramped.service
    with leaving(service), cramped.full():
        problem = refused(
            service.api.post("/v1/models", headers=FORM, content=form(os.urandom(6 * MiB))),
            507,
            "storage_full",
            says=("free some space",),
        )
        assert problem["retryable"] is True
        assert service.api.get("/readyz").status_code == 200, "it still serves"
    made(service, "models", "small.onnx", lambda: models.gemm().SerializeToString())


def large_model() -> bytes:
    """7 MiB: in half precision its artifact is 3.5 MiB."""
    content: bytes = models.gemm(inputs=1024, outputs=1792).SerializeToString()
    return content


def test_a_job_on_a_full_disk(cramped: Cramped) -> None:
    service = cramped.service
    model = made(service, "models", "large.onnx", large_model)
    with leaving(service, jobs=1, unneeded=True), cramped.full():
        job = service.ended(service.submit(model=model, recipe={"technique": "float16"})["id"])
        assert job["state"] == "failed"
        assert (job["error"]["code"], job["error"]["retryable"]) == ("storage_full", True), job["error"]
        is_helpful(job["error"]["detail"], ("free some space",))
        assert job["artifacts"] == []
    wait_until(lambda: not list(cramped.scratch.glob("*/*")), what="an empty scratch", seconds=10)


def test_a_job_that_fills_its_scratch(cramped: Cramped) -> None:
    """Its inputs fit, and what it makes of them does not: the child is stopped, and says so."""
    service = cramped.service
    model = made(service, "models", "large.onnx", large_model)
    rows = np.random.default_rng(2).normal(size=(1700, 1024)).astype(np.float32)
    data = made(service, "datasets", "many.npz", lambda: arrays(x=rows))
    with leaving(service, jobs=1, unneeded=True):
        body = {"model": model, "recipe": {"technique": "dynamic_int8"}, "datasets": {"evaluation": data}}
        job = service.ended(service.submit(**body)["id"])
        assert (job["state"], job["error"]["code"]) == ("failed", "disk_limit_exceeded"), job["error"]
        assert job["error"]["stage"] in ("baseline", "candidates")
        is_helpful(job["error"]["detail"], ())
    wait_until(lambda: not list(cramped.scratch.glob("*/*")), what="an empty scratch", seconds=10)
