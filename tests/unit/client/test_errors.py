"""What goes wrong comes out as one of the client's own errors, with everything that the service said."""

from collections.abc import Iterator

import httpx
import pytest
from bitpress import ApiError, BitpressError, Client, ConnectionFailed, FieldError
from bitpress import transport as boundary

from tests.unit.client.documents import JOB_ID, MODEL_ID
from tests.unit.client.misbehaving import Service, problem, text

MODEL = f"/v1/models/{MODEL_ID}"


def test_a_problem_document_is_read_in_full(service: Service, client: Client) -> None:
    errors = [
        {"pointer": "/recipe/calibration/percentile", "code": "invalid_value", "detail": "Too much."},
        {"pointer": "/goal", "code": "contradiction", "detail": "Nothing can be both."},
    ]
    refused = problem(422, "invalid_value", "Two things are wrong.", errors=errors, stage="gate", retryable=True)
    service.plan("POST", "/v1/jobs", refused)
    with pytest.raises(ApiError) as caught:
        client.submit({"model": MODEL_ID})
    error = caught.value
    assert str(error) == error.detail == "Two things are wrong."
    assert (error.status, error.code, error.stage, error.retryable) == (422, "invalid_value", "gate", True)
    assert error.errors == (
        FieldError("/recipe/calibration/percentile", "invalid_value", "Too much."),
        FieldError("/goal", "contradiction", "Nothing can be both."),
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<html>\n<h1>Forbidden</h1></html>", "answered 403 Forbidden: <html> <h1>Forbidden</h1></html>"),
        ("", "answered 403 Forbidden: an empty body"),
        ("x" * 500, "x" * 120 + "…"),
    ],
)
def test_a_proxy_that_knows_no_problem_documents(service: Service, client: Client, body: str, said: str) -> None:
    service.plan("GET", MODEL, text(403, body))
    with pytest.raises(ApiError) as caught:
        client.model(MODEL_ID)
    assert said in str(caught.value)
    assert caught.value.code == "http_403"


@pytest.mark.parametrize("body", ["{", "[]", "null", '"no"', '{"detail": 5, "errors": 7}'])
def test_a_broken_problem_document(service: Service, client: Client, body: str) -> None:
    service.plan("GET", MODEL, text(400, body, Content_Type="application/problem+json"))
    with pytest.raises(ApiError) as caught:
        client.model(MODEL_ID)
    assert caught.value.status == 400


def test_an_address_that_has_moved(service: Service, client: Client) -> None:
    service.plan("GET", MODEL, text(308, "", Location="https://elsewhere.example/v1"))
    with pytest.raises(ApiError, match=r"has moved to https://elsewhere\.example/v1: use that address"):
        client.model(MODEL_ID)


def test_something_that_is_no_bitpress_service(service: Service, client: Client) -> None:
    service.plan("GET", MODEL, text(200, "<h1>Welcome to nginx!</h1>"))
    with pytest.raises(ConnectionFailed, match=r"does not answer like a Bitpress service: .*Welcome to nginx"):
        client.model(MODEL_ID)


@pytest.mark.parametrize("thing", ["", "mdl", "job_01", "mdl_../jobs", "mdl_a/b", "mdl_a?b=c", "mdl_ä"])
def test_an_id_of_another_kind_never_leaves(service: Service, client: Client, thing: str) -> None:
    with pytest.raises(ValueError, match="is not an id of the form mdl_…"):
        client.model(thing)
    assert service.seen == []


def test_a_log_is_asked_for_by_its_job(service: Service, client: Client) -> None:
    service.plan("GET", f"/v1/jobs/{JOB_ID}/log", text(200, "quantizing…\n", Content_Type="text/plain; charset=utf-8"))
    assert client.log(JOB_ID) == "quantizing…\n"


def _errors_of_httpx(of: type[Exception]) -> Iterator[type[Exception]]:
    yield of
    for child in of.__subclasses__():
        yield from _errors_of_httpx(child)


@pytest.mark.parametrize(
    "foreign",
    sorted(
        {*_errors_of_httpx(httpx.HTTPError), *_errors_of_httpx(httpx.StreamError), httpx.InvalidURL},
        key=str,
    ),
    ids=str,
)
def test_no_error_of_httpx_escapes(foreign: type[Exception]) -> None:
    error = foreign.__new__(foreign)
    Exception.__init__(error, "something broke")
    with pytest.raises(BitpressError, match="http://here"), boundary._our_errors("http://here"):
        raise error
