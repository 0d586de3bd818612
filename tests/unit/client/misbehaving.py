"""A real HTTP server in a thread that does what a test tells it to, misbehaving included."""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

KEY = "bp_0123456789abcdef"
_KEPT_BYTES = 1 << 20


@dataclass(frozen=True)
class Seen:
    """A request as it arrived; of a long body only the beginning is kept."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes
    body_bytes: int
    body_sha256: str

    def json(self) -> Any:
        return json.loads(self.body)


class Exchange(BaseHTTPRequestHandler):
    """One request; reads its body, and answers as the plan says."""

    protocol_version = "HTTP/1.1"
    server: "Service"

    def _serve(self) -> None:
        address = urlsplit(self.path)
        step = self.server.next_step(self.command, address.path)
        if not getattr(step, "before_body", False):
            body, digest, size = bytearray(), hashlib.sha256(), 0
            for piece in self._body():
                body += piece[: max(0, _KEPT_BYTES - len(body))]
                digest.update(piece)
                size += len(piece)
            self.server.seen.append(
                Seen(
                    self.command,
                    address.path,
                    dict(parse_qsl(address.query)),
                    {name.lower(): value for name, value in self.headers.items()},
                    bytes(body),
                    size,
                    digest.hexdigest(),
                )
            )
        step(self)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def _body(self) -> Any:
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            piece = self.rfile.read(min(left, 1 << 16))
            if not piece:
                return
            left -= len(piece)
            yield piece

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def cut(self) -> None:
        """Close the connection at once."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


Step = Callable[[Exchange], None]


class Service(ThreadingHTTPServer):
    """The server: what it will do for each path, and what it has seen."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.seen: list[Seen] = []
        self._plans: defaultdict[tuple[str, str], deque[Step]] = defaultdict(deque)
        self._thread = threading.Thread(target=lambda: self.serve_forever(poll_interval=0.01), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def plan(self, method: str, path: str, *steps: Step) -> Self:
        """Say what happens to each next request; the last step is repeated for ever."""
        self._plans[method, path].extend(steps)
        return self

    def next_step(self, method: str, path: str) -> Step:
        steps = self._plans.get((method, path))
        if not steps:
            return problem(404, "not_found", f"Nothing is planned for {method} {path}.")
        return steps.popleft() if len(steps) > 1 else steps[0]

    def requests(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the plan."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


def answer(document: Any, *, status: int = 200, **headers: str) -> Step:
    """Answer with JSON; header names are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.send(
        status, json.dumps(document).encode(), {"Content-Type": "application/json", **named}
    )


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> Step:
    """Refuse with a problem document."""
    body = json.dumps({"type": "about:blank", "status": status, "code": code, "detail": detail, **more}).encode()
    named = {"Content-Type": "application/problem+json", **(headers or {})}
    return lambda exchange: exchange.send(status, body, named)


def page(items: list[Any], next_cursor: str | None = None) -> Step:
    """Answer with one page of a list."""
    return answer({"items": items, "next_cursor": next_cursor})


def text(status: int, body: str, **headers: str) -> Step:
    """Answer as a proxy does that knows nothing of us."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.send(status, body.encode(), {"Content-Type": "text/html", **named})


def not_modified(etag: str, after: float = 0.0) -> Step:
    """Answer 304, later."""

    def step(exchange: Exchange) -> None:
        time.sleep(after)
        exchange.send(304, b"", {"ETag": etag})

    return step


def hang_up(exchange: Exchange) -> None:
    """Take the request and close the connection without a word."""
    exchange.cut()


def refuse_body(status: int, code: str, detail: str) -> Step:
    """Refuse before the body has been read, and close."""
    refuse = problem(status, code, detail, {"Connection": "close"})

    def step(exchange: Exchange) -> None:
        refuse(exchange)
        exchange.cut()

    step.before_body = True  # type: ignore[attr-defined]
    return step


def silence(seconds: float) -> Step:
    """Let the client wait, then close."""

    def step(exchange: Exchange) -> None:
        time.sleep(seconds)
        exchange.cut()

    return step


def content(
    data: bytes,
    *,
    cut_after: int | None = None,
    ranges: bool = True,
    etag: str = '"one"',
    digest: bytes | None = None,
    start_at: int | None = None,
) -> Step:
    """Send bytes, as whole or from where Range asks; closes the connection after `cut_after` bytes of them.

    `digest` is what Repr-Digest says (by default the truth). `start_at` answers another range than the
    one that was asked for.
    """
    said = base64.b64encode(digest or hashlib.sha256(data).digest()).decode()

    def step(exchange: Exchange) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", exchange.headers.get("Range", ""))
        condition = exchange.headers.get("If-Range")
        partial = bool(asked) and ranges and condition in (None, etag)
        start = int(asked[1]) if asked and partial else 0
        if partial and start_at is not None:
            start = start_at
        exchange.send_response(206 if partial else 200)
        exchange.send_header("Content-Length", str(len(data) - start))
        exchange.send_header("ETag", etag)
        exchange.send_header("Repr-Digest", f"sha-256=:{said}:")
        if partial:
            exchange.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        exchange.end_headers()
        stop = len(data) if cut_after is None else start + cut_after
        exchange.wfile.write(data[start:stop])
        if stop < len(data):
            exchange.cut()

    return step
