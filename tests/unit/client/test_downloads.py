"""Downloads: whole, verified and in their place, or not there at all."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bitpress import ApiError, Client, ConnectionFailed, IntegrityError

from tests.unit.client import documents
from tests.unit.client.documents import ARTIFACT_ID, MODEL_ID
from tests.unit.client.misbehaving import KEY, Seen, Service, Step, content, hang_up, problem, text
from tests.unit.client.misbehaving import answer as json_answer

DATA = os.urandom(500_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
CONTENT = f"/v1/artifacts/{ARTIFACT_ID}/content"

Planned = Callable[..., list[Seen]]


@pytest.fixture
def planned(service: Service) -> Planned:
    """Plan an artifact and what its content does; returns the requests for the content, as they come."""

    def plan(*steps: Step, **changes: Any) -> list[Seen]:
        service.plan("GET", f"/v1/artifacts/{ARTIFACT_ID}", json_answer(documents.artifact(DATA, SHA256, **changes)))
        service.plan("GET", CONTENT, *steps)
        return service.seen

    return plan


def ranges(seen: list[Seen]) -> list[str | None]:
    return [request.headers.get("range") for request in seen if request.path == CONTENT]


def test_into_a_file(planned: Planned, client: Client, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    planned(content(DATA))
    target = tmp_path / "mine.onnx"
    target.write_bytes(b"an older one")
    path = client.download(ARTIFACT_ID, target, on_progress=lambda passed, there: told.append((passed, there)))
    assert path == target
    assert target.read_bytes() == DATA
    assert told[-1] == (500_000, 500_000)
    assert os.listdir(tmp_path) == ["mine.onnx"]


def test_into_a_folder_under_its_own_name(planned: Planned, client: Client, tmp_path: Path) -> None:
    planned(content(DATA))
    assert client.download(ARTIFACT_ID, tmp_path) == tmp_path / "net.static_int8.onnx"


def test_a_new_file_obeys_the_umask(planned: Planned, client: Client, tmp_path: Path) -> None:
    planned(content(DATA))
    before = os.umask(0o027)
    try:
        path = client.download(ARTIFACT_ID, tmp_path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["../../escaped.onnx", "..\\escaped.onnx", "/etc/escaped.onnx", "..", "", "a/.."])
def test_a_name_cannot_leave_the_folder(planned: Planned, client: Client, tmp_path: Path, name: str) -> None:
    planned(content(DATA), file_name=name)
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    assert client.download(ARTIFACT_ID, folder).parent == folder
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != folder] == []


def test_models_too(service: Service, client: Client, tmp_path: Path) -> None:
    service.plan("GET", f"/v1/models/{MODEL_ID}", json_answer(documents.model(bytes=len(DATA), sha256=SHA256)))
    service.plan("GET", f"/v1/models/{MODEL_ID}/content", content(DATA))
    assert client.download(MODEL_ID, tmp_path).read_bytes() == DATA


def test_a_cut_is_taken_up_where_it_broke(planned: Planned, client: Client, tmp_path: Path) -> None:
    seen = planned(content(DATA, cut_after=200_000), content(DATA, cut_after=100_000), content(DATA))
    assert client.download(ARTIFACT_ID, tmp_path).read_bytes() == DATA
    assert ranges(seen) == [None, "bytes=200000-", "bytes=300000-"]
    assert seen[-1].headers["if-range"] == '"one"'
    assert seen[-1].headers["accept-encoding"] == "identity"


def test_as_long_as_bytes_come_it_goes_on(
    planned: Planned, client: Client, tmp_path: Path, pauses: list[float]
) -> None:
    planned(*[content(DATA, cut_after=25_000)] * 25)
    assert client.download(ARTIFACT_ID, tmp_path).read_bytes() == DATA
    assert len(pauses) == 19
    assert max(pauses) <= 0.2, "each piece that came starts the pauses anew"


def test_without_bytes_it_gives_up_and_leaves_nothing(planned: Planned, client: Client, tmp_path: Path) -> None:
    seen = planned(content(DATA, cut_after=200_000), hang_up)
    with pytest.raises(ConnectionFailed):
        client.download(ARTIFACT_ID, tmp_path)
    assert os.listdir(tmp_path) == []
    assert len(ranges(seen)) == 1 + 11


def test_a_service_that_knows_no_ranges_starts_over(planned: Planned, client: Client, tmp_path: Path) -> None:
    planned(content(DATA, cut_after=200_000), content(DATA, ranges=False))
    assert client.download(ARTIFACT_ID, tmp_path).read_bytes() == DATA


def test_content_that_changed_starts_over(planned: Planned, client: Client, tmp_path: Path) -> None:
    planned(content(os.urandom(500_000), cut_after=200_000, etag='"old"'), content(DATA, etag='"new"'))
    assert client.download(ARTIFACT_ID, tmp_path).read_bytes() == DATA


def test_another_part_than_the_one_asked_for_is_not_kept(planned: Planned, client: Client, tmp_path: Path) -> None:
    seen = planned(content(DATA, cut_after=200_000), content(DATA, start_at=150_000), content(DATA))
    assert client.download(ARTIFACT_ID, tmp_path).read_bytes() == DATA
    assert ranges(seen) == [None, "bytes=200000-", None]


def test_a_range_that_does_not_exist_any_more_starts_over(planned: Planned, client: Client, tmp_path: Path) -> None:
    gone = problem(416, "range_not_satisfiable", "There are fewer bytes.")
    seen = planned(content(DATA, cut_after=200_000), gone, content(DATA))
    assert client.download(ARTIFACT_ID, tmp_path).read_bytes() == DATA
    assert ranges(seen) == [None, "bytes=200000-", None]


def test_a_flipped_bit_is_found(planned: Planned, client: Client, tmp_path: Path) -> None:
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    planned(content(wrong, digest=hashlib.sha256(wrong).digest()))
    target = tmp_path / "mine.onnx"
    target.write_bytes(b"an older one")
    with pytest.raises(IntegrityError, match="SHA-256"):
        client.download(ARTIFACT_ID, target)
    assert target.read_bytes() == b"an older one"
    assert os.listdir(tmp_path) == ["mine.onnx"]


def test_a_digest_that_came_along_is_compared(planned: Planned, client: Client, tmp_path: Path) -> None:
    planned(content(DATA, digest=b"\1" * 32))
    with pytest.raises(IntegrityError, match="Repr-Digest"):
        client.download(ARTIFACT_ID, tmp_path)
    assert os.listdir(tmp_path) == []


def test_more_than_was_promised_is_refused(planned: Planned, client: Client, tmp_path: Path) -> None:
    planned(content(DATA + b"more"))
    with pytest.raises(IntegrityError, match="More than the 500000 bytes"):
        client.download(ARTIFACT_ID, tmp_path)
    assert os.listdir(tmp_path) == []


def test_less_than_was_promised_is_refused(planned: Planned, client: Client, tmp_path: Path) -> None:
    planned(content(DATA[:-1]))
    with pytest.raises(ConnectionFailed, match="ended after 499999 of 500000"):
        client.download(ARTIFACT_ID, tmp_path)
    assert os.listdir(tmp_path) == []


def test_an_artifact_that_is_gone(planned: Planned, client: Client, tmp_path: Path) -> None:
    planned(problem(404, "artifact_not_found", "There is no artifact."))
    with pytest.raises(ApiError, match="There is no artifact"):
        client.download(ARTIFACT_ID, tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_key_does_not_follow_to_a_store(planned: Planned, client: Client, tmp_path: Path) -> None:
    with Service() as store:
        store.plan("GET", "/bucket/object", content(DATA, cut_after=200_000), content(DATA))
        seen = planned(text(307, "", Location=f"{store.url}/bucket/object?signature=abc"))
        assert client.download(ARTIFACT_ID, tmp_path).read_bytes() == DATA
        assert [request.headers.get("authorization") for request in store.seen] == [None, None]
        assert [request.headers.get("range") for request in store.seen] == [None, "bytes=200000-"]
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_store_s_own_refusal_is_told(planned: Planned, client: Client, tmp_path: Path) -> None:
    with Service() as store:
        store.plan("GET", "/object", text(403, "<Error><Code>AccessDenied</Code></Error>"))
        planned(text(307, "", Location=f"{store.url}/object"))
        with pytest.raises(ApiError, match="AccessDenied"):
            client.download(ARTIFACT_ID, tmp_path)
