"""A worker that starts: what it finds of its machine, what it keeps, and when it does not start."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.db.session import Database
from app.db.tables import MeasuringLock, Worker
from app.domain.profiles import PROFILES
from app.domain.target import CUDA_PROVIDER, PROCESSOR, Fingerprint, Tried
from app.errors import BitpressError, SandboxError
from app.queue.names import INSPECTIONS, jobs_queue
from app.settings import Settings
from workers.lifecycle import open_station
from workers.tasks import station as stations
from workers.tasks.looking import look_for_jobs
from workers.tasks.station import TRIED_FILE, Station

LOCAL = jobs_queue("local")


@pytest.fixture
def settings(database: Database, tmp_path: Path) -> Settings:
    url = database.url.render_as_string(hide_password=False)
    # No job runs, so that a weak sandbox matters to nobody here.
    return Settings(
        data_dir=tmp_path,
        machine_lock_dir=tmp_path,
        database_url=url,
        api_key="a-key-for-tests-only",
        allow_weak_sandbox=True,
    )


@pytest.fixture
def opened(settings: Settings) -> Iterator[Any]:
    """Starts a worker as its process would, and stops it again."""
    running: list[Station] = []

    def start(queue: str = LOCAL, **changes: Any) -> Station:
        running.append(open_station(settings.model_copy(update=changes), queue))
        return running[-1]

    yield start
    for station in running:
        station.services.close()


def registered(database: Database) -> dict[str, dict[str, Any]]:
    """The fingerprint that each worker's row has, by queue."""
    with database.read() as session:
        return {row.queue: row.fingerprint for row in session.scalars(select(Worker))}


def kept(settings: Settings) -> Path:
    return settings.data_dir / "scratch" / TRIED_FILE


def test_a_machine_is_measured_once(opened: Any, settings: Settings, database: Database) -> None:
    first = opened()
    found = Fingerprint.model_validate(first.fingerprint)
    assert found.peaks is not None
    assert {peak.resource for peak in found.peaks.measured} >= {"fp32", "int8"}
    assert found.providers is not None
    assert registered(database) == {LOCAL: first.fingerprint}
    left = Tried.model_validate_json(kept(settings).read_bytes())
    assert left == Tried.of(found)
    # Undisturbed, whatever else ran here: then the next one has nothing to measure.
    steady = left.model_dump(mode="json")
    steady["peaks"] |= {"neighbour_cpus": 0.0, "notes": ["kept"]}
    for peak in steady["peaks"]["measured"]:
        peak["spread"] = 0.0
    kept(settings).write_text(json.dumps(steady))
    assert opened().fingerprint["peaks"]["notes"] == ["kept"]
    # Started anew, it is measured anew.
    kept(settings).write_text(json.dumps(steady | {"boot_id": "another"}))
    assert opened().fingerprint["peaks"]["notes"] != ["kept"]
    assert Tried.model_validate_json(kept(settings).read_bytes()).boot_id == found.boot_id
    # What was left half-written is no reason not to start.
    kept(settings).write_text('{"id": "')
    assert opened().fingerprint["peaks"]["measured"]


def test_an_inspecting_worker_measures_nothing(opened: Any, settings: Settings) -> None:
    assert opened(INSPECTIONS).fingerprint["peaks"] is None
    assert not kept(settings).exists()


def test_the_machine_is_measured_under_its_lock(opened: Any, database: Database) -> None:
    holders: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with database.read() as session:
                holders.update(session.scalars(select(MeasuringLock.holder)))
            time.sleep(0.02)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        station = opened()
    finally:
        done.set()
        looking.join()
    assert holders == {station.worker_id}
    with database.read() as session:
        assert session.scalars(select(MeasuringLock)).all() == [], "it is given back"


