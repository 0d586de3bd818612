"""Waiting for a job: long polls that name what is known."""

import time
from typing import Any

import pytest
from bitpress import ApiError, Client, TimedOut

from tests.unit.client import documents
from tests.unit.client.documents import JOB_ID
from tests.unit.client.misbehaving import Service, Step, answer, hang_up, not_modified, problem, silence

PATH = f"/v1/jobs/{JOB_ID}"


def running(progress: float) -> dict[str, Any]:
    return documents.job(state="running", stage="candidates", progress=progress)


def test_each_poll_names_the_answer_that_is_known(service: Service, client: Client) -> None:
    told: list[float] = []
    service.plan(
        "GET",
        PATH,
        answer(running(0.2), ETag='"1"'),
        not_modified('"1"', after=1.1),
        answer(running(0.6), ETag='"2"'),
        answer(documents.ended_job(), ETag='"3"'),
    )
    ended = client.wait(JOB_ID, on_progress=lambda job: told.append(job["progress"]))
    assert ended["state"] == "succeeded"
    assert told == [0.2, 0.6, 1.0]
    assert [seen.headers.get("if-none-match") for seen in service.seen] == [None, '"1"', '"1"', '"2"']
    assert [seen.query.get("wait") for seen in service.seen] == [None, "30", "30", "30"]


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_it_returns_a_job_however_it_ended(service: Service, client: Client, state: str) -> None:
    service.plan("GET", PATH, answer(documents.job(state=state)))
    assert client.wait(documents.job())["state"] == state  # type: ignore[arg-type]


def test_a_restart_of_the_service_is_sat_out(service: Service, client: Client, pauses: list[float]) -> None:
    down = [hang_up, hang_up, *[problem(503, "unavailable", "Starting.")] * 6]
    service.plan("GET", PATH, answer(running(0.2), ETag='"1"'), *down, answer(documents.ended_job(), ETag='"2"'))
    assert client.wait(JOB_ID)["state"] == "succeeded"
    assert len(pauses) == 8
    assert sum(pauses) > 10, "seconds that a service has to come back"


def test_a_job_that_was_deleted_meanwhile(service: Service, client: Client) -> None:
    service.plan("GET", PATH, answer(running(0.2), ETag='"1"'), problem(404, "job_not_found", "There is no job."))
    with pytest.raises(ApiError, match="There is no job"):
        client.wait(JOB_ID)


def test_waiting_has_an_end(service: Service, client: Client) -> None:
    service.plan("GET", PATH, answer(running(0.2), ETag='"1"'), not_modified('"1"', after=1.0))
    started = time.monotonic()
    with pytest.raises(TimedOut, match=rf"{JOB_ID} has not ended after 1.5 s; it goes on"):
        client.wait(JOB_ID, timeout=1.5)
    assert 1.4 < time.monotonic() - started < 3.5
    assert [seen.query.get("wait") for seen in service.seen] == [None, "2", "1"]


def test_a_look_that_ends_at_once(service: Service, client: Client) -> None:
    service.plan("GET", PATH, answer(running(0.2), ETag='"1"'))
    with pytest.raises(TimedOut):
        client.wait(JOB_ID, timeout=0)
    assert len(service.seen) == 1


def test_the_poll_outlasts_the_usual_timeout(service: Service, pauses: list[float]) -> None:
    service.plan(
        "GET", PATH, answer(running(0.2), ETag='"1"'), not_modified('"1"', after=1.5), answer(documents.ended_job())
    )
    with Client(service.url, timeout=0.5) as client:
        assert client.wait(JOB_ID)["state"] == "succeeded"
    assert pauses == []


def test_a_connection_that_died_silently_is_noticed(
    service: Service, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitpress.client._POLL_SECONDS", 0.5)
    service.plan("GET", PATH, answer(running(0.2), ETag='"1"'), silence(5), answer(documents.ended_job()))
    with Client(service.url, timeout=0.3) as client:
        assert client.wait(JOB_ID)["state"] == "succeeded"
    assert len(pauses) == 1


@pytest.mark.parametrize("same", [answer(running(0.2)), answer(running(0.2), ETag='"same"')])
def test_a_proxy_that_does_not_wait_is_not_hammered(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch, same: Step
) -> None:
    naps: list[float] = []
    monkeypatch.setattr("bitpress.client.sleep", naps.append)
    service.plan("GET", PATH, same, same, same, answer(documents.ended_job()))
    client.wait(JOB_ID)
    assert len(naps) >= 2
