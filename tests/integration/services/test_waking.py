"""Wake-ups: sent after the commit, never waited for, sent again by the sweeper, and not too often."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from app import wiring
from app.db.repositories import workers
from app.db.tables import Job
from app.queue.names import INSPECTIONS, jobs_queue
from app.queue.wake_up import REST_SECONDS, WakeUps
from app.services.targets import ALIVE_SECONDS
from app.settings import Settings
from tests.parts.deployment import Deployment, at_once
from tests.parts.redis_server import redis_server_binary

PATIENCE_SECONDS = 5.0


def may_wake(deployment: Deployment, queue: str, *, every_ms: int = 10_000) -> bool:
    with deployment.database.write() as session:
        return workers.may_wake(session, queue, every_ms=every_ms)


def test_a_queue_is_woken_once_in_a_period_by_whoever_is_first(deployment: Deployment) -> None:
    for period in range(5):
        answers = at_once([lambda: may_wake(deployment, "jobs.local") for _ in range(4)])
        assert sorted(answers) == [False, False, False, True], (period, answers)  # type: ignore[type-var]
        deployment.age_wake_ups(9)
        assert not may_wake(deployment, "jobs.local")
        assert may_wake(deployment, f"jobs.other-{period}")
        deployment.age_wake_ups(2)


def test_a_submission_and_an_upload_wake_their_queues(deployment: Deployment) -> None:
    model = deployment.model()
    before = deployment.messages()
    assert before == 1, "one upload"
    deployment.submit(model)
    assert deployment.messages() == before + 1
    deployment.submit(model, key="once")
    deployment.submit(model, key="once")
    assert deployment.messages() == before + 2, "nothing new was submitted the second time"


def test_the_sweeper_wakes_targets_with_waiting_rows_and_no_others(deployment: Deployment) -> None:
    model = deployment.model()
    sweeper = deployment.services.sweeper
    sent = deployment.messages()
    sweeper.sweep()
    assert deployment.messages() == sent, "nothing waits and no worker is known"
    deployment.submit(model)
    deployment.submit(model)
    deployment.submit(model, target="there")
    sent = deployment.messages()
    for _ in range(3):
        sweeper.sweep()
    assert deployment.messages() == sent + 2, "once for each target"
    deployment.age_wake_ups(11)
    sweeper.sweep()
    assert deployment.messages() == sent + 4
    for _ in range(2):
        deployment.claimed()
    deployment.claimed(target="there")
    deployment.age_wake_ups(11)
    sweeper.sweep()
    assert deployment.messages() == sent + 4, "nothing waits any more"


def test_the_sweeper_wakes_inspectors_for_new_and_for_lapsed_uploads(deployment: Deployment) -> None:
    row = deployment.services.models.record(deployment.receive(b"model"), "m.onnx", None, {})
    sweeper, sent = deployment.services.sweeper, deployment.messages()
    sweeper.sweep()
    assert deployment.messages() == sent + 1
    upload = deployment.services.work.claim_upload("inspector")
    assert upload is not None
    deployment.age_wake_ups(11)
    sweeper.sweep()
    assert deployment.messages() == sent + 1, "it is being inspected"
    deployment.lapse(type(row))
    sweeper.sweep()
    assert deployment.messages() == sent + 2, "its inspector was lost"
    upload = deployment.services.work.claim_upload("inspector")
    assert upload is not None
    deployment.services.work.end_upload(upload, inspection={})
    deployment.age_wake_ups(11)
    sweeper.sweep()
    assert deployment.messages() == sent + 2


def test_idle_queues_of_known_workers_are_pulsed_often_enough_to_know_who_lives(deployment: Deployment) -> None:
    targets = deployment.services.targets
    targets.register("w1", jobs_queue("local"), "local", {}, {"strong": True})
    targets.register("w2", INSPECTIONS, "local", {}, {"strong": True})
    sent = deployment.messages()
    deployment.services.sweeper.sweep()
    assert deployment.messages() == sent + 2
    deployment.age_wake_ups(ALIVE_SECONDS / 3 - 2)
    deployment.services.sweeper.sweep()
    assert deployment.messages() == sent + 2
    deployment.age_wake_ups(3)
    deployment.services.sweeper.sweep()
    assert deployment.messages() == sent + 4
    assert [target.alive for target in targets.all()] == [True]
    with deployment.database.write() as session:
        worker = workers.all_workers(session, within_ms=1)[0][0]
        worker.seen_at -= (ALIVE_SECONDS + 1) * 1000
        session.flush()
    assert [target.alive for target in targets.all()] == [worker.id == "w2"]


# A broker that is not well


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a Redis of our own at `tmp_path/redis.sock`."""
    address = tmp_path / "redis.sock"
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [
            redis_server_binary(),
            "--port",
            "0",
            "--unixsocket",
            str(address),
            "--save",
            "",
            "--dir",
            str(tmp_path),
        ]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        client = redis.Redis(unix_socket_path=str(address))
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        client.close()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def with_broker(deployment: Deployment, url: str) -> Deployment:
    settings = Settings(
        data_dir=deployment.folder,
        database_url=deployment.database.url.render_as_string(hide_password=False),
        api_key="a-key-for-tests-only",
        broker_url=url,
    )
    return Deployment(wiring.build(settings), deployment.folder)


