"""What calibration observed, so that no later job runs the same model over the same rows for it."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update

from app.db.clock import now_ms
from app.db.session import Database
from app.db.tables import Blob, Observation
from app.services.blobs import Blobs, Received
from app.services.work import Input


@dataclass(frozen=True, slots=True)
class Observed:
    """The calibrate step's result, and the file that it left in its folder."""

    result: dict[str, Any]
    file: Input


class Observations:
    """Keeps observations by the digest of all that they depend on, and forgets those that nobody used for a while."""

    def __init__(self, database: Database, blobs: Blobs, *, keep_seconds: float) -> None:
        self._database = database
        self._blobs = blobs
        self._keep_ms = round(keep_seconds * 1000)

    def find(self, key: str) -> Observed | None:
        """What was observed under this key, if it is kept; its time begins anew."""
        with self._database.write() as session:
            row = session.scalar(
                update(Observation)
                .where(Observation.key == key, Observation.used_at > now_ms() - self._keep_ms)
                .values(used_at=now_ms())
                .returning(Observation)
            )
            if row is None:
                return None
            blob = session.get_one(Blob, row.blob_id)
            file = Input(blob.id, row.path, row.path, blob.location, blob.sha256 or "", blob.bytes)
            return Observed(json.loads(row.result), file)

    def keep(self, key: str, result: dict[str, Any], path: str, received: Received) -> None:
        """Keep what a calibration left; a second one under the same key takes the place of the first."""
        with self._database.write() as session:
            session.merge(
                Observation(
                    key=key,
                    result=json.dumps(result),
                    path=path,
                    blob_id=self._blobs.settle(session, received).id,
                    used_at=session.scalars(select(now_ms())).one(),
                )
            )

    def forget_unused(self) -> None:
        """Forget what no job used for as long as observations are kept."""
        with self._database.write() as session:
            session.execute(delete(Observation).where(Observation.used_at <= now_ms() - self._keep_ms))
