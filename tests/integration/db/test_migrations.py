"""Migrations on both dialects: up, down, up again, and equal to the tables in code."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import app.migrate
from app.db.session import Database
from app.db.tables import Table
from app.errors import BitpressError
from app.migrate import alembic_config, main, migrate, present_revision


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


NEXT = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = "9000", {present!r}

def upgrade():
    op.add_column("wake_ups", sa.Column("stray", sa.Integer()))
    {then}
"""


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts this code one revision ahead, with more to do in it."""
    present = ScriptDirectory.from_config(alembic_config()).get_current_head()
    shutil.copytree(app.migrate.MIGRATIONS, tmp_path / "next")

    def install(then: str) -> None:
        (tmp_path / "next" / "versions" / "9000_next.py").write_text(NEXT.format(present=present, then=then))
        monkeypatch.setattr(app.migrate, "MIGRATIONS", tmp_path / "next")

    return install


@pytest.mark.parametrize("then", ["", "raise RuntimeError('half-way')"])
def test_an_sqlite_file_is_copied_before_it_changes(
    tmp_path: Path, next_version: Callable[[str], None], then: str
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'bitpress.sqlite'}")
    migrate(database)
    present = present_revision(database)
    assert list(tmp_path.glob("*.before-*")) == [], "there was nothing to copy"
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO wake_ups VALUES ('jobs.local', 7)"))
    next_version(then)
    with pytest.raises(RuntimeError, match="half-way") if then else nullcontext():
        migrate(database)
    assert present_revision(database) == (present if then else "9000")
    database.dispose()
    copies = list(tmp_path.glob(f"*.before-{present}-*"))
    assert len(copies) == 1
    restored = tmp_path / "restored.sqlite"
    shutil.copy(copies[0], restored)
    copy = Database(f"sqlite:///{restored}")
    with copy.read() as session:
        assert session.execute(text("SELECT * FROM wake_ups")).all() == [("jobs.local", 7)]
    copy.dispose()


def test_a_schema_that_is_not_known_is_left_alone(empty_database: Database, tmp_path: Path) -> None:
    migrate(empty_database)
    with empty_database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BitpressError, match="schema 9999, which this version of Bitpress does not know") as raised:
        migrate(empty_database)
    assert raised.value.code == "database_newer"
    assert not raised.value.retryable
    assert list(tmp_path.glob("*.before-*")) == []


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("postgresql://postgres@127.0.0.1:9/none", 1, "The database cannot be reached now."),
        ("nonsense", 2, "Change or unset BITPRESS_DATABASE_URL"),
    ],
)
def test_the_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str, code: int, said: str
) -> None:
    monkeypatch.setenv("BITPRESS_DATABASE_URL", url)
    assert main(patience_seconds=0) == code
    assert said in caplog.text
