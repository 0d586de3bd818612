"""`python -m workers.alive`: whether a worker of this host works; the health check of its container.

That a process runs proves nothing. What counts is a task that ran lately, or a lease that is being kept.
"""

import socket
import sys

from app import wiring
from app.db.repositories import workers
from app.db.session import Database
from app.errors import Unavailable
from app.services.targets import ALIVE_SECONDS
from app.settings import Settings


def works(database: Database, host: str) -> bool:
    """Whether some worker of the host is seen at work. Raises `Unavailable`."""
    with database.read() as session:
        return workers.host_works(session, host, within_ms=ALIVE_SECONDS * 1000)


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
