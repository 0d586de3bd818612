"""Files on their way: uploads read from disk piece by piece, downloads that survive a cut."""

import base64
import binascii
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bitpress.errors import ApiError, ConnectionFailed, IntegrityError
from bitpress.transport import Transport

Progress = Callable[[int, int], None]
"""Is told the bytes that have passed and the bytes there are."""


class ReportingFile(io.FileIO):
    """A file for reading that says how far it has been read; one that is begun anew says so too."""

    def __init__(self, path: Path, progress: Progress | None) -> None:
        super().__init__(path, "rb")
        self._progress = progress
        self._bytes = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._progress is not None:
            self._progress(self.tell(), self._bytes)
        return data


@contextmanager
def multipart(path: Path, fields: Mapping[str, str], progress: Progress | None) -> Iterator[Mapping[str, Any]]:
    """Open a file as the part `file` of a form; httpx reads it in pieces of 64 KB while it sends."""
    with ReportingFile(path, progress) as file:
        # The fields come first, so that the service knows them before the bytes.
        yield {"data": fields, "files": {"file": (path.name, file, "application/octet-stream")}}


def download(
    transport: Transport,
    path: str,
    target: Path,
    *,
    size: int,
    sha256: str,
    progress: Progress | None = None,
) -> None:
    """Bring content to `target`, whole and verified or not at all.

    It grows beside `target` under a name of its own and takes the target's place when its size and
    SHA-256 are right. A cut connection is taken up where it broke. Raises `IntegrityError`, and
    whatever a request raises.
    """
    partial = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.part")
    file = partial.open("xb")
    try:
        with file:
            content = _Content(file, size, progress)
            transport.repeat(lambda: content.fetch(transport, path), moved=lambda: content.received)
            content.verify(sha256)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class _Content:
    """Content that has come in part, and the digest of what has come."""

    def __init__(self, file: io.BufferedWriter, size: int, progress: Progress | None) -> None:
        self._file = file
        self._size = size
        self._progress = progress
        self._digest = hashlib.sha256()
        self._etag: str | None = None
        self.received = 0
        self.promised: bytes | None = None

    def fetch(self, transport: Transport, path: str) -> None:
        """Ask for what is missing, and keep what comes."""
        if self.received == self._size > 0:
            return
        try:
            with transport.stream(path, self._headers()) as response:
                if self.received and not self._continues(response):
                    self._restart()
                    if response.status_code == 206:
                        raise ConnectionFailed("Another part of the content came than the one asked for.")
                self._etag = _strong(response.headers.get("etag"))
                self._promise(response.headers.get("repr-digest"))
                for piece in response.iter_raw():
                    self._keep(piece)
        except ApiError as error:
            if error.status != 416 or not self.received:
                raise
            # The content is not what it was when the first part came.
            self._restart()
            raise ConnectionFailed("The content changed while it was downloaded.") from error
        if self.received < self._size:
            raise ConnectionFailed(f"The download ended after {self.received} of {self._size} bytes.")

    def verify(self, sha256: str) -> None:
        """Compare with what the service knows of the content, and with what came along with it."""
        found = self._digest.digest()
        if found.hex() != sha256.lower():
            raise IntegrityError(f"The download's SHA-256 is {found.hex()}, not {sha256}; nothing was kept. Try again.")
        if self.promised is not None and found != self.promised:
            raise IntegrityError(
                f"The download's SHA-256 is {found.hex()}, not {self.promised.hex()} as its Repr-Digest says; "
                "nothing was kept. Try again."
            )

    def _headers(self) -> dict[str, str]:
        # Compressed on its way, content could be neither resumed nor compared.
        headers = {"Accept-Encoding": "identity"}
        if self.received:
            headers["Range"] = f"bytes={self.received}-"
            if self._etag is not None:
                headers["If-Range"] = self._etag
        return headers

    def _continues(self, response: httpx.Response) -> bool:
        there = response.headers.get("content-range", "")
        return response.status_code == 206 and there.startswith(f"bytes {self.received}-")

    def _keep(self, piece: bytes) -> None:
        self.received += len(piece)
        if self.received > self._size:
            raise IntegrityError(f"More than the {self._size} bytes that were promised came; nothing was kept.")
        self._file.write(piece)
        self._digest.update(piece)
        if self._progress is not None:
            self._progress(self.received, self._size)

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.received = 0

    def _promise(self, header: str | None) -> None:
        """Read the SHA-256 of a Repr-Digest header (RFC 9530), where it has one."""
        for part in (header or "").split(","):
            name, _, value = part.strip().partition("=")
            if name == "sha-256" and value[:1] == value[-1:] == ":":
                try:
                    self.promised = base64.b64decode(value[1:-1], validate=True)
                except binascii.Error:
                    self.promised = None


def _strong(etag: str | None) -> str | None:
    return None if etag is None or etag.startswith("W/") else etag
