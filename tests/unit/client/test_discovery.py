"""Where the service is, and to whom the key is told."""

from pathlib import Path

import pytest
from bitpress import Client, ConnectionFailed
from bitpress.discovery import Service as Found
from bitpress.discovery import find_service

from tests.unit.client import documents
from tests.unit.client.documents import MODEL_ID
from tests.unit.client.misbehaving import Service, answer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of an embedded service that runs."""
    monkeypatch.setenv("BITPRESS_DATA_DIR", str(tmp_path))
    (tmp_path / "address").write_text("http://127.0.0.1:8321\n")
    (tmp_path / "api_key").write_text("bp_embedded\n")
    return tmp_path


def test_the_embedded_service_is_found(folder: Path) -> None:
    assert find_service() == Found("http://127.0.0.1:8321", "bp_embedded")


def test_its_folder_is_that_of_the_xdg_specification(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITPRESS_DATA_DIR")
    monkeypatch.delenv("XDG_DATA_HOME")
    home = folder / "home"
    (home / ".local" / "share").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (home / ".local" / "share" / "bitpress").symlink_to(folder)
    assert find_service().url == "http://127.0.0.1:8321"
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "nowhere"))
    with pytest.raises(ConnectionFailed):
        find_service()


def test_variables_win_over_the_folder_and_arguments_over_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITPRESS_URL", "https://bitpress.example/")
    monkeypatch.setenv("BITPRESS_KEY", "bp_variable")
    assert find_service() == Found("https://bitpress.example", "bp_variable")
    assert find_service("http://other:1", "bp_argument") == Found("http://other:1", "bp_argument")


def test_the_embedded_key_is_told_to_nobody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITPRESS_URL", "https://bitpress.example")
    assert find_service().key is None
    assert find_service("http://127.0.0.1:8321/").key == "bp_embedded"


@pytest.mark.parametrize("address", ["127.0.0.1:8321", "localhost", "ftp://here", "file:///etc"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConnectionFailed, match="has to start with http:// or https://"):
        Client(address)


@pytest.mark.parametrize("address", ["http://[half", "http://a b:x"])
def test_an_address_that_cannot_be_read(address: str) -> None:
    with pytest.raises(ConnectionFailed), Client(address) as client:
        client.model(MODEL_ID)


def test_no_service_is_known() -> None:
    with pytest.raises(ConnectionFailed, match=r"bitpress serve.*BITPRESS_URL"):
        Client()


def test_a_key_with_a_line_break_is_refused() -> None:
    with pytest.raises(ConnectionFailed, match="characters that no key has"):
        Client("http://127.0.0.1:1", "bp_a\nb")


def test_the_key_is_not_in_what_is_printed() -> None:
    assert "secret" not in repr(find_service("http://127.0.0.1:1", "secret"))


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    service.plan("GET", f"/v1/models/{MODEL_ID}", answer(documents.model()))
    with Client(service.url, retries=0) as client:
        assert client.model(MODEL_ID)["name"] == "net"
