"""Objects and their rows: nothing is in the store that the database does not know of."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
from sqlalchemy.orm import Session

from app.db.repositories import blobs
from app.db.session import Database
from app.db.tables import Blob
from app.errors import BitpressError
from app.storage.store import ObjectStore

# An upload that has not ended after a day never will.
ABANDONED_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that are in the store, not yet claimed by a row."""

    blob_id: str
    sha256: str
    bytes: int


class Blobs:
    """Stores bytes once, and removes them when their last row has been gone for the grace time."""

    def __init__(self, database: Database, store: ObjectStore, *, grace_seconds: float) -> None:
        self._database = database
        self.store = store
        self._grace_ms = round(grace_seconds * 1000)

    async def receive(self, chunks: AsyncIterator[bytes], *, max_bytes: int) -> Received:
        """Stream an upload into the store; on any failure nothing of it stays."""
        blob = await anyio.to_thread.run_sync(self._begin, f"uploads/{secrets.token_hex(16)}")
        try:
            stored = await self.store.put_stream(blob.location, chunks, max_bytes=max_bytes)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._discard, blob.id)
            raise
        return Received(blob.id, stored.sha256, stored.bytes)

    def put_file(self, path: Path, *, sha256: str, size: int) -> Received:
        """Store a local file under its SHA-256, unless equal bytes are there already."""
        with self._database.write() as session:
            if (known := blobs.find(session, sha256)) is not None:
                return Received(known.id, sha256, size)
        # The suffix keeps a new object apart from an old one of equal bytes that is being deleted.
        blob = self._begin(f"sha256/{sha256[:2]}/{sha256}.{secrets.token_hex(4)}")
        try:
            self.store.put_file(blob.location, path)
        except BaseException:
            self._discard(blob.id)
            raise
        return Received(blob.id, sha256, size)

    def settle(self, session: Session, received: Received) -> Blob:
        """Make received bytes part of the transaction that needs them. Raises `Unavailable` (`object_gone`)."""
        return blobs.settle(session, received.blob_id, sha256=received.sha256, size=received.bytes)

    def discard(self, received: Received) -> None:
        """Give up received bytes that no row will need."""
        self._discard(received.blob_id)

    def _begin(self, location: str) -> Blob:
        with self._database.write() as session:
            return blobs.begin(session, location)

    def _discard(self, blob_id: str) -> None:
        # What fails here the sweeper does: soon where the row says `deleting`, a day later where it is `pending`.
        with contextlib.suppress(BitpressError):
            with self._database.write() as session:
                location = blobs.discard(session, blob_id)
            if location is not None:
                self._delete(blob_id, location)

    def _delete(self, blob_id: str, location: str) -> None:
        self.store.delete(location)
        with self._database.write() as session:
            blobs.forget(session, blob_id)

    def sweep(self) -> int:
        """Delete what nobody needs any more; returns how many objects went."""
        with self._database.write() as session:
            blobs.release_unneeded(session)
        with self._database.write() as session:
            going = blobs.begin_deleting(session, grace_ms=self._grace_ms, abandoned_ms=ABANDONED_SECONDS * 1000)
        for blob_id, location in going:
            self._delete(blob_id, location)
        return len(going)