def submit_quickly(deployment: Deployment, times: int = 1) -> None:
    """So many submissions at once, none of which takes long or fails."""
    model = deployment.model()
    before = deployment.count(Job)
    begun = time.monotonic()
    answers = at_once([lambda: deployment.submit(model) for _ in range(times)])
    assert time.monotonic() - begun < PATIENCE_SECONDS
    assert [answer for answer in answers if not isinstance(answer, str)] == []
    assert deployment.count(Job) == before + times


def test_a_broker_that_is_not_there_costs_a_submission_nothing(deployment: Deployment) -> None:
    other = with_broker(deployment, f"redis+socket://{deployment.folder}/nobody.sock")
    submit_quickly(other, 4)
    other.services.close()


def test_a_broker_that_does_not_answer_costs_no_more_than_a_few_seconds(deployment: Deployment) -> None:
    """As a stopped process or a dead network do: connections are made, and nothing comes back."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        other = with_broker(deployment, f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        submit_quickly(other, 6)
        begun = time.monotonic()
        other.services.sweeper.sweep()
        assert time.monotonic() - begun < PATIENCE_SECONDS
        other.services.close()


def test_a_broker_without_memory_costs_no_submission(
    deployment: Deployment, tmp_path: Path, redis_server: Callable[[], subprocess.Popen[bytes]]
) -> None:
    redis_server()
    address = tmp_path / "redis.sock"
    with redis.Redis(unix_socket_path=str(address)) as client:
        client.config_set("maxmemory", "1")
        client.config_set("maxmemory-policy", "noeviction")
    other = with_broker(deployment, f"redis+socket://{address}")
    submit_quickly(other)
    assert not other.services.wake_ups.send("jobs.local")
    other.services.close()


def test_what_a_dead_broker_missed_the_sweeper_sends_when_it_is_back(
    deployment: Deployment, tmp_path: Path, redis_server: Callable[[], subprocess.Popen[bytes]]
) -> None:
    process = redis_server()
    address = tmp_path / "redis.sock"
    other = with_broker(deployment, f"redis+socket://{address}")
    submit_quickly(other)
    with redis.Redis(unix_socket_path=str(address)) as client:
        assert client.llen("jobs.local") == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    submit_quickly(other)
    other.services.sweeper.sweep()
    redis_server()
    time.sleep(REST_SECONDS)
    other.age_wake_ups(11)
    other.services.sweeper.sweep()
    with redis.Redis(unix_socket_path=str(address)) as client:
        assert client.llen("jobs.local") == 1, "one wake-up for all that waits"
    other.services.close()


def test_a_connection_that_died_with_the_last_broker_is_not_used_again(
    tmp_path: Path, redis_server: Callable[[], subprocess.Popen[bytes]]
) -> None:
    process = redis_server()
    wake_ups = WakeUps(f"redis+socket://{tmp_path / 'redis.sock'}")
    assert wake_ups.send("jobs.local")
    process.send_signal(signal.SIGKILL)
    process.wait()
    redis_server()
    assert wake_ups.send("jobs.local"), "the broker is there: only the old connection is not"
    wake_ups.check()
    wake_ups.close()
