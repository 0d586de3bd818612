"""Bitpress, from Python: upload a model, get back the fastest artifact that keeps what it must.

from bitpress import Client

with Client() as service:
    model = service.wait_ready(service.upload_model("net.onnx"))
    job = service.submit(model=model["id"], recipe={"technique": "dynamic_int8"})
    job = service.wait(job)
    service.download(job["artifacts"][0], "net.int8.onnx")
"""

from typing import TYPE_CHECKING, Any

from bitpress.errors import (
    ApiError,
    BitpressError,
    ConnectionFailed,
    FieldError,
    InputRejected,
    IntegrityError,
    TimedOut,
)

if TYPE_CHECKING:
    from bitpress.client import Client

__version__ = "0.1.0"
__all__ = [
    "ApiError",
    "BitpressError",
    "Client",
    "ConnectionFailed",
    "FieldError",
    "InputRejected",
    "IntegrityError",
    "TimedOut",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # httpx is loaded when it is first needed: `bitpress --help` answers without it.
    if name == "Client":
        from bitpress.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
