"""No sequence of calls takes a job where the table of transitions does not lead.

A trigger in the database writes down every change of a job's state, so that nothing in between is missed.
"""

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select, text

from app.db.session import Database
from app.db.tables import Artifact, Job, JobStep
from app.domain.job import ENDED, TRANSITIONS, JobState
from app.errors import Conflict, NotFound, StepError
from app.services.work import CancelRequested, ClaimedJob, FinishedStep, LeaseLost
from tests.parts.deployment import LONG_AGO, Deployment, at_once

FAILURE = StepError("It did not work.", code="did_not_work")
BEGUN = "begun"

_SQLITE = (
    "CREATE TABLE walked (before TEXT, after TEXT)",
    f"CREATE TRIGGER begun AFTER INSERT ON jobs BEGIN INSERT INTO walked VALUES ('{BEGUN}', NEW.state); END",
    "CREATE TRIGGER changed AFTER UPDATE OF state ON jobs BEGIN INSERT INTO walked VALUES (OLD.state, NEW.state); END",
)
_POSTGRES = (
    "CREATE TABLE walked (before TEXT, after TEXT)",
    f"""CREATE FUNCTION begun() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO walked VALUES ('{BEGUN}', NEW.state); RETURN NEW; END$$""",
    """CREATE FUNCTION changed() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO walked VALUES (OLD.state, NEW.state); RETURN NEW; END$$""",
    "CREATE TRIGGER begun AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION begun()",
    "CREATE TRIGGER changed AFTER UPDATE OF state ON jobs FOR EACH ROW EXECUTE FUNCTION changed()",
)
_AWAY = {
    True: ("DROP TRIGGER begun", "DROP TRIGGER changed", "DROP TABLE walked"),
    False: ("DROP FUNCTION begun CASCADE", "DROP FUNCTION changed CASCADE", "DROP TABLE walked"),
}


@pytest.fixture
def walked(database: Database) -> Iterator[Callable[[], Counter[tuple[str, str]]]]:
    """How often each change of state has happened; a change to the same state is one too."""

    def seen() -> Counter[tuple[str, str]]:
        with database.read() as session:
            return Counter((row.before, row.after) for row in session.execute(text("SELECT * FROM walked")))

    with database.write() as session:
        for statement in _SQLITE if database.is_sqlite else _POSTGRES:
            session.execute(text(statement))
    yield seen
    with database.write() as session:
        for statement in _AWAY[database.is_sqlite]:
            session.execute(text(statement))


