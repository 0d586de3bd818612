"""What the client's tests share."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from bitpress import Client
from bitpress.command import app

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


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command in this process, against the service of this test."""
    monkeypatch.setenv("BITPRESS_URL", service.url)
    monkeypatch.setenv("BITPRESS_KEY", KEY)
    monkeypatch.setattr("bitpress.retries.sleep", lambda seconds: None)

    def command(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Ran(int(ended.value.code or 0), said.out, said.err)

    return command
