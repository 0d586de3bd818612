"""Every failure that Bitpress expects, and nothing else.

    BitpressError
    ├── InvalidRequest          the caller can mend the request (errors[] say where)
    ├── Unauthenticated         no key, or an unknown one
    ├── Forbidden               the deployment's settings do not allow it
    ├── NotFound                no such thing, or no longer
    ├── Conflict                the thing is in a state that does not allow it
    ├── PreconditionFailed      a header named a state that is not the present one
    ├── RangeNotSatisfiable     a byte range outside the content
    ├── PayloadTooLarge         more bytes than the deployment accepts
    ├── UnsupportedMedia        a body that is neither multipart nor JSON
    ├── Unavailable             a part of the service cannot be reached now
    │   └── StorageFull         the object store or the disk has no room left
    ├── RejectedInput           an uploaded model or dataset that cannot be used
    ├── StepError               a job's step failed in a way that it foresaw
    └── SandboxError            the confined child broke a limit, died or answered nonsense

`code` is stable and meant for programs; `detail` is a sentence for a person and says what to
do. HTTP statuses are given in one place only: `app.api.problems`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with one field.

    `pointer` is an RFC 6901 JSON pointer into the request body, "" for the whole of it.
    """

    pointer: str
    code: str
    detail: str


class BitpressError(Exception):
    """An expected failure: a stable code and a sentence that says what to do.

    `stage` names the job stage it happened in, `retryable` says whether the same request can
    succeed later without being changed.
    """

    code = "internal_error"
    retryable = False

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        stage: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.stage = stage
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable

    def as_dict(self) -> dict[str, Any]:
        """The failure as plain data, as rows keep it and problem documents carry it."""
        return {
            "code": self.code,
            "detail": self.detail,
            "errors": [asdict(error) for error in self.errors],
            "stage": self.stage,
            "retryable": self.retryable,
        }


class InvalidRequest(BitpressError):
    code = "invalid_request"


class Unauthenticated(BitpressError):
    code = "unauthenticated"


class Forbidden(BitpressError):
    code = "forbidden"


class NotFound(BitpressError):
    code = "not_found"


class Conflict(BitpressError):
    code = "conflict"


class PreconditionFailed(BitpressError):
    code = "precondition_failed"


class RangeNotSatisfiable(BitpressError):
    """`content_bytes` is the size that the range had to fit into."""

    code = "range_not_satisfiable"

    def __init__(self, detail: str, *, content_bytes: int) -> None:
        super().__init__(detail)
        self.content_bytes = content_bytes


class PayloadTooLarge(BitpressError):
    code = "payload_too_large"


class UnsupportedMedia(BitpressError):
    code = "unsupported_media_type"


class Unavailable(BitpressError):
    code = "unavailable"
    retryable = True


class StorageFull(Unavailable):
    code = "storage_full"


class RejectedInput(BitpressError):
    code = "input_rejected"


class StepError(BitpressError):
    code = "step_failed"


class SandboxError(BitpressError):
    code = "sandbox_failed"
