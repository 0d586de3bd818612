"""Who has which work: one worker at a time, by lease, and nobody after that."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, update

from app.api.schemas.documents import job_document
from app.db.tables import Artifact, Dataset, Job, Model
from app.domain.job import MAX_ATTEMPTS
from app.errors import Conflict, RejectedInput, StepError
from app.services.work import CancelRequested, ClaimedJob, ClaimedUpload, FinishedStep, LeaseLost
from tests.parts.deployment import LONG_AGO, MEASURED, Deployment, at_once

FAILURE = StepError("It did not work.", code="did_not_work")


def claims(answers: list[Any]) -> list[Any]:
    """What was claimed; an exception fails the test."""
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if answer is not None]


def test_one_row_goes_to_one_of_those_who_claim_at_once(deployment: Deployment) -> None:
    model = deployment.model()
    for _ in range(8):
        job_id = deployment.submit(model)
        answers = claims(at_once([lambda name=f"w{n}": deployment.claim(name) for n in range(4)]))
        assert [(job.id, job.attempt) for job in answers] == [(job_id, 1)]


def test_several_rows_go_to_several_who_claim_at_once(deployment: Deployment) -> None:
    model = deployment.model()
    for _ in range(6):
        expected = {deployment.submit(model) for _ in range(3)}
        taken: list[ClaimedJob] = []
        while len(taken) < 3:  # one who finds the best row being taken by another may go without
            got = claims(at_once([lambda name=f"w{n}": deployment.claim(name) for n in range(3)]))
            assert got, "nobody got anything while rows wait"
            taken += got
        assert {job.id for job in taken} == expected
        assert len(taken) == 3


def test_one_upload_goes_to_one_of_those_who_claim_at_once(deployment: Deployment) -> None:
    for number in range(6):
        row = deployment.services.models.record(deployment.receive(b"m%d" % number), "m.onnx", None, {})
        answers = claims(at_once([lambda n=n: deployment.services.work.claim_upload(f"w{n}") for n in range(4)]))
        assert [(upload.id, upload.attempt) for upload in answers] == [(row.id, 1)]
        deployment.services.work.end_upload(answers[0], inspection={})


def test_the_highest_priority_goes_first_and_then_the_oldest(deployment: Deployment) -> None:
    model = deployment.model()
    priorities = [3, 9, 3, 0, 9, 5, 5]
    ids = [deployment.submit(model, priority=priority) for priority in priorities]
    expected = [ids[place] for place in sorted(range(len(ids)), key=lambda place: (-priorities[place], place))]
    positions = {job_id: deployment.services.jobs.get(job_id).queue_position for job_id in ids}
    assert sorted(ids, key=lambda job_id: positions[job_id] or 0) == expected
    assert sorted(filter(None, positions.values())) == list(range(1, len(ids) + 1))
    assert [deployment.claimed().id for _ in ids] == expected
    assert deployment.claim() is None


def test_a_worker_takes_jobs_of_its_own_target_only(deployment: Deployment) -> None:
    model = deployment.model()
    here, there = deployment.submit(model), deployment.submit(model, target="there", priority=9)
    assert deployment.services.jobs.get(here).queue_position == 1
    assert deployment.claimed(target="local").id == here
    assert deployment.claim(target="local") is None
    assert deployment.claimed(target="there").id == there


def test_a_claim_says_all_that_a_worker_needs(deployment: Deployment) -> None:
    model, data = deployment.model(b"the model"), deployment.dataset(b"the data")
    deployment.submit(model, datasets={"evaluation": data.id}, name="mine")
    before = deployment.now()
    job = deployment.claimed("me")
    assert job.spec.name == "mine"
    assert (job.model.id, job.model.bytes) == (model.id, 9)
    assert deployment.services.store.read(job.model.location, 100) == b"the model"
    assert {role: found.id for role, found in job.datasets.items()} == {"evaluation": data.id}
    row = deployment.job(job.id)
    assert (row.state, row.worker, row.attempt) == ("running", "me", 1)
    assert row.lease_until is not None
    assert before + 29_000 < row.lease_until <= deployment.now() + 30_000


def old_attempt_writes(deployment: Deployment, job: ClaimedJob) -> list[Any]:
    """Every way in which an attempt can write."""
    work = deployment.services.work
    step = FinishedStep("inspect", {"rows": {}}, 1.0)
    return [
        lambda: work.renew(job),
        lambda: work.renew(job, progress=0.9, stage="gate"),
        lambda: work.record_step(job, step, {"file": deployment.put(b"file")}, fingerprint="machine"),
        lambda: deployment.succeed(job),
        lambda: work.fail(job, FAILURE, log=None),
        lambda: work.fail(job, FAILURE, log=deployment.put(b"log")),
        lambda: work.cancelled(job, log=None),
    ]


def visible(row: Job) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in Job.__table__.columns}


def evaluation_of(deployment: Deployment, artifact: str) -> str:
    view, _ = deployment.services.jobs.submit({"kind": "evaluate", "model": artifact}, idempotency_key=None)
    return view.job.id


def test_an_artifact_is_claimed_with_the_options_that_it_requires(deployment: Deployment) -> None:
    maker = deployment.submit(deployment.model())
    [artifact] = deployment.succeed(deployment.claimed(), b"the artifact")
    options = {"session.x64quantprecision": "1"}
    with deployment.database.write() as session:
        job = session.get_one(Job, maker)
        job.outcome = {"candidates": [{"id": "cnd_1", "session_options": options}]}
    waiting = evaluation_of(deployment, artifact)
    claimed = deployment.claimed()
    assert (claimed.id, claimed.model.id, claimed.session_options) == (waiting, artifact, options)
    assert deployment.services.store.read(claimed.model.location, 100) == b"the artifact"


def test_an_artifact_stays_until_its_evaluation_has_ended(deployment: Deployment) -> None:
    maker = deployment.submit(deployment.model())
    [artifact] = deployment.succeed(deployment.claimed())
    waiting = evaluation_of(deployment, artifact)
    for forget in (
        lambda: deployment.services.artifacts.delete(artifact),
        lambda: deployment.services.jobs.delete(maker),
    ):
        with pytest.raises(Conflict) as refused:
            forget()
        assert refused.value.code == "artifact_in_use"
        assert waiting in refused.value.detail
    deployment.services.jobs.cancel(waiting)
    deployment.services.artifacts.delete(artifact)
    assert deployment.artifacts(maker) == 0


def test_an_evaluation_of_what_is_gone_fails_and_the_next_job_is_taken(deployment: Deployment) -> None:
    deployment.submit(deployment.model())
    [artifact] = deployment.succeed(deployment.claimed())
    lost = evaluation_of(deployment, artifact)
    following = deployment.submit(deployment.model())
    with deployment.database.write() as session:
        session.execute(delete(Artifact))
    assert deployment.claimed().id == following
    failed = deployment.job(lost)
    assert (failed.state, failed.error and failed.error["code"]) == ("failed", "artifact_not_found")


@pytest.mark.parametrize("taken_over", [False, True])
def test_what_an_attempt_writes_after_its_lease_lapsed_is_not_written(deployment: Deployment, taken_over: bool) -> None:
    job_id = deployment.submit(deployment.model())
    lost = deployment.claimed("first")
    deployment.lapse()
    deployment.services.sweeper.sweep()
    if taken_over:
        assert deployment.claimed("second").attempt == 2
    before = visible(deployment.job(job_id))
    for write in old_attempt_writes(deployment, lost):
        with pytest.raises(LeaseLost):
            write()
    deployment.services.work.give_back(lost)
    assert visible(deployment.job(job_id)) == before
    assert (deployment.artifacts(job_id), deployment.steps(job_id)) == (0, 0)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_job_ends_once(deployment: Deployment, state: str) -> None:
    job_id = deployment.submit(deployment.model())
    job = deployment.claimed()
    if state == "succeeded":
        deployment.succeed(job)
    elif state == "failed":
        deployment.services.work.fail(job, FAILURE, log=None)
    else:
        deployment.services.jobs.cancel(job_id)
        deployment.services.work.cancelled(job, log=None)
    before = visible(deployment.job(job_id))
    made = deployment.artifacts(job_id)
    assert before["state"] == state
    for write in old_attempt_writes(deployment, job):
        with pytest.raises(LeaseLost):
            write()
    assert visible(deployment.job(job_id)) == before
    assert deployment.artifacts(job_id) == made


def test_a_cancel_reaches_the_worker_and_wins_over_success(deployment: Deployment) -> None:
    job_id = deployment.submit(deployment.model())
    job = deployment.claimed()
    assert deployment.services.jobs.cancel(job_id).job.state == "cancelling"
    for write in (
        lambda: deployment.services.work.renew(job),
        lambda: deployment.succeed(job),
        lambda: deployment.services.work.fail(job, FAILURE, log=None),
    ):
        with pytest.raises(CancelRequested):
            write()
    assert deployment.artifacts(job_id) == 0
    deployment.services.work.cancelled(job, log=deployment.put(b"log"))
    row = deployment.job(job_id)
    assert (row.state, row.worker, row.lease_until) == ("cancelled", None, None)
    assert row.ended_at is not None
    assert row.log_blob_id is not None


def test_a_lapsed_lease_puts_the_job_back_and_the_last_one_ends_it(deployment: Deployment) -> None:
    job_id = deployment.submit(deployment.model())
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert deployment.claimed().attempt == attempt
        deployment.services.sweeper.sweep()
        assert deployment.job(job_id).state == "running", "its lease has not lapsed"
        deployment.lapse()
        deployment.services.sweeper.sweep()
        row = deployment.job(job_id)
        assert row.state == ("queued" if attempt < MAX_ATTEMPTS else "failed")
        assert (row.worker, row.lease_until) == (None, None)
    assert row.error is not None
    assert (row.error["code"], row.error["retryable"]) == ("worker_lost", True)
    assert str(MAX_ATTEMPTS) in row.error["detail"]
    assert row.ended_at is not None
    assert deployment.claim() is None


def test_a_lapsed_lease_ends_a_job_that_was_being_cancelled(deployment: Deployment) -> None:
    job_id = deployment.submit(deployment.model())
    deployment.claimed()
    deployment.services.jobs.cancel(job_id)
    deployment.lapse()
    deployment.services.sweeper.sweep()
    row = deployment.job(job_id)
    assert (row.state, row.lease_until) == ("cancelled", None)
    assert row.ended_at is not None


def test_renewing_keeps_the_lease_and_shows_progress(deployment: Deployment) -> None:
    job_id = deployment.submit(deployment.model())
    job = deployment.claimed()
    version = deployment.job(job_id).version
    deployment.lapse()
    deployment.services.work.renew(job)
    deployment.services.sweeper.sweep()
    row = deployment.job(job_id)
    assert (row.state, row.version) == ("running", version), "a bare renewal is no change that callers see"
    deployment.services.work.renew(job, progress=0.5, stage="baseline")
    row = deployment.job(job_id)
    assert (row.progress, row.stage) == (0.5, "baseline")
    assert row.version > version


def test_waiting_too_long_fails(deployment: Deployment) -> None:
    model = deployment.model()
    short, long = (deployment.submit(model, limits={"queue_seconds": seconds}) for seconds in (0.001, 1000))
    deployment.services.sweeper.sweep()
    row = deployment.job(short)
    assert (row.state, deployment.job(long).state) == ("failed", "queued")
    assert row.error is not None
    assert (row.error["code"], row.error["retryable"]) == ("queue_timeout", True)
    assert row.ended_at is not None
    assert deployment.claimed().id == long


def test_waiting_too_long_after_its_worker_was_lost_says_so(deployment: Deployment) -> None:
    job_id = deployment.submit(deployment.model())
    deployment.claimed()
    deployment.lapse()
    deployment.services.sweeper.sweep()
    with deployment.database.write() as session:
        session.execute(update(Job).values(queue_until=LONG_AGO))
    deployment.services.sweeper.sweep()
    row = deployment.job(job_id)
    assert row.error is not None
    assert row.error["code"] == "queue_timeout"
    assert "was lost" in row.error["detail"]
    assert (row.stage, row.message) == (None, None)


STEPS = {
    "inspect": {"rows": {"evaluation": 4}},
    "baseline": {"measurements": MEASURED},
}


def lost_for_good(deployment: Deployment, job: ClaimedJob) -> str:
    for attempt in range(1, MAX_ATTEMPTS + 1):
        deployment.lapse()
        deployment.services.sweeper.sweep()
        if attempt < MAX_ATTEMPTS:
            deployment.claimed()
    return "failed"


def waiting_for_ever(deployment: Deployment, job: ClaimedJob) -> str:
    deployment.services.work.give_back(job)
    with deployment.database.write() as session:
        session.execute(update(Job).values(queue_until=LONG_AGO))
    deployment.services.sweeper.sweep()
    return "failed"


def failing(deployment: Deployment, job: ClaimedJob) -> str:
    deployment.services.work.fail(job, FAILURE, log=None)
    return "failed"


def cancelled_while_queued(deployment: Deployment, job: ClaimedJob) -> str:
    deployment.services.work.give_back(job)
    deployment.services.jobs.cancel(job.id)
    return "cancelled"


def cancelled_while_running(deployment: Deployment, job: ClaimedJob) -> str:
    deployment.services.jobs.cancel(job.id)
    deployment.services.work.cancelled(job, log=None)
    return "cancelled"


def cancelled_and_lost(deployment: Deployment, job: ClaimedJob) -> str:
    deployment.services.jobs.cancel(job.id)
    deployment.lapse()
    deployment.services.sweeper.sweep()
    return "cancelled"


ENDS = (
    lost_for_good,
    waiting_for_ever,
    failing,
    cancelled_while_queued,
    cancelled_while_running,
    cancelled_and_lost,
)


@pytest.mark.parametrize("steps", [2, 1, 0])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_whatever_ends_a_job_what_it_measured_is_kept(
    deployment: Deployment, end: Callable[[Deployment, ClaimedJob], str], steps: int
) -> None:
    """Before anything was measured there is no outcome, and after no end are there any steps."""
    job_id = deployment.submit(deployment.model())
    job = deployment.claimed()
    for folder, result in list(STEPS.items())[:steps]:
        deployment.services.work.record_step(job, FinishedStep(folder, result, 1.0), {}, fingerprint="machine")
    state = end(deployment, job)
    view = deployment.services.jobs.get(job_id)
    assert (view.job.state, deployment.steps(job_id)) == (state, 0)
    document = job_document(view)
    assert (document["baseline"] is not None) == (steps == 2)
    if steps == 2:
        assert document["baseline"]["measurements"] == MEASURED
        assert "did not come to its end" in document["notes"][0]
    assert (document["candidates"], document["chosen"], document["gate"]) == ([], None, None)


@pytest.mark.parametrize("how", ["lapse", "give_back"])
def test_a_job_that_comes_back_waits_anew(deployment: Deployment, how: str) -> None:
    """It was taken in time: that its worker was lost much later is no reason to call that a timeout."""
    job_id = deployment.submit(deployment.model(), limits={"queue_seconds": 500})
    for _ in range(MAX_ATTEMPTS - 1):
        job = deployment.claimed()
        with deployment.database.write() as session:
            session.execute(update(Job).values(queue_until=LONG_AGO))
        if how == "lapse":
            deployment.lapse()
        else:
            deployment.services.work.give_back(job)
        deployment.services.sweeper.sweep()
        row = deployment.job(job_id)
        assert row.state == "queued", row.error
        assert 495_000 < row.queue_until - deployment.now() <= 500_000


def test_a_worker_that_stops_gives_its_job_back_at_once(deployment: Deployment) -> None:
    job_id = deployment.submit(deployment.model())
    job = deployment.claimed("first")
    deployment.services.work.record_step(job, FinishedStep("inspect", {"rows": {}}, 1.0), {}, fingerprint="machine")
    deployment.services.work.give_back(job)
    row = deployment.job(job_id)
    assert (row.state, row.worker, row.lease_until) == ("queued", None, None)
    again = deployment.claimed("second")
    assert (again.id, again.attempt) == (job_id, 2)
    assert again.finished["inspect"].result == {"rows": {}}
    with pytest.raises(LeaseLost):
        deployment.services.work.renew(job)


def test_a_takeover_goes_on_from_finished_steps_unless_on_another_machine(deployment: Deployment) -> None:
    deployment.submit(deployment.model())
    job = deployment.claimed(fingerprint="one")
    kept = deployment.put(b"outputs")
    step = FinishedStep("baseline", {"rows": 3}, 2.5)
    deployment.services.work.record_step(job, step, {"outputs.npz": kept}, fingerprint="one")
    deployment.lapse()
    deployment.services.sweeper.sweep()
    same = deployment.claimed(fingerprint="one")
    found = same.finished["baseline"]
    assert (found.result, found.seconds) == ({"rows": 3}, 2.5)
    assert deployment.services.store.read(found.files["outputs.npz"].location, 100) == b"outputs"
    deployment.lapse()
    deployment.services.sweeper.sweep()
    assert deployment.claimed(fingerprint="other").finished == {}
    assert deployment.steps(job.id) == 0


def test_started_at_is_when_it_was_first_started(deployment: Deployment) -> None:
    job_id = deployment.submit(deployment.model())
    deployment.claimed()
    first = deployment.job(job_id).started_at
    deployment.lapse()
    deployment.services.sweeper.sweep()
    deployment.claimed()
    assert deployment.job(job_id).started_at == first


# Uploads


def claimed_upload(deployment: Deployment) -> ClaimedUpload:
    upload = deployment.services.work.claim_upload("inspector")
    assert upload is not None
    return upload


def test_uploads_are_inspected_oldest_first(deployment: Deployment) -> None:
    rows = [deployment.services.datasets.record(deployment.receive(b"d%d" % n), "d.npz", None, {}) for n in range(3)]
    assert [claimed_upload(deployment).id for _ in rows] == [row.id for row in rows]
    assert deployment.services.work.claim_upload("inspector") is None


@pytest.mark.parametrize("table", [Model, Dataset])
def test_an_inspection_that_lapses_is_begun_again_and_the_old_one_writes_nothing(
    deployment: Deployment, table: type[Model] | type[Dataset]
) -> None:
    services = deployment.services
    uploads = services.models if table is Model else services.datasets
    row = uploads.record(deployment.receive(b"content"), "file", None, {})
    old = claimed_upload(deployment)
    assert (old.id, old.is_model) == (row.id, table is Model)
    services.work.renew_upload(old)
    deployment.lapse(table)
    new = claimed_upload(deployment)
    assert (new.id, new.attempt) == (row.id, 2)
    for write in (
        lambda: services.work.renew_upload(old),
        lambda: services.work.end_upload(old, inspection={"rows": 1}),
        lambda: services.work.end_upload(old, error=RejectedInput("No.", code="no")),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert uploads.get(row.id).state == "inspecting"
    services.work.end_upload(new, error=RejectedInput("Not what it says.", code="not_onnx"))
    found = uploads.get(row.id)
    assert (found.state, found.inspection, found.lease_until) == ("rejected", None, None)
    assert found.error is not None
    assert found.error["code"] == "not_onnx"
    with pytest.raises(LeaseLost):
        services.work.end_upload(new, inspection={"rows": 1})


def test_an_inspection_of_what_was_deleted_is_lost(deployment: Deployment) -> None:
    row = deployment.services.models.record(deployment.receive(b"content"), "file", None, {})
    upload = claimed_upload(deployment)
    deployment.services.models.delete(row.id)
    with pytest.raises(LeaseLost):
        deployment.services.work.renew_upload(upload)
    with pytest.raises(LeaseLost):
        deployment.services.work.end_upload(upload, inspection={})


def test_only_one_at_a_time_measures_on_a_machine(deployment: Deployment) -> None:
    targets = deployment.services.targets
    for _ in range(6):
        names = [f"holder-{number}" for number in range(4)]
        random.shuffle(names)
        answers = at_once([lambda n=n: (n, targets.take_measuring_lock("boot", n, lease_seconds=60)) for n in names])
        holders = [answer[0] for answer in answers if isinstance(answer, tuple) and answer[1]]
        assert len(holders) == 1, answers
        assert targets.take_measuring_lock("boot", holders[0], lease_seconds=60), "its holder extends it"
        assert targets.take_measuring_lock("another boot", "someone else", lease_seconds=0.001)
        for name in names:
            targets.give_back_measuring_lock("boot", name)
    assert targets.take_measuring_lock("boot", "one", lease_seconds=-1)
    assert targets.take_measuring_lock("boot", "two", lease_seconds=60), "a lapsed lock is free"
