"""Real services on each dialect, with a folder for a store and files for a broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app import wiring
from app.db.session import Database
from app.db.tables import Table
from app.migrate import migrate
from app.settings import Settings
from tests.parts.databases import fresh_postgres_database
from tests.parts.deployment import Deployment


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def kept_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A migrated database, on each dialect, for all tests here: migrating takes longer than most of them."""
    if request.param == "sqlite":
        yield from migrated(f"sqlite:///{tmp_path_factory.mktemp('services') / 'test.sqlite'}")
    else:
        with fresh_postgres_database(request.getfixturevalue("postgres")) as url:
            yield from migrated(url.replace("postgresql://", "postgresql+psycopg://", 1))


def migrated(url: str) -> Iterator[Database]:
    database = Database(url)
    migrate(database)
    yield database
    database.dispose()


@pytest.fixture
def database(kept_database: Database) -> Database:
    """A migrated database without rows, on each dialect."""
    with kept_database.write() as session:
        for table in reversed(Table.metadata.sorted_tables):
            session.execute(table.delete())
    return kept_database


@pytest.fixture
def deployment(database: Database, tmp_path: Path) -> Iterator[Deployment]:
    """The services of a deployment, as the server and the workers make them."""
    settings = Settings(
        data_dir=tmp_path,
        database_url=database.url.render_as_string(hide_password=False),
        api_key="a-key-for-tests-only",
        lease_seconds=30,
        grace_seconds=3600,
        wake_seconds=10,
    )
    services = wiring.build(settings)
    yield Deployment(services, tmp_path)
    services.close()
