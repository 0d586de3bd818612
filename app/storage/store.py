"""The object store: one interface over S3 and its like, a local folder, and memory."""

import asyncio
import contextlib
import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import LocalStore, MemoryStore, S3Store

from app.errors import NotFound, PayloadTooLarge, RangeNotSatisfiable, Unavailable
from app.storage.failures import translated

if TYPE_CHECKING:
    # obstore has these for type checkers only.
    from obstore import AsyncWritableFile, GetOptions, GetResult

logger = logging.getLogger(__name__)

MiB = 1 << 20

# What is hashed, written and read at a time. Smaller blocks cost more crossings between Python
# and obstore, larger ones more memory; from 1 MiB on the rate no longer rises
# (benchmarks/storage_throughput.py).
BLOCK_BYTES = MiB

# How long a failed upload waits for its parts to be removed before it reports the failure.
ABANDON_SECONDS = 5.0

# obstore writes a folder's object beside its place as `<name>#<number>` and renames it at the end.
_UNFINISHED = re.compile(r"#\d+$")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What was stored: how many bytes, and their SHA-256 in lower-case hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object as a listing shows it."""

    location: str
    bytes: int
    modified: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How one kind of store moves bytes best.

    An upload holds at most `concurrent_parts + 1` parts of `part_bytes` in memory.
    """

    part_bytes: int
    concurrent_parts: int
    reads_by_range: bool


# A folder is read by ranges, because obstore streams a file in pieces of 8 KiB, each a task of its
# own: 150 to 290 MB/s against 1,700 by ranges of 1 MiB. S3 is read as one stream, because each
# range is a request: 30 MB/s against 170 (2 cores, seaweedfs 4.48).
LOCAL_TRANSFER = Transfer(part_bytes=2 * MiB, concurrent_parts=4, reads_by_range=True)
# S3 wants parts of 5 MiB or more, and at most 10,000 of them.
S3_TRANSFER = Transfer(part_bytes=8 * MiB, concurrent_parts=4, reads_by_range=False)


