"""Migrations on both dialects: up, down, up again, and equal to the tables in code."""

import shutil
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from app.db.session import Database
from app.db.tables import Table
from app.migrate import alembic_config, migrate


def tables_of(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


def test_the_migrated_schema_is_that_of_the_code(empty_database: Database) -> None:
    migrate(empty_database)
    with empty_database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_a_difference_would_be_seen(empty_database: Database) -> None:
    migrate(empty_database)
    with empty_database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs ADD COLUMN stray INTEGER"))
    with empty_database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) != []


def test_down_and_up_again(empty_database: Database) -> None:
    migrate(empty_database)
    assert tables_of(empty_database) >= set(Table.metadata.tables)
    with empty_database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    assert tables_of(empty_database) <= {"alembic_version"}
    migrate(empty_database)
    assert tables_of(empty_database) >= set(Table.metadata.tables)


def test_migrating_twice_changes_nothing(empty_database: Database) -> None:
    migrate(empty_database)
    before = tables_of(empty_database)
    migrate(empty_database)
    assert tables_of(empty_database) == before


def test_an_sqlite_file_is_copied_before_it_changes(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'bitpress.sqlite'}")
    migrate(database)
    assert list(tmp_path.glob("*.before-*")) == [], "there was nothing to copy"
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
        connection.execute(text("INSERT INTO wake_ups VALUES ('jobs.local', 7)"))
    # The revision 0000 does not exist, so migrating fails: the copy must be there all the same.
    with pytest.raises(Exception, match="0000"):
        migrate(database)
    database.dispose()
    copies = list(tmp_path.glob("*.before-0000-*"))
    assert len(copies) == 1
    restored = tmp_path / "restored.sqlite"
    shutil.copy(copies[0], restored)
    copy = Database(f"sqlite:///{restored}")
    with copy.read() as session:
        assert session.scalar(text("SELECT sent_at FROM wake_ups WHERE queue = 'jobs.local'")) == 7
    copy.dispose()
