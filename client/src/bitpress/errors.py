"""Every failure that the client expects.

    BitpressError
    ├── ConnectionFailed    no service is known, or it cannot be reached
    ├── TimedOut            no answer, or no end, within the time allowed
    ├── ApiError            the service refused, with a problem document (RFC 9457)
    ├── InputRejected       the service looked into a model or dataset and cannot use it
    └── IntegrityError      the bytes that came are not the bytes that were promised

Each message is a sentence for a person. Failures of the local disk stay what they are: `OSError`.
"""

from dataclasses import dataclass
from typing import Any


class BitpressError(Exception):
    """An expected failure; its text is a sentence."""


class ConnectionFailed(BitpressError):
    """The service cannot be reached. `sent`: the request may have arrived nonetheless."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class TimedOut(BitpressError):
    """No answer came, or something did not end, within the time allowed."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with one field; `pointer` is a JSON pointer into the request (RFC 6901)."""

    pointer: str
    code: str
    detail: str


class ApiError(BitpressError):
    """The service refused a request.

    `status` is HTTP's, `code` is stable and meant for programs, `errors` are all the fields at
    fault, `stage` is the job stage it concerns, `retryable` says whether the same request can succeed
    later. `retry_after` is in seconds. `repeated`: an earlier try of this request may have succeeded.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        stage: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.stage = stage
        self.retryable = retryable
        self.retry_after = retry_after
        self.repeated = False


class InputRejected(BitpressError):
    """A model or dataset that was uploaded cannot be used; `document` is what the service says of it."""

    def __init__(self, message: str, *, code: str | None, document: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.document = document


class IntegrityError(BitpressError):
    """The bytes that came are not those that the service promised; nothing was written."""
