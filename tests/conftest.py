"""The parts that tests stand on, all of them real; and no test that is left out without being named."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from app.db.session import Database
from app.migrate import migrate
from tests.parts.databases import fresh_postgres_database, postgres_server
from tests.parts.redis_server import redis_database
from tests.parts.seaweedfs import start_seaweedfs
from tests.parts.service import Service, running_service

STACKS = ("embedded", "production")


class TogetherScheduling(LoadScopeScheduling):
    """Shares the tests between processes, and keeps together what shares a service or a file."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, name = nodeid.partition("::")
        if file.endswith(("test_recovery.py", "test_brokers.py")):
            return file + name[name.rfind("[") :]  # one service a broker
        if file.endswith("test_evaluation_bad_input.py"):
            return file  # a service of its own
        return "tests/e2e" if file.startswith("tests/e2e/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TogetherScheduling:
    return TogetherScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process is left alone with them at the end."""
    items.sort(key=lambda item: "recovery" not in item.path.name)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With CI=true, a test that could not run is a failure; `-ra` has listed each by then."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    left_out = [] if reporter is None else reporter.stats.get("skipped", [])
    if left_out and exitstatus == 0 and os.environ.get("CI") == "true":
        session.exitstatus = 1


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Postgres server."""
    with postgres_server(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database, on each dialect."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.sqlite'}"
    else:
        with fresh_postgres_database(request.getfixturevalue("postgres")) as url:
            yield url.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture
def empty_database(database_url: str) -> Iterator[Database]:
    """An empty database, on each dialect."""
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def database(empty_database: Database) -> Database:
    """A migrated database, on each dialect."""
    migrate(empty_database)
    return empty_database


@pytest.fixture(scope="session")
def production_environment(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[dict[str, str]]:
    """Settings that name a real Postgres, Redis and S3 server."""
    folder = tmp_path_factory.mktemp("production-parts")
    with redis_database(folder / "redis") as broker, production_settings(folder, postgres, broker) as settings:
        yield settings


@contextmanager
def production_settings(folder: Path, postgres: str, broker: str) -> Iterator[dict[str, str]]:
    """Settings that name a database of its own on Postgres, a broker, and an S3 server of its own."""
    with fresh_postgres_database(postgres) as database, start_seaweedfs(folder / "s3") as s3:
        yield {
            "BITPRESS_DATABASE_URL": database,
            "BITPRESS_BROKER_URL": broker,
            "BITPRESS_STORE_URL": f"s3://{s3.bucket}",
            "BITPRESS_S3_ENDPOINT": s3.endpoint,
            "BITPRESS_S3_ACCESS_KEY_ID": s3.access_key_id,
            "BITPRESS_S3_SECRET_ACCESS_KEY": s3.secret_access_key,
            "BITPRESS_S3_REGION": s3.region,
            "BITPRESS_S3_ALLOW_HTTP": "true",
            "BITPRESS_SOURCE_BUCKETS": f'["{s3.bucket}"]',
            "BITPRESS_API_KEY": "a-key-for-tests-only",
        }


QUICK: dict[str, str] = {
    # Tests look at what is measured, not at how well: few and short measurements.
    "BITPRESS_REPLICATES": "2",
    "BITPRESS_MOST_REPLICATES": "2",
    "BITPRESS_MEASURE_SECONDS": "0.2",
    "BITPRESS_SWEEP_SECONDS": "0.5",
    "BITPRESS_WAKE_SECONDS": "2",
    "BITPRESS_LEASE_SECONDS": "6",
}


@pytest.fixture(scope="session", params=STACKS)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The running service: all defaults, and with the production parts."""
    environment: dict[str, Any] = dict(QUICK)
    if request.param == "production":
        environment |= request.getfixturevalue("production_environment")
    with running_service(tmp_path_factory.mktemp(f"service-{request.param}"), **environment) as running:
        yield running
