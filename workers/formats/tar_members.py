"""Members of a tar archive, gzipped or plain, one after the other and in one pass."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from app.errors import RejectedInput
from workers.formats.archives import CHUNK, Member, Meter, damaged
from workers.formats.signatures import file_head, signature

# Between two members stand headers only; long names and pax records take a few KiB at most, yet tarfile
# reads them whole into memory, whatever length they claim.
_HEADERS_BYTES = 1 << 20

_DAMAGE = (
    tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError, OverflowError, IndexError, KeyError,
    TypeError, AttributeError, RecursionError,
)  # fmt: skip


class _Metered:
    """A stream that gives no more than it is allowed to until it is allowed more."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.allowed = 0

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self.allowed -= len(block)
        if self.allowed < 0:
            raise RejectedInput(
                "The archive has headers longer than any name needs, as only an archive made to fill memory has. Pack "
                "the files again with plain tar.",
                code="archive_too_large",
            )
        return block


def members(path: Path, meter: Meter) -> Iterator[Member]:
    """Every member in the archive's order. Raises RejectedInput `truncated`, `archive_too_large`."""
    with path.open("rb") as file:
        packed = signature(file_head(path)) == "gzip"
        stream = _Metered(gzip.GzipFile(fileobj=file) if packed else file)  # type: ignore[arg-type]
        stream.allowed = _HEADERS_BYTES
        begun = False
        try:
            with tarfile.open(fileobj=stream, mode="r|", errorlevel=2) as archive:  # type: ignore[call-overload]
                begun = True
                while (info := archive.next()) is not None:
                    # The stream reader keeps every member it has seen; nothing here looks back.
                    archive.members = []
                    yield _member(archive, info, stream)
                    stream.allowed = _HEADERS_BYTES
        except _DAMAGE as error:
            raise _no_tar() if packed and not begun else damaged() from error


def _no_tar() -> RejectedInput:
    return RejectedInput(
        "The file is gzipped but is no tar archive. Upload the .onnx file itself, or a .zip or .tar.gz of a set.",
        code="not_onnx",
    )


def _member(archive: tarfile.TarFile, info: tarfile.TarInfo, stream: _Metered) -> Member:
    if info.isdir():
        return Member(info.name)
    if info.issym() or info.islnk():
        return Member(info.name, forbidden="a link")
    if not info.isreg():
        return Member(info.name, forbidden="a device, pipe or another thing that is no plain file")
    if info.issparse():
        return Member(info.name, forbidden="a sparse file")
    content = archive.extractfile(info)
    if content is None or info.size < 0:
        raise damaged()

    def read(size: int) -> bytes:
        # What is read ahead in blocks belongs to the headers' share.
        stream.allowed = max(stream.allowed, 0) + min(size, CHUNK) + _HEADERS_BYTES
        try:
            return content.read(size)
        except _DAMAGE as error:
            raise damaged() from error

    return Member(info.name, read=read)
