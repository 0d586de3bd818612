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
from sqlalchemy.exc import ArgumentError, DatabaseError

from app import wiring
from app.db.session import Database
from app.errors import BitpressError, Unavailable
from app.settings import Settings, read_settings

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
    """Upgrade to the newest schema.

    Raises `Unavailable`, and before anything is changed or copied `BitpressError`: `database_newer` for a
    schema that this version does not know, `database_unusable` for what is no database.
    """
    scripts = ScriptDirectory.from_config(alembic_config())
    newest = scripts.get_current_head()
    present = present_revision(database)
    if present == newest:
        return
    if present is not None and present not in {script.revision for script in scripts.walk_revisions()}:
        raise BitpressError(
            f"The database has schema {present}, which this version of Bitpress does not know: a newer one has used "
            "it. Run that version, or restore a copy of the database from before.",
            code="database_newer",
        )
    if database.is_sqlite and present is not None and database.url.database:
        copy_sqlite(Path(database.url.database), present)
    with database.engine.begin() as connection:
        if not database.is_sqlite:  # there the transaction itself is exclusive
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        command.upgrade(alembic_config(connection), "head")
    log.info("database schema: %s → %s", present or "none", newest)


def open_database(settings: Settings) -> Database:
    """The database that the settings name. Raises `BitpressError` (`setting_invalid`)."""
    url = wiring.database_url(settings)
    try:
        return Database(url)
    except (ArgumentError, ImportError):  # no URL, or one of a database without a driver here
        raise BitpressError(
            "Change or unset BITPRESS_DATABASE_URL: it should be a URL of Postgres or SQLite, such as "
            "postgresql://user:password@host/database or sqlite:////folder/file.",
            code="setting_invalid",
        ) from None


def present_revision(database: Database) -> str | None:
    """The schema that the database has now; null for an empty one."""
    try:
        with database.reading() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except DatabaseError as error:
        raise BitpressError(f"The database cannot be used: {error.orig}.", code="database_unusable") from error


def copy_sqlite(file: Path, revision: str) -> Path:
    """Copy a database file, its write-ahead log included, beside itself; returns the copy."""
    copy = file.with_name(f"{file.name}.before-{revision}-{time.strftime('%Y%m%dT%H%M%S')}")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.chmod(0o600)
    log.info("database copied to %s before migrating", copy)
    return copy


def main(patience_seconds: float = 60.0) -> int:
    """Wait for the database, then migrate it. Exit code 2: trying again will not help."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        database = open_database(read_settings())
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                migrate(database)
                break
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        database.dispose()
    except BitpressError as error:
        log.error("%s", error.detail)
        return 1 if error.retryable else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
