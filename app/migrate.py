"""`python -m app.migrate`: bring the database to the schema that this version needs.

Safe to run twice, and by several at once. An SQLite file that is about to change is copied first.
"""

import logging
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app import wiring
from app.db.session import Database
from app.errors import Unavailable
from app.settings import Settings

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"

# Any number will do that nobody else uses for a lock in this database.
_LOCK = 0x6269_7470


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, on a connection that is open already."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate(database: Database) -> None:
    """Upgrade to the newest schema. Raises `Unavailable`."""
    newest = ScriptDirectory.from_config(alembic_config()).get_current_head()
    with database.engine.connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    if present == newest:
        return
    if database.is_sqlite and present is not None and database.url.database:
        copy_sqlite(Path(database.url.database), present)
    with database.engine.begin() as connection:
        if not database.is_sqlite:  # there the transaction itself is exclusive
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        command.upgrade(alembic_config(connection), "head")
    log.info("database schema: %s → %s", present or "none", newest)


def copy_sqlite(file: Path, revision: str) -> Path:
    """Copy a database file, its write-ahead log included, beside itself; returns the copy."""
    copy = file.with_name(f"{file.name}.before-{revision}-{time.strftime('%Y%m%dT%H%M%S')}")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.chmod(0o600)
    log.info("database copied to %s before migrating", copy)
    return copy


def main(patience_seconds: float = 60.0) -> int:
    """Wait for the database, then migrate it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    database = Database(wiring.database_url(Settings()))
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            database.ping()
            break
        except Unavailable as error:
            if time.monotonic() > deadline:
                log.error("%s", error.detail)
                return 1
            time.sleep(1)
    migrate(database)
    database.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
