"""Sessions on Postgres and SQLite that behave alike: reads, and writes that commit once."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from app.errors import InvalidRequest, StorageFull, Unavailable


class Database:
    """The one way to the database: `read()` and `write()`, both thread-safe.

    Raises `Unavailable` (`database_unavailable`) when it cannot be reached.
    """

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.url = make_url(url)
        if self.url.drivername in ("postgresql", "postgres"):  # psycopg 3, whatever SQLAlchemy would choose
            self.url = self.url.set(drivername="postgresql+psycopg")
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if self.url.database and self.url.database != ":memory:":
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.engine = create_engine(
                self.url,
                pool_size=pool_size,
                max_overflow=0,
                connect_args={"timeout": 30, "check_same_thread": False},
            )
            _teach_sqlite(self.engine)
            self._reader: Engine = self.engine.execution_options(bitpress_read=True)
        else:
            options: dict[str, Any] = {
                "pool_recycle": 1800,
                "pool_timeout": 15,
                # A database that was made with the encoding SQL_ASCII sends bytes to whom does not ask for text, and
                # can read no other escapes in JSON than those of ASCII.
                "connect_args": {"connect_timeout": 5, "client_encoding": "utf8"},
                "json_serializer": _unescaped,
            }
            self.engine = create_engine(self.url, pool_size=pool_size, max_overflow=4, **options)
            # Reads are single statements: without BEGIN and ROLLBACK around it each takes one round trip, not
            # three. They have connections of their own, since switching one to and fro costs round trips too.
            self._reader = create_engine(
                self.url,
                pool_size=pool_size,
                max_overflow=4,
                isolation_level="AUTOCOMMIT",
                skip_autocommit_rollback=True,
                pool_reset_on_return=None,
                **options,
            )
        self._read_session = sessionmaker(self._reader, expire_on_commit=False)
        self._write_session = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session for reading; nothing is committed."""
        with _mapped_errors(), self._read_session() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a bare connection for reading: a third of the cost of a session, for what is asked all the time."""
        with _mapped_errors(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session that commits at the end, or rolls back when an exception leaves it.

        On SQLite the write lock is taken at once (`BEGIN IMMEDIATE`), so that a read followed by a
        write cannot fail half-way.
        """
        with _mapped_errors(), self._write_session.begin() as session:
            yield session

    def ping(self) -> None:
        """Raise `Unavailable` unless the database answers."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def dispose(self) -> None:
        """Close every connection."""
        self.engine.dispose()
        self._reader.dispose()


def _unescaped(value: Any) -> str:
    """JSON as its own text; with escapes where a part of it cannot be written otherwise."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value)
    return text


def _teach_sqlite(engine: Engine) -> None:
    """WAL, foreign keys, and transactions that begin when we say so."""

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        reading = connection.get_execution_options().get("bitpress_read")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if "disk is full" in str(error) or "No space left" in str(error):
            raise StorageFull(
                "The database has no room left. Free disk space and send the request again.",
                code="storage_full",
            ) from error
        raise Unavailable(
            "The database cannot be reached now. Try again in a few seconds.", code="database_unavailable"
        ) from error
    except DataError as error:
        raise InvalidRequest(
            "A value is not one that the database stores: a number out of range, or text with a NUL.",
            code="invalid_value",
        ) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable(
                "The connection to the database was lost. Try again.", code="database_unavailable"
            ) from error
        raise
    except PoolTimeout as error:
        raise Unavailable("The service is busy. Try again in a few seconds.", code="busy") from error