def test_a_machine_on_which_others_measure_is_left_alone(
    opened: Any, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspector = opened(INSPECTIONS)
    boot_id = inspector.fingerprint["boot_id"]
    assert inspector.services.targets.take_measuring_lock(boot_id, "a job", lease_seconds=60)
    monkeypatch.setattr(stations, "_LOCK_SECONDS", 0.3)
    station = opened()
    assert station.fingerprint["peaks"] is None
    assert registered(database)[LOCAL] == station.fingerprint, "it serves all the same"
    assert not kept(settings).exists()
    with database.read() as session:
        assert list(session.scalars(select(MeasuringLock.holder))) == ["a job"]


def test_a_machine_on_which_others_work_is_left_alone(
    opened: Any, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of another deployment, which the database knows nothing of."""
    inspector = opened(INSPECTIONS)
    monkeypatch.setattr(stations, "_LOCK_SECONDS", 0.3)
    with inspector.machine_lock.held(alone=False, wait=pytest.fail):
        station = opened()
        assert station.fingerprint["peaks"] is None
        with database.read() as session:
            assert session.scalars(select(MeasuringLock)).all() == []
    # Once they are done and nothing waits here, it is measured.
    assert look_for_jobs(station) == 0
    assert station.fingerprint["peaks"] is not None
    assert registered(database)[LOCAL] == station.fingerprint


@pytest.fixture
def affinity() -> Iterator[set[int]]:
    """The processors that this thread may use, which a test may change."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("there is one processor")
    yield allowed
    os.sched_setaffinity(0, allowed)


def test_a_machine_that_changes_under_a_worker_is_described_anew(
    opened: Any, database: Database, settings: Settings, affinity: set[int]
) -> None:
    station = opened()
    before = station.fingerprint
    assert not station.look_again()
    assert station.fingerprint is before
    os.sched_setaffinity(0, [min(affinity)])
    assert look_for_jobs(station) == 0
    now = station.fingerprint
    assert (before["cores"], now["cores"]) == (len(affinity), 1)
    assert now["id"] != before["id"]
    assert registered(database)[LOCAL] == now, "callers see the machine as it is"
    assert {peak["threads"] for peak in now["peaks"]["measured"]} == {1}, "what two cores did at most is forgotten"
    assert Tried.model_validate_json(kept(settings).read_bytes()).id == now["id"]
    assert not station.look_again()
    os.sched_setaffinity(0, affinity)
    assert station.look_again()
    assert station.fingerprint["id"] == before["id"]


def test_a_job_is_claimed_by_the_machine_as_it_is(
    opened: Any, affinity: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    station = opened()
    before, claimed = station.fingerprint["id"], list[str]()

    def claim(target: str, worker: str, *, fingerprint: str) -> None:
        claimed.append(fingerprint)

    monkeypatch.setattr(station.services.work, "claim_job", claim)
    look_for_jobs(station)
    os.sched_setaffinity(0, [min(affinity)])
    look_for_jobs(station)
    assert claimed == [before, station.fingerprint["id"]]
    assert claimed[1] != before


def test_nothing_is_claimed_on_a_machine_that_changed_and_cannot_be_described(
    opened: Any, affinity: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    station = opened()

    def broken(*_: Any, **__: Any) -> Any:
        raise SandboxError("It died.", code="step_crashed")

    with monkeypatch.context() as patch:
        patch.setattr(stations, "probe_machine", broken)
        patch.setattr(station.services.work, "claim_job", pytest.fail)
        os.sched_setaffinity(0, [min(affinity)])
        for _ in range(2):
            with pytest.raises(SandboxError):
                look_for_jobs(station)
    assert look_for_jobs(station) == 0
    assert station.fingerprint["cores"] == 1


def test_what_jobs_run_on_is_set_or_the_profile_s(
    opened: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = opened()
    assert plain.providers == (PROCESSOR,)
    assert plain.fingerprint["runs_on"] == [PROCESSOR]
    both = (CUDA_PROVIDER, PROCESSOR)
    other = opened(providers=both)
    assert other.providers == both
    assert other.fingerprint["runs_on"] == [*both]
    assert other.fingerprint["id"] != plain.fingerprint["id"], "what they measure must not be compared"
    assert other.fingerprint["peaks"] is not None
    if CUDA_PROVIDER not in {provider["name"] for provider in other.fingerprint["providers"]}:
        assert f"{CUDA_PROVIDER}, which does not open" in caplog.text
    left = Tried.model_validate_json(kept(settings).read_bytes())
    assert left.id == plain.fingerprint["id"], "the machine that was measured is the same"
    assert not other.look_again()
    # As if this machine had a GPU.
    monkeypatch.setattr("workers.lifecycle.refuse_false_name", lambda name, features: None)
    assert opened(jobs_queue("cuda"), target="cuda").providers == (CUDA_PROVIDER,)


def test_no_worker_goes_by_a_profile_that_its_machine_is_not(opened: Any, database: Database) -> None:
    features = set(opened(INSPECTIONS).fingerprint["features"])
    false = next(name for name, profile in PROFILES.items() if not set(profile.features) <= features)
    with pytest.raises(BitpressError) as refused:
        opened(jobs_queue(false), target=false)
    assert refused.value.code == "profile_not_met"
    assert set(registered(database)) == {INSPECTIONS}
    # Looking into uploads is done alike on any machine.
    assert opened(INSPECTIONS, target=false).target == false
