"""Uploads: streamed, repeated whole, and inspected."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bitpress import ApiError, Client, InputRejected, TimedOut

from tests.unit.client import documents
from tests.unit.client.documents import DATASET_ID, MODEL_ID
from tests.unit.client.misbehaving import KEY, Seen, Service, answer, hang_up, problem, refuse_body

CREATED = answer(documents.model(state="inspecting"), status=201)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(os.urandom(300_000))
    return path


def parts(seen: Seen) -> dict[str, tuple[str, bytes]]:
    """The parts of a form: the rest of each one's disposition, and its bytes."""
    found = re.search("boundary=(.+)", seen.headers["content-type"])
    assert found
    pieces = seen.body.split(b"--" + found[1].encode())[1:-1]
    read = {}
    for piece in pieces:
        head, _, body = piece.partition(b"\r\n\r\n")
        name = re.search(r'form-data; name="(\w+)"(.*)', head.decode())
        assert name
        read[name[1]] = (name[2].strip("; \r"), body.removesuffix(b"\r\n"))
    return read


def test_a_model_arrives_as_it_is(service: Service, client: Client, file: Path) -> None:
    service.plan("POST", "/v1/models", CREATED)
    assert client.upload_model(file, "kiosk net")["state"] == "inspecting"
    (seen,) = service.seen
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert int(seen.headers["content-length"]) == seen.body_bytes
    form = parts(seen)
    assert form["name"] == ("", b"kiosk net")
    assert form["file"] == ('filename="net.onnx"', file.read_bytes())
    assert list(form) == ["name", "file"], "fields before bytes"


def test_a_dataset_brings_its_preprocess(service: Service, client: Client, file: Path) -> None:
    service.plan("POST", "/v1/datasets", answer(documents.dataset(), status=201))
    client.upload_dataset(file, preprocess={"resize": [28, 28]})
    assert parts(service.seen[0])["preprocess"] == ("", b'{"resize": [28, 28]}')


def test_a_second_try_sends_the_whole_file_again(service: Service, client: Client, file: Path) -> None:
    told: list[tuple[int, int]] = []
    service.plan("POST", "/v1/models", hang_up, problem(503, "storage_full", "Full."), CREATED)
    client.upload_model(file, on_progress=lambda passed, there: told.append((passed, there)))
    whole = [parts(seen)["file"][1] == file.read_bytes() for seen in service.seen]
    assert whole == [True, True, True]
    assert max(told) == (300_000, 300_000)
    assert sum(passed == 65_536 for passed, _ in told) == 3


def test_a_refusal_is_heard_while_the_body_is_still_being_sent(
    service: Service, client: Client, tmp_path: Path
) -> None:
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(50_000_000)
    service.plan("POST", "/v1/models", refuse_body(413, "payload_too_large", "At most 1 MB."))
    with pytest.raises(ApiError, match="At most 1 MB") as caught:
        client.upload_model(large)
    assert caught.value.code == "payload_too_large"


def test_a_file_that_is_not_there(service: Service, client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.upload_model(tmp_path / "nothing.onnx")
    assert service.seen == []


def test_a_bucket_is_named_in_json(service: Service, client: Client) -> None:
    service.plan("POST", "/v1/models", CREATED)
    service.plan("POST", "/v1/datasets", answer(documents.dataset(), status=201))
    client.import_model("s3://models/net.onnx", "net")
    client.import_dataset("s3://data/images.zip", preprocess={"resize": [28, 28]})
    assert [seen.json() for seen in service.seen] == [
        {"source": "s3://models/net.onnx", "name": "net"},
        {"source": "s3://data/images.zip", "preprocess": {"resize": [28, 28]}},
    ]


def test_600_mb_pass_without_being_kept(service: Service, tmp_path: Path) -> None:
    """In a process of its own, whose high-water mark is that of the upload alone."""
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(600_000_000)
    service.plan("POST", "/v1/models", CREATED)
    program = """
import resource, sys
from bitpress import Client
def high_water():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with Client(sys.argv[1], "key") as client:
    try:
        client.model("mdl_1")
    except Exception:
        pass
    before = high_water()
    client.upload_model(sys.argv[2])
print(high_water() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, service.url, str(large)], capture_output=True, text=True, check=True
    )
    (seen,) = service.requests("POST", "/v1/models")
    assert seen.body_bytes > 600_000_000
    assert int(done.stdout) < 16_000, "KiB"


def test_waiting_ends_when_inspection_does(service: Service, client: Client) -> None:
    inspecting = documents.model(state="inspecting")
    service.plan("GET", f"/v1/models/{MODEL_ID}", answer(inspecting), hang_up, answer(documents.model()))
    assert client.wait_ready(inspecting)["opset"] == 17  # type: ignore[type-var]
    assert len(service.seen) == 3


def test_a_rejected_upload_says_why(service: Service, client: Client) -> None:
    inspecting = documents.dataset(state="inspecting")
    reason = {"code": "pickled_array", "detail": "The array `image` is pickled. Save it as float32."}
    rejected = documents.dataset(state="rejected", error=reason)
    service.plan("GET", f"/v1/datasets/{DATASET_ID}", answer(rejected))
    with pytest.raises(InputRejected, match="Save it as float32") as caught:
        client.wait_ready(inspecting)  # type: ignore[type-var]
    assert caught.value.code == "pickled_array"
    assert caught.value.document["id"] == DATASET_ID


def test_waiting_has_an_end(service: Service, client: Client) -> None:
    inspecting = documents.model(state="inspecting")
    service.plan("GET", f"/v1/models/{MODEL_ID}", answer(inspecting))
    with pytest.raises(TimedOut, match=r"still being inspected after 0\.3 s"):
        client.wait_ready(inspecting, timeout=0.3)  # type: ignore[type-var]


def test_the_digest_is_of_what_was_sent(service: Service, client: Client, file: Path) -> None:
    """So that the test server's own reading is worth something."""
    service.plan("POST", "/v1/models", CREATED)
    client.upload_model(file)
    assert hashlib.sha256(service.seen[0].body).hexdigest() == service.seen[0].body_sha256
