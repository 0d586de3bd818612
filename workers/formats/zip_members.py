"""Members of a ZIP archive, one after the other."""

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from app.errors import RejectedInput
from workers.formats.archives import Member, Meter, damaged, unsafe

# The directory is read whole into memory before a single member is: 10,000 entries take about a MiB.
_DIRECTORY_BYTES = 32 << 20
_END, _END_BYTES = b"PK\x05\x06", 22
_LOCATOR, _LOCATOR_BYTES, _END64_BYTES = b"PK\x06\x07", 20, 56
_LONGEST_COMMENT = 65_535
_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 1

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, IndexError, OverflowError)
"""What Python's zipfile raises where an archive lies about itself (seen by fuzzing)."""


def open_zip(path: Path, *, what: str = "archive") -> zipfile.ZipFile:
    """Open a ZIP archive whose directory is of a sensible size and whose members stand side by side.

    Raises RejectedInput `truncated`, `archive_too_large` or `archive_unsafe`.
    """
    _check_directory(path, what)
    try:
        archive = zipfile.ZipFile(path)
    except (*DAMAGE, NotImplementedError) as error:
        raise damaged(what) from error
    try:
        _check_places(archive, what)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_directory(path: Path, what: str) -> None:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_BYTES - _LONGEST_COMMENT - _LOCATOR_BYTES - _END64_BYTES))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise damaged(what)
    length = int.from_bytes(tail[at + 12 : at + 16], "little")
    # Where the 64-bit end record and its locator stand right before this one, Python believes them instead.
    locator = at - _LOCATOR_BYTES
    if tail[max(locator, 0) : at].startswith(_LOCATOR):
        record = max(locator - _END64_BYTES, 0)
        length = int.from_bytes(tail[record + 40 : record + 48], "little")
    if length > _DIRECTORY_BYTES:
        raise RejectedInput(
            "The archive lists more members than are taken. Pack only what belongs to the upload.",
            code="archive_too_large",
        )


def _check_places(archive: zipfile.ZipFile, what: str) -> None:
    members = sorted(archive.infolist(), key=lambda info: info.header_offset)
    # Cut off, an archive that holds another one seems to be that one, with something in front.
    if members and members[0].header_offset > 0:
        raise damaged(what)
    # Members that share their bytes are how a ZIP of 42 KB becomes petabytes (D. Fifield, 2019).
    ends = [info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size for info in members]
    starts = [*(info.header_offset for info in members), archive.start_dir]
    for info, end, following in zip(members, ends, starts[1:], strict=True):
        if end > following:
            raise unsafe(f"The archive's member {info.filename[:200]!r} overlaps what stands behind it.")


def forbidden(info: zipfile.ZipInfo) -> str | None:
    """Why a member cannot be taken, or None."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    if kind == stat.S_IFLNK:
        return "a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a device, pipe or socket"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compressed by another method than deflate"
    if "\0" in info.orig_filename:
        return "named with a NUL"
    return None


def members(path: Path, meter: Meter) -> Iterator[Member]:
    """Every member in the archive's order. Raises RejectedInput `truncated`, `archive_unsafe`."""
    with open_zip(path) as archive:
        for info in archive.infolist():
            if (why := forbidden(info)) is not None or info.is_dir():
                yield Member(info.filename, forbidden=why)
                continue
            try:
                with archive.open(info) as stream:
                    yield Member(info.filename, read=lambda size, stream=stream: _read(stream, size))  # type: ignore[misc]
            except (*DAMAGE, NotImplementedError, RuntimeError) as error:
                raise damaged() from error


def _read(stream: zipfile.ZipExtFile, size: int) -> bytes:
    try:
        return stream.read(size)
    except DAMAGE as error:
        raise damaged() from error
