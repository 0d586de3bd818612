"""Real services on each dialect, with a folder for a store and files for a broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app import wiring
from app.db.session import Database
from app.settings import Settings
from tests.parts.deployment import Deployment


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