def forbidden(changes: Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    allowed = {(before.value, after.value) for before, afters in TRANSITIONS.items() for after in afters}
    return [change for change in changes if change not in allowed | {(BEGUN, "queued")}]


def test_a_forbidden_change_would_be_seen(
    deployment: Deployment, walked: Callable[[], Counter[tuple[str, str]]]
) -> None:
    job_id = deployment.submit(deployment.model())
    assert forbidden(walked()) == []
    with deployment.database.write() as session:
        session.execute(text("UPDATE jobs SET state = 'succeeded' WHERE id = :id"), {"id": job_id})
    assert forbidden(walked()) == [("queued", "succeeded")]


class Walk:
    """Callers, workers that are lost and come back late, and the sweeper, in a random order.

    Every call is checked against what the row said before it, and every row after each call.
    """

    def __init__(self, deployment: Deployment, seed: int) -> None:
        self.deployment = deployment
        self.chance = random.Random(seed)
        self.model = deployment.model()
        self.jobs: list[str] = []
        self.claims: list[ClaimedJob] = []
        self.ended: dict[str, dict[str, Any]] = {}
        self.trail: list[str] = []

    def go(self, steps: int) -> None:
        acts = [self.submit, self.claim, self.claim, self.write, self.write, self.write, self.sweep, self.sweep]
        acts += [self.cancel, self.delete, self.leases_lapse, self.waiting_ends, self.come_back_late]
        for _ in range(steps):
            act = self.chance.choice(acts)
            self.trail.append(act.__name__)
            act()
            self.check_rows()

    # Callers

    def submit(self) -> None:
        if len(self.jobs) < 8:
            self.jobs.append(self.deployment.submit(self.model, priority=self.chance.randrange(10)))

    def cancel(self) -> None:
        if not self.jobs:
            return
        job_id = self.chance.choice(self.jobs)
        before = self.deployment.job(job_id).state
        try:
            after = self.deployment.services.jobs.cancel(job_id).job.state
        except Conflict:
            assert JobState(before) in ENDED
        else:
            assert after == ("cancelled" if before == "queued" else "cancelling")

    def delete(self) -> None:
        for job_id in list(self.jobs):
            ended = JobState(self.deployment.job(job_id).state) in ENDED
            try:
                self.deployment.services.jobs.delete(job_id)
            except Conflict:
                assert not ended
            else:
                assert ended
                self.jobs.remove(job_id)
                del self.ended[job_id]

    # Workers

    def claim(self) -> None:
        waiting = [job_id for job_id in self.jobs if self.deployment.job(job_id).state == "queued"]
        job = self.deployment.claim(self.chance.choice("ab"))
        assert (job is None) == (not waiting)
        if job is not None:
            self.claims.append(job)

    def come_back_late(self) -> None:
        """A worker forgets that it was lost."""
        if self.claims:
            self.claims.append(self.chance.choice(self.claims))

    def write(self) -> None:
        """What an attempt writes is written if the attempt has the job, and only then."""
        if not self.claims:
            return
        job = self.claims.pop(self.chance.randrange(len(self.claims)))
        row = self.deployment.job(job.id) if job.id in self.jobs else None
        state = row.state if row is not None and row.attempt == job.attempt else None
        has, cancelling = state in ("running", "cancelling"), state == "cancelling"
        work = self.deployment.services.work
        step = FinishedStep("inspect", {"rows": {}}, 1.0)
        # The way of writing, and whether it goes on where the job is being cancelled.
        ways: list[tuple[Callable[[], object], bool]] = [
            (lambda: work.renew(job), False),
            (lambda: work.renew(job, progress=0.5, stage="baseline"), False),
            (lambda: work.record_step(job, step, {}, fingerprint="machine"), True),
            (lambda: self.deployment.succeed(job), False),
            (lambda: work.fail(job, FAILURE, log=None), False),
        ]
        if state != "running":  # a worker stops for a cancel only when it was told of one
            ways.append((lambda: work.cancelled(job, log=None), True))
        way = self.chance.randrange(len(ways) + 1)
        self.trail.append(f"  {way} by attempt {job.attempt} of {job.id}: {state}")
        if way == len(ways):
            work.give_back(job)
            assert state != "running" or self.deployment.job(job.id).state == "queued"
            return
        write, goes_on = ways[way]
        try:
            write()
        except LeaseLost:
            assert not has
        except CancelRequested:
            assert cancelling
            assert not goes_on
            self.claims.append(job)
        else:
            assert has
            assert goes_on or not cancelling
            self.claims.append(job)

    # Time

    def leases_lapse(self) -> None:
        self.deployment.lapse()

    def waiting_ends(self) -> None:
        if self.jobs:
            with self.deployment.database.write() as session:
                session.get_one(Job, self.chance.choice(self.jobs)).queue_until = LONG_AGO

    def sweep(self) -> None:
        self.deployment.services.sweeper.sweep()
        for job_id in self.jobs:
            row = self.deployment.job(job_id)
            assert row.lease_until is None or row.lease_until > LONG_AGO, "a lapsed lease stands"
            assert row.state != "queued" or row.queue_until > LONG_AGO, "a job waits for ever"

    # What always holds

    def check_rows(self) -> None:
        with self.deployment.database.read() as session:
            rows = {row.id: row for row in session.scalars(select(Job))}
            made = Counter(session.scalars(select(Artifact.job_id)))
            steps = Counter(session.scalars(select(JobStep.job_id)))
        assert set(rows) == set(self.jobs)
        for job_id, row in rows.items():
            has, over = row.state in ("running", "cancelling"), JobState(row.state) in ENDED
            assert (row.worker is not None, row.lease_until is not None) == (has, has)
            assert (row.ended_at is not None) == over
            assert (row.error is not None) == (row.state == "failed")
            assert (row.started_at is not None) == (row.attempt > 0)
            assert made[job_id] == (row.state == "succeeded")
            assert not (over and steps[job_id]), "steps of an ended job are kept"
            if over:
                content = {column.name: getattr(row, column.name) for column in Job.__table__.columns}
                content.pop("queue_until")  # which `waiting_ends` moves
                assert self.ended.setdefault(job_id, content) == content, "an ended job changed"


def test_no_sequence_of_calls_leaves_the_table(
    deployment: Deployment, walked: Callable[[], Counter[tuple[str, str]]]
) -> None:
    walk = Walk(deployment, seed=7)
    try:
        walk.go(250)
    except BaseException as error:
        error.add_note("\n".join(walk.trail[-40:]))
        raise
    seen = walked()
    assert forbidden(seen) == []
    for before, afters in TRANSITIONS.items():
        for after in afters - ({JobState.QUEUED} if before in ENDED else set()):  # retries come later
            assert seen[before, after], f"{before} → {after} was never walked: the test is too short to tell"


def refusal(act: Callable[[], object]) -> str | None:
    """The code of what an act was refused with. A job that is there, and has not ended, can be cancelled."""
    try:
        act()
    except (Conflict, NotFound) as error:
        return "cancel refused" if error.detail == "The job has ended already: queued." else error.code
    return None


def test_nor_do_calls_at_the_same_time(deployment: Deployment, walked: Callable[[], Counter[tuple[str, str]]]) -> None:
    """Several threads do everything at once to a few jobs; whatever is raised is an answer, never a crash."""
    model = deployment.model()
    work, services = deployment.services.work, deployment.services
    held: list[ClaimedJob] = []
    job_ids: list[str] = []

    def somebody(seed: int) -> Callable[[], None]:
        chance = random.Random(seed)

        def claim() -> None:
            if (job := deployment.claim(f"w{seed}")) is not None:
                held.append(job)

        def of_worker(write: Callable[[ClaimedJob], object]) -> Callable[[], object]:
            return lambda: write(chance.choice(held)) if held else None

        def of_caller(call: Callable[[str], object]) -> Callable[[], object]:
            return lambda: call(chance.choice(job_ids)) if job_ids else None

        acts: list[tuple[int, Callable[[], object]]] = [
            (5, lambda: job_ids.append(deployment.submit(model))),
            (6, claim),
            (4, of_caller(services.jobs.cancel)),
            (1, of_caller(services.jobs.delete)),
            (3, of_caller(services.jobs.get)),
            (3, of_worker(lambda job: work.renew(job, progress=0.5))),
            (2, of_worker(deployment.succeed)),
            (2, of_worker(lambda job: work.fail(job, FAILURE, log=None))),
            (2, of_worker(lambda job: work.cancelled(job, log=None))),
            (2, of_worker(work.give_back)),
            # One row at a time: two statements that change many can lock each other out.
            (2, of_caller(lambda job_id: deployment.lapse(row_id=job_id))),
            (2, services.sweeper.sweep),
        ]

        def run() -> None:
            for _ in range(60):
                _, act = chance.choices(acts, weights=[weight for weight, _ in acts])[0]
                with contextlib.suppress(LeaseLost, CancelRequested):
                    assert refusal(act) in (None, "job_ended", "job_not_ended", "job_not_found")

        return run

    answers = at_once([somebody(seed) for seed in range(4)])
    assert answers == [None] * 4, answers
    seen = walked()
    # `work.cancelled` without a cancel is what no worker says, but threads here may.
    assert [change for change in forbidden(seen) if change != ("running", "cancelled")] == []
    assert sum(seen.values()) > 50