class ObjectStore:
    """Objects under locations such as `models/mdl_01jd…/content`.

    The methods of the server's event loop are coroutines (`put_stream`, `stream`); the rest block
    and are for workers and threads. Each raises only `app.errors`: NotFound, StorageFull
    (`storage_full`) and Unavailable (`storage_unavailable`) besides what it names itself.

    A location is written once and then only read or deleted: a reader of a folder takes its bytes
    range by range. What a killed process leaves of an unfinished upload is not listed; in a folder
    `discard_unfinished` removes it, in S3 a lifecycle rule for incomplete multipart uploads does.
    """

    def __init__(
        self, backend: LocalStore | MemoryStore | S3Store, transfer: Transfer, folder: Path | None = None
    ) -> None:
        self._backend = backend
        self._transfer = transfer
        self._folder = folder
        self._clearing: set[asyncio.Task[None]] = set()

    # On the event loop

    async def put_stream(
        self, location: str, chunks: AsyncIterator[bytes], *, max_bytes: int | None = None
    ) -> StoredObject:
        """Store what `chunks` yields, in bounded memory and hashed on the way.

        All or nothing: when the source, the store or a cancellation ends it early, nothing of it
        remains. What the source raises passes unchanged. Raises PayloadTooLarge as soon as more
        than `max_bytes` have come.
        """
        writer = obstore.open_writer_async(
            self._backend,
            location,
            buffer_size=self._transfer.part_bytes,
            max_concurrency=self._transfer.concurrent_parts,
        )
        loop = asyncio.get_running_loop()
        digest = hashlib.sha256()
        hashing: asyncio.Future[None] | None = None
        size = 0
        try:
            async for block in _blocks(chunks, max_bytes):
                if hashing is not None:
                    await hashing
                # In a thread: a block takes about 1 ms, in which the loop can receive the next.
                hashing = loop.run_in_executor(None, digest.update, block)
                size += len(block)
                with translated(writing=True):
                    # Shielded, because obstore forgets an upload whose start is cancelled.
                    await asyncio.shield(writer.write(block))
            if hashing is not None:
                await hashing
        except BaseException:
            await self._clear(_abort(writer, location))
            raise
        closing = asyncio.ensure_future(writer.close())
        try:
            with translated(writing=True):
                await asyncio.shield(closing)
        except asyncio.CancelledError:
            # Completion cannot be stopped half-way: it ends, and then the object goes.
            await self._clear(self._take_back(closing, location))
            raise
        return StoredObject(size, digest.hexdigest())

    async def stream(self, location: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Open an object and return its bytes from `start` to before `end`, in blocks.

        What can be known before the first byte is raised here and not by the iterator: NotFound,
        and RangeNotSatisfiable where `start` lies outside the object.
        """
        if self._transfer.reads_by_range or (end is not None and end <= start):
            size = await self._inside(location, start)
            return self._ranges_async(location, start, size if end is None else min(end, size))
        try:
            with translated():
                result = await obstore.get_async(self._backend, location, options=_range_option(start, end))
        except Unavailable:
            # A range that cannot be served and a server that cannot serve look alike.
            if start > 0:
                await self._inside(location, start)
            raise
        return _stream_async(result)

    async def aclose(self) -> None:
        """Wait until what cancelled uploads left behind is gone."""
        if self._clearing:
            await asyncio.wait(self._clearing, timeout=ABANDON_SECONDS)

    # In workers and threads

    def put_file(self, location: str, path: Path) -> StoredObject:
        """Store a file, all or nothing, and return what was stored."""
        digest = hashlib.sha256()
        size = 0
        with (
            path.open("rb") as file,
            translated(writing=True),
            obstore.open_writer(
                self._backend,
                location,
                buffer_size=self._transfer.part_bytes,
                max_concurrency=self._transfer.concurrent_parts,
            ) as writer,
        ):
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                size += writer.write(block)
        return StoredObject(size, digest.hexdigest())

    def fetch_file(
        self, location: str, path: Path, *, size: int | None = None, sha256: str | None = None
    ) -> StoredObject:
        """Write an object to a new file and return what was read.

        The file must not exist yet, and is removed again when anything fails. Raises Unavailable
        (`object_damaged`) when the bytes are not those that `size` and `sha256` promise.
        """
        digest = hashlib.sha256()
        count = 0
        with path.open("xb") as file:
            try:
                with translated():
                    for block in self._read_blocks(location):
                        digest.update(block)
                        count += file.write(block)
                    file.flush()
                if (size is not None and count != size) or sha256 not in (None, digest.hexdigest()):
                    raise Unavailable(
                        "The stored bytes are not those that were uploaded; upload them again.",
                        code="object_damaged",
                        retryable=False,
                    )
            except BaseException:
                path.unlink()
                raise
        return StoredObject(count, digest.hexdigest())

    def write(self, location: str, content: bytes) -> None:
        """Store a small object."""
        with translated(writing=True):
            obstore.put(self._backend, location, content, use_multipart=False)

    def read(self, location: str, max_bytes: int) -> bytes:
        """Return a small object; raises PayloadTooLarge where it has more than `max_bytes`."""
        if self.size(location) > max_bytes:
            raise PayloadTooLarge(f"The stored object has more than the {max_bytes} bytes expected here.")
        with translated():
            return bytes(obstore.get(self._backend, location).bytes())

    def size(self, location: str) -> int:
        """How many bytes an object has."""
        with translated():
            return obstore.head(self._backend, location)["size"]

    def exists(self, location: str) -> bool:
        """Whether there is such an object."""
        try:
            self.size(location)
        except NotFound:
            return False
        return True

    def delete(self, location: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(NotFound), translated():
            obstore.delete(self._backend, location)

    def list(self, prefix: str = "") -> Iterator[ListedObject]:
        """Every object whose location begins with the path segments of `prefix`."""
        with translated():
            for batch in obstore.list(self._backend, prefix or None):
                for each in batch:
                    yield ListedObject(each["path"], each["size"], each["last_modified"])

    def check(self) -> None:
        """Write and remove a small object: raises unless the store can be used."""
        self.write("readiness", b"ready")
        self.delete("readiness")

    def discard_unfinished(self, older_than: timedelta) -> int:
        """Remove what killed processes left of uploads to a folder, and return how many there were.

        Elsewhere there is nothing to find: memory dies with its process, and S3 does not show
        unfinished uploads to obstore.
        """
        if self._folder is None:
            return 0
        oldest = time.time() - older_than.total_seconds()
        count = 0
        for path in self._folder.rglob("*#*"):
            # It may be completed or aborted by its own process while we look at it.
            with contextlib.suppress(FileNotFoundError), translated():
                if _UNFINISHED.search(path.name) and path.stat().st_mtime < oldest:
                    path.unlink()
                    count += 1
        return count

    # What these share

    async def _inside(self, location: str, start: int) -> int:
        """The object's size, when `start` lies inside it. Raises RangeNotSatisfiable."""
        with translated():
            size = (await obstore.head_async(self._backend, location))["size"]
        if start < 0 or (start >= size and start > 0):
            raise RangeNotSatisfiable(f"The content has {size} bytes; ask for a range within them.", content_bytes=size)
        return size

    async def _ranges_async(self, location: str, start: int, end: int) -> AsyncIterator[bytes]:
        for first in range(start, end, BLOCK_BYTES):
            with translated():
                block = await obstore.get_range_async(
                    self._backend, location, start=first, end=min(first + BLOCK_BYTES, end)
                )
            yield bytes(block)

    def _read_blocks(self, location: str) -> Iterator[bytes]:
        if self._transfer.reads_by_range:
            size = self.size(location)
            for first in range(0, size, BLOCK_BYTES):
                end = min(first + BLOCK_BYTES, size)
                yield bytes(obstore.get_range(self._backend, location, start=first, end=end))
        else:
            yield from obstore.get(self._backend, location).stream(min_chunk_size=BLOCK_BYTES)

    async def _clear(self, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` end even when the waiting task is cancelled, once more or for ever."""
        task = asyncio.create_task(work)
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)
        await asyncio.wait([task], timeout=ABANDON_SECONDS)

    async def _take_back(self, closing: asyncio.Future[None], location: str) -> None:
        await asyncio.wait([closing])
        if closing.exception() is None:
            try:
                await obstore.delete_async(self._backend, location)
            except Exception:
                logger.warning("A cancelled upload could not be removed: %s", location, exc_info=True)


async def _blocks(chunks: AsyncIterator[bytes], max_bytes: int | None) -> AsyncIterator[bytes]:
    """Gather `chunks` of any size into blocks of at least BLOCK_BYTES, except for the last."""
    gathered: list[bytes] = []
    waiting = total = 0
    async for chunk in chunks:
        total += len(chunk)
        if max_bytes is not None and total > max_bytes:
            raise PayloadTooLarge(f"More than the {max_bytes} bytes that are accepted here; upload something smaller.")
        gathered.append(chunk)
        waiting += len(chunk)
        if waiting >= BLOCK_BYTES:
            yield b"".join(gathered)
            gathered.clear()
            waiting = 0
    if gathered:
        yield b"".join(gathered)


async def _stream_async(result: "GetResult") -> AsyncIterator[bytes]:
    blocks = result.stream(min_chunk_size=BLOCK_BYTES)
    while True:
        with translated():
            try:
                block = await anext(blocks)
            except StopAsyncIteration:
                return
        yield block


async def _abort(writer: "AsyncWritableFile", location: str) -> None:
    try:
        # As at the end of an `async with` block that failed: obstore has no other name for it.
        await writer.__aexit__(Exception, None, None)
    except Exception:
        logger.warning("Parts of a broken upload may remain at %s", location, exc_info=True)


def _range_option(start: int, end: int | None) -> "GetOptions":
    if end is not None:
        return {"range": (start, end)}
    return {"range": {"offset": start}} if start else {}
