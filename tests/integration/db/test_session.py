"""What a database session does that is not the same by itself on every database."""

from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from app.db.repositories import jobs
from app.db.session import Database
from app.db.tables import Blob, Job, Model
from app.migrate import migrate
from tests.parts.databases import fresh_postgres_database


@pytest.fixture
def ascii_database(postgres: str) -> Iterator[Database]:
    """As `createdb` makes one on a server that was set up without a locale."""
    ascii_only = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with fresh_postgres_database(postgres, ascii_only) as url:
        made = Database(url)
        yield made
        made.dispose()


def test_a_database_of_the_encoding_sql_ascii_keeps_text(ascii_database: Database) -> None:
    migrate(ascii_database)
    ascii_database.ping()
    labels = {"ümlaut": "größe", "a": "\U0001f600", "half": "\ud800"}
    with ascii_database.write() as session:
        session.add(Blob(id="blb_1", location="x", state="stored", sha256="0" * 64, bytes=1, created_at=1))
        session.flush()
        session.add(
            Model(id="mdl_1", name="Käfer", file_name="m", state="ready", bytes=1, sha256="0" * 64, created_at=1,
                  blob_id="blb_1", inspection={}, error=None)
        )  # fmt: skip
        session.flush()
        session.add_all(
            Job(id=f"job_{number}", kind="optimize", state="succeeded", target="local", priority=5, model_id="mdl_1",
                spec={"labels": given}, queue_until=1, created_at=1)
            for number, given in enumerate((labels, {"ümlaut": "größe"}))
        )  # fmt: skip
    with ascii_database.read() as session:
        assert session.get_one(Model, "mdl_1").name == "Käfer"
        assert session.get_one(Job, "job_0").spec == {"labels": labels}
        assert session.scalar(select(func.version())).startswith("PostgreSQL")
        # Half a surrogate pair, which no request brings, keeps its row from being searched, there as elsewhere.
        named = select(Job.id).where(Job.id == "job_1", jobs.has_label(session, "ümlaut", "größe"))
        assert session.scalar(named) == "job_1"
