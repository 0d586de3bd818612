"""What is tried again, how often, and after how long."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from bitpress import ApiError, Client, ConnectionFailed, TimedOut
from bitpress.retries import Backoff

from tests.unit.client import documents
from tests.unit.client.documents import JOB_ID, MODEL_ID
from tests.unit.client.misbehaving import KEY, Service, answer, hang_up, problem, silence, text

MODEL = f"/v1/models/{MODEL_ID}"
CANCEL = f"/v1/jobs/{JOB_ID}/cancel"
BUSY = problem(503, "unavailable", "The store cannot be reached.", retryable=True)


@pytest.mark.parametrize(
    "trouble", [BUSY, problem(429, "busy", "Slow down."), text(502, "<h1>Bad Gateway</h1>"), text(504, ""), hang_up]
)
def test_a_passing_trouble_is_sat_out(service: Service, client: Client, pauses: list[float], trouble: object) -> None:
    service.plan("GET", MODEL, trouble, trouble, answer(documents.model()))  # type: ignore[arg-type]
    assert client.model(MODEL_ID)["name"] == "net"
    assert len(pauses) == 2
    assert 0.1 <= pauses[0] <= 0.2 <= pauses[1] <= 0.4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_a_lasting_trouble_is_told_at_once(service: Service, client: Client, pauses: list[float], status: int) -> None:
    service.plan("GET", MODEL, problem(status, "some_code", "No."))
    with pytest.raises(ApiError, match=r"No\.") as caught:
        client.model(MODEL_ID)
    assert (caught.value.status, caught.value.code) == (status, "some_code")
    assert pauses == []


def test_it_gives_up(service: Service, client: Client, pauses: list[float]) -> None:
    service.plan("GET", MODEL, BUSY)
    with pytest.raises(ApiError, match="store cannot be reached") as caught:
        client.model(MODEL_ID)
    assert caught.value.retryable
    assert (len(service.seen), len(pauses)) == (5, 4)


def test_retry_after_in_seconds_is_kept(service: Service, client: Client, pauses: list[float]) -> None:
    busy = problem(503, "unavailable", "Later.", {"Retry-After": "7"})
    service.plan("GET", MODEL, busy, answer(documents.model()))
    client.model(MODEL_ID)
    assert 7 < pauses[0] < 8


def test_retry_after_as_a_date_is_kept(service: Service, client: Client, pauses: list[float]) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    service.plan("GET", MODEL, text(503, "", Retry_After=moment), answer(documents.model()))
    client.model(MODEL_ID)
    assert 17 < pauses[0] < 21


def test_nobody_hangs_for_an_hour(service: Service, client: Client, pauses: list[float]) -> None:
    service.plan("GET", MODEL, problem(503, "unavailable", "Later.", {"Retry-After": "3600"}))
    with pytest.raises(ApiError) as caught:
        client.model(MODEL_ID)
    assert caught.value.retry_after == 3600
    assert pauses == []


def test_pauses_grow_to_a_limit_and_are_not_in_step() -> None:
    backoff = Backoff(attempts=30, first=0.2, longest=8.0)
    tries = [backoff.pause(10) for _ in range(50)]
    assert all(pause is not None and 4.0 <= pause <= 8.0 for pause in tries)
    assert len(set(tries)) > 1
    assert backoff.pause(30) is None


def test_a_submission_has_one_key_over_its_tries(service: Service, client: Client) -> None:
    service.plan("POST", "/v1/jobs", hang_up, BUSY, answer(documents.job(), status=202))
    client.submit(model=MODEL_ID, recipe={"technique": "dynamic_int8"})
    client.submit(model=MODEL_ID, recipe={"technique": "dynamic_int8"})
    keys = [seen.headers["idempotency-key"] for seen in service.seen]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]
    assert len({seen.body for seen in service.seen}) == 1
    assert service.seen[0].json() == {"model": MODEL_ID, "recipe": {"technique": "dynamic_int8"}}


def test_a_submission_can_bring_its_own_key(service: Service, client: Client) -> None:
    service.plan("POST", "/v1/jobs", answer(documents.job(), status=202))
    client.submit({"model": MODEL_ID}, idempotency_key="mine")
    assert service.seen[0].headers["idempotency-key"] == "mine"


def test_a_cancel_whose_answer_was_lost_has_succeeded(service: Service, client: Client) -> None:
    service.plan("POST", CANCEL, hang_up, problem(409, "job_ended", "The job has ended already: cancelled."))
    service.plan("GET", f"/v1/jobs/{JOB_ID}", answer(documents.job(state="cancelled")))
    assert client.cancel(JOB_ID)["state"] == "cancelled"


def test_a_cancel_that_comes_too_late_is_told_so(service: Service, client: Client) -> None:
    service.plan("POST", CANCEL, hang_up, problem(409, "job_ended", "The job has ended already: succeeded."))
    service.plan("GET", f"/v1/jobs/{JOB_ID}", answer(documents.ended_job()))
    with pytest.raises(ApiError, match="succeeded"):
        client.cancel(JOB_ID)


def test_a_first_cancel_that_is_refused_is_refused(service: Service, client: Client) -> None:
    service.plan("POST", CANCEL, problem(409, "job_ended", "The job has ended already: cancelled."))
    with pytest.raises(ApiError, match="cancelled"):
        client.cancel(JOB_ID)


def test_a_delete_whose_answer_was_lost_has_succeeded(service: Service, client: Client) -> None:
    service.plan("DELETE", MODEL, hang_up, problem(404, "model_not_found", "There is no such model."))
    client.delete(MODEL_ID)
    assert len(service.seen) == 2


def test_a_delete_of_nothing_is_refused(service: Service, client: Client) -> None:
    service.plan("DELETE", MODEL, problem(404, "model_not_found", "There is no such model."))
    with pytest.raises(ApiError, match="no such model"):
        client.delete(MODEL_ID)


def test_a_busy_answer_is_no_sign_that_a_delete_succeeded(service: Service, client: Client) -> None:
    """A first try that was answered, even by 503, may still have been carried out by what stands behind a proxy."""
    service.plan("DELETE", MODEL, text(504, ""), problem(404, "model_not_found", "There is no such model."))
    client.delete(MODEL_ID)


def test_a_service_that_is_not_there(pauses: list[float]) -> None:
    with Service() as gone:
        url = gone.url
    with Client(url, KEY) as client, pytest.raises(ConnectionFailed, match=f"Cannot reach {url}: .*refused") as caught:
        client.model(MODEL_ID)
    assert not caught.value.sent
    assert len(pauses) == 4


def test_a_service_that_says_nothing(service: Service, pauses: list[float]) -> None:
    service.plan("GET", MODEL, silence(3))
    with Client(service.url, KEY, timeout=0.2, retries=1) as client, pytest.raises(TimedOut, match="in time"):
        client.model(MODEL_ID)
    assert len(service.seen) == 2
    assert len(pauses) == 1
