"""Real services on each dialect, with a folder for a store and files for a broker."""

import shutil
from collections.abc import Iterator

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


@pytest.fixture(scope="session")
def kept_deployment(kept_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The services of a deployment, as the server and the workers make them; their statements stay compiled."""
    folder = tmp_path_factory.mktemp("deployment")
    settings = Settings(
        data_dir=folder,
        database_url=kept_database.url.render_as_string(hide_password=False),
        api_key="a-key-for-tests-only",
        lease_seconds=30,
        grace_seconds=3600,
        wake_seconds=10,
    )
    services = wiring.build(settings)
    yield Deployment(services, folder)
    services.close()


@pytest.fixture
def database(kept_database: Database) -> Database:
    """A migrated database without rows, on each dialect."""
    with kept_database.write() as session:
        for table in reversed(Table.metadata.sorted_tables):
            session.execute(table.delete())
    return kept_database


@pytest.fixture
def deployment(kept_deployment: Deployment, database: Database) -> Deployment:
    """A deployment without rows, objects and messages, on each dialect."""
    for folder in ("objects", "broker/messages"):
        for left in (kept_deployment.folder / folder).iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return kept_deployment
