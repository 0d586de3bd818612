"""Models and datasets: taking them in, listing, deleting. The same for both, so written once."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeVar

import anyio.to_thread
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.clock import now_ms
from app.db.repositories import jobs
from app.db.repositories.paging import page, refuse_unstorable
from app.db.session import Database
from app.db.tables import Blob, Dataset, Model
from app.domain.ids import is_id, new_id
from app.domain.uploads import UploadState, plain_file_name, stem
from app.errors import Conflict, InvalidRequest, NotFound
from app.queue.names import INSPECTIONS
from app.queue.wake_up import WakeUps
from app.services.blobs import Blobs, Received
from app.storage.opening import S3Options, open_source

Uploaded = TypeVar("Uploaded", Model, Dataset)


class Uploads(Generic[Uploaded]):
    """One kind of upload: its table, the prefix of its ids, and what holds it."""

    noun: str
    prefix: str
    table: type[Uploaded]
    user: Callable[[Session, str], str | None]
    """Finds a job that uses an upload."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        wake_ups: WakeUps,
        *,
        max_bytes: int,
        source_buckets: Sequence[str],
        s3: S3Options,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._wake_ups = wake_ups
        self._source_buckets = tuple(source_buckets)
        self._s3 = s3
        self.max_bytes = max_bytes

    async def create(
        self,
        chunks: AsyncIterator[bytes],
        *,
        file_name: str,
        name: str | None,
        extra: dict[str, Any] | None = None,
    ) -> Uploaded:
        """Store an upload and put it up for inspection.

        Raises `InvalidRequest` (`empty_file`), `PayloadTooLarge`, `StorageFull`, `Unavailable`.
        """
        received = await self._blobs.receive(chunks, max_bytes=self.max_bytes)
        return await anyio.to_thread.run_sync(self.record, received, file_name, name, extra or {})

    async def create_from_source(
        self, source: str, *, name: str | None, extra: dict[str, Any] | None = None
    ) -> Uploaded:
        """Copy an object from a bucket that the settings allow, and put it up for inspection.

        Raises `Forbidden` (`source_not_allowed`), `InvalidRequest` (`source_invalid`), `NotFound`
        (`source_not_found`).
        """
        found = open_source(source, self._source_buckets, self._s3)
        try:
            chunks = await found.store.stream(found.location)
        except NotFound as error:
            raise NotFound(f"There is no object {source}.", code="source_not_found") from error
        return await self.create(chunks, file_name=source.rsplit("/", 1)[-1], name=name, extra=extra)

    def record(self, received: Received, file_name: str, name: str | None, extra: dict[str, Any]) -> Uploaded:
        """Make stored bytes an upload and wake an inspector. Raises `InvalidRequest` (`empty_file`)."""
        try:
            row = self._insert(received, plain_file_name(file_name), name, extra)
        except BaseException:
            self._blobs.discard(received)
            raise
        self._wake_ups.send(INSPECTIONS)
        return row

    def _insert(self, received: Received, file_name: str, name: str | None, extra: dict[str, Any]) -> Uploaded:
        if received.bytes == 0:
            raise InvalidRequest("The file is empty. Upload the whole file.", code="empty_file")
        with self._database.write() as session:
            blob = self._blobs.settle(session, received)
            row = self.table(
                id=new_id(self.prefix),
                name=(name or stem(file_name))[:200],
                file_name=file_name,
                state=UploadState.INSPECTING,
                bytes=blob.bytes,
                sha256=received.sha256,
                blob_id=blob.id,
                created_at=session.scalar(select(now_ms())),
                **extra,
            )
            session.add(row)
            return row

    def get(self, upload_id: str) -> Uploaded:
        """Raises `NotFound`."""
        with self._database.read() as session:
            return self._found(session, upload_id)

    def _found(self, session: Session, upload_id: str) -> Uploaded:
        row = session.get(self.table, upload_id) if is_id(upload_id, self.prefix) else None
        if row is None:
            raise self._missing(upload_id)
        return row

    def _missing(self, upload_id: str) -> NotFound:
        return NotFound(f"There is no {self.noun} {upload_id}.", code=f"{self.noun}_not_found")

    def content(self, upload_id: str) -> tuple[Uploaded, Blob]:
        """The upload and the object that its bytes are. Raises `NotFound`."""
        with self._database.read() as session:
            row = self._found(session, upload_id)
            return row, session.get_one(Blob, row.blob_id)

    def list(
        self,
        *,
        limit: int,
        cursor: str | None,
        state: str | None = None,
        name: str | None = None,
        sha256: str | None = None,
    ) -> tuple[list[Uploaded], str | None]:
        """One page, newest first. Raises `InvalidRequest`."""
        refuse_unstorable(name=name)
        query = select(self.table)
        for column, wanted in (
            (self.table.state, state),
            (self.table.name, name),
            (self.table.sha256, sha256),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        with self._database.read() as session:
            return page(session, query, self.table.id, prefix=self.prefix, limit=limit, cursor=cursor)

    def delete(self, upload_id: str) -> None:
        """Forget an upload; its bytes go when no other row has them.

        Raises `NotFound`, and `Conflict` while a job uses it.
        """
        if not is_id(upload_id, self.prefix):
            raise self._missing(upload_id)
        try:
            self._delete(upload_id)
        except IntegrityError:
            # A job that uses it was submitted at this very moment: now it can be found.
            self._delete(upload_id)

    def _delete(self, upload_id: str) -> None:
        with self._database.write() as session:
            if (user := self.user(session, upload_id)) is not None:
                raise Conflict(
                    f"The {self.noun} {upload_id} is used by job {user}. Delete its jobs first.",
                    code=f"{self.noun}_in_use",
                )
            gone = delete(self.table).where(self.table.id == upload_id).returning(self.table.id)
            if session.scalar(gone) is None:
                raise self._missing(upload_id)


class Models(Uploads[Model]):
    """Uploaded models."""

    noun, prefix, table = "model", "mdl", Model
    user = staticmethod(jobs.model_in_use)


class Datasets(Uploads[Dataset]):
    """Uploaded datasets."""

    noun, prefix, table = "dataset", "dst", Dataset
    user = staticmethod(jobs.dataset_in_use)
