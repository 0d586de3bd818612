"""What the client's tests share."""

from collections.abc import Iterator

import pytest
from bitpress import Client

from tests.unit.client.misbehaving import KEY, Service


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the machine's own service and settings out."""
    for name in ("BITPRESS_URL", "BITPRESS_KEY", "BITPRESS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, none of which is really made."""
    made: list[float] = []
    monkeypatch.setattr("bitpress.retries.sleep", made.append)
    return made


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


@pytest.fixture
def client(service: Service, pauses: list[float]) -> Iterator[Client]:
    with Client(service.url, KEY, timeout=5) as made:
        yield made
