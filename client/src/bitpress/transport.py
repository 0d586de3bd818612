"""HTTP as the rest of the client sees it: requests that are repeated, and errors that are our own."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from bitpress import __version__
from bitpress.discovery import Service
from bitpress.errors import ApiError, BitpressError, ConnectionFailed, FieldError, TimedOut
from bitpress.retries import PATIENT, Backoff, repeat

# A proxy named in the environment is for the world outside, never for a service on this machine.
_LOOPBACK = ("all://localhost", "all://127.0.0.1", "all://[::1]")


def _no_body() -> AbstractContextManager[Mapping[str, Any]]:
    return nullcontext({})


class Transport:
    """Sends requests to one service.

    `timeout` is in seconds and holds for connecting, for each read and for each write; `backoff` is
    used where a call names none.
    """

    def __init__(self, service: Service, *, timeout: float, backoff: Backoff) -> None:
        self.url = service.url
        self.timeout = timeout
        self._backoff = backoff
        headers = {"User-Agent": f"bitpress/{__version__}", "Accept": "application/json"}
        if service.key is not None:
            headers["Authorization"] = f"Bearer {service.key}"
        # A connection is dropped before the service's own idle limit (uvicorn: 5 s) can cut it
        # under a request that must not be sent twice.
        limits = httpx.Limits(max_connections=20, keepalive_expiry=2.0)
        with _our_errors(service.url):
            self._http = httpx.Client(
                base_url=service.url,
                headers=headers,
                timeout=timeout,
                limits=limits,
                mounts=dict.fromkeys(_LOOPBACK),
            )

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool | None = None,
        backoff: Backoff | None = None,
        until: float | None = None,
        patience: float = 0.0,
        body: Callable[[], AbstractContextManager[Mapping[str, Any]]] = _no_body,
        **options: Any,
    ) -> httpx.Response:
        """Send a request and return the answer, which is 2xx or 304; raises what `bitpress.errors` draws.

        `repeatable` defaults to what HTTP says of the method. `patience` is how many seconds longer
        than the usual timeout the service may think. `body` opens what one try uses up, such as a file.
        """
        if repeatable is None:
            repeatable = method in {"GET", "HEAD", "PUT", "DELETE"}
        timeout = httpx.Timeout(self.timeout, read=self.timeout + patience)

        def attempt() -> httpx.Response:
            with _our_errors(self.url), body() as parts:
                response = self._http.request(method, path, timeout=timeout, **options, **parts)
            _raise_for_status(response)
            return response

        return repeat(attempt, backoff or self._backoff, repeatable=repeatable, until=until)

    def json(self, method: str, path: str, **options: Any) -> Any:
        """Send a request as `send` does and return its JSON."""
        return decoded(self.send(method, path, **options))

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Open content once, without trying again. Redirects are followed, the key stays behind.

        Errors while the body is read become our own too.
        """
        with (
            _our_errors(self.url),
            self._http.stream("GET", path, headers={**headers, "Accept": "*/*"}, follow_redirects=True) as response,
        ):
            if not response.is_success:
                response.read()
            _raise_for_status(response)
            yield response

    def repeat(self, call: Callable[[], None], *, moved: Callable[[], int]) -> None:
        """Repeat, with patience, a call that can go on where it broke off."""
        repeat(call, PATIENT, moved=moved)


def decoded(response: httpx.Response) -> Any:
    """Read an answer's JSON."""
    try:
        return response.json()
    except ValueError:
        raise ConnectionFailed(f"{response.url} does not answer like a Bitpress service: {_gist(response)}") from None


@contextmanager
def _our_errors(url: str) -> Iterator[None]:
    """Turn every error of httpx into one of ours."""
    try:
        yield
    except BitpressError:
        raise
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ConnectionFailed(f"Cannot reach {url}: {_reason(error)}.", sent=False) from error
    except httpx.TimeoutException as error:
        raise TimedOut(f"{url} did not answer in time.") from error
    except httpx.TransportError as error:
        raise ConnectionFailed(f"The connection to {url} broke: {_reason(error)}.") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise ConnectionFailed(f"{url} does not answer like a Bitpress service: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _raise_for_status(response: httpx.Response) -> None:
    if response.is_success or response.status_code == 304:
        return
    problem: Any = None
    if "json" in response.headers.get("content-type", ""):
        try:
            problem = response.json()
        except ValueError:
            problem = None
    if not isinstance(problem, dict):
        problem = {}
    detail = problem.get("detail") or problem.get("title")
    raise ApiError(
        response.status_code,
        str(problem.get("code") or f"http_{response.status_code}"),
        detail if isinstance(detail, str) else _plain_refusal(response),
        errors=tuple(_field_errors(problem.get("errors"))),
        stage=problem.get("stage"),
        retryable=bool(problem.get("retryable", False)),
        retry_after=_retry_after(response.headers.get("retry-after")),
    )


def _field_errors(found: Any) -> Iterator[FieldError]:
    for error in found if isinstance(found, list) else []:
        if isinstance(error, dict):
            yield FieldError(*(str(error.get(part) or "") for part in ("pointer", "code", "detail")))


def _plain_refusal(response: httpx.Response) -> str:
    """Speak for what is between us and the service, which knows no problem documents."""
    if response.has_redirect_location:
        return f"{response.url} has moved to {response.headers['location']}: use that address."
    return f"{response.url} answered {response.status_code} {response.reason_phrase}: {_gist(response)}"


def _gist(response: httpx.Response) -> str:
    text = " ".join(response.text.split())
    return text if 0 < len(text) <= 120 else (text[:120] + "…" if text else "an empty body")


def _retry_after(value: str | None) -> float | None:
    """Read a Retry-After header, seconds or a date (RFC 9110 section 10.2.3), as seconds from now."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.fromtimestamp(time.time(), UTC)).total_seconds())
