"""`python -m workers.alive`: whether a worker of this host works; the health check of its container.

That a process runs proves nothing. What counts is a task that ran lately, or a lease that is being kept.
"""

import socket
import sys

from sqlalchemy import select

from app import wiring
from app.db.clock import now_ms
from app.db.session import Database
from app.db.tables import Dataset, Job, Model, Worker
from app.errors import Unavailable
from app.services.targets import ALIVE_SECONDS
from app.settings import Settings


def works(database: Database, host: str) -> bool:
    """Whether some worker of the host is seen at work. Raises `Unavailable`."""
    of_host = f"%@{host}-%"
    with database.read() as session:
        queries = [select(Worker.id).where(Worker.id.like(of_host), Worker.seen_at > now_ms() - ALIVE_SECONDS * 1000)]
        queries += [
            select(table.id).where(table.worker.like(of_host), table.lease_until > now_ms())
            for table in (Job, Model, Dataset)
        ]
        return any(session.scalar(query.limit(1)) is not None for query in queries)


def main() -> int:
    """Exit code 0 when one works."""
    database = Database(wiring.database_url(Settings()))
    try:
        return 0 if works(database, socket.gethostname()) else 1
    except Unavailable as error:
        print(error.detail, file=sys.stderr)  # noqa: T201 - this is its log
        return 1
    finally:
        database.dispose()


if __name__ == "__main__":
    sys.exit(main())
