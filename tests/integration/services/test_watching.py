"""Reads that share a query: each caller gets what a read of its own would have given."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from app.errors import NotFound, Unavailable
from app.services.jobs import JobView, Tags
from app.services.watching import JobWatcher
from tests.parts.deployment import Deployment

Given = TypeVar("Given")

NONE: Tags = frozenset()


def together(*asked: Callable[[], Awaitable[Given]]) -> list[Given | BaseException]:
    """Ask everything at once; returns what each was given or told."""

    async def all_of_them() -> list[Given | BaseException]:
        return await asyncio.gather(*(ask() for ask in asked), return_exceptions=True)

    return asyncio.run(all_of_them())


def test_callers_of_many_jobs_get_their_own_and_one_query_serves_them(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, model = deployment.services.jobs, deployment.model()
    deployment.submit(model)
    done = deployment.claimed()
    deployment.succeed(done)
    running = [deployment.submit(model) for _ in range(3)]
    for _ in running:
        deployment.claimed()
    queued = [deployment.submit(model) for _ in range(3)]
    alone = {job_id: jobs.get(job_id) for job_id in (done.id, *running, *queued)}
    asked: list[set[str]] = []
    read = jobs.get_unless
    monkeypatch.setattr(jobs, "get_unless", lambda wanted: asked.append(set(wanted)) or read(wanted))
    watcher = JobWatcher(jobs)
    calls = [
        (job_id, frozenset(tags))
        for job_id, view in alone.items()
        for tags in ((), (view.etag,), ('"0"',), (view.etag, '"0"'), ("*",))
    ]
    answers = together(*(lambda job_id=job_id, tags=tags: watcher.read(job_id, tags) for job_id, tags in calls))
    for (job_id, tags), answer in zip(calls, answers, strict=True):
        view = alone[job_id]
        if tags & {view.etag, "*"}:
            assert answer == view.etag
        else:
            assert isinstance(answer, JobView)
            assert (answer.job.id, answer.etag, answer.artifacts, answer.queue_position, answer.waiting_for) == (
                job_id, view.etag, view.artifacts, view.queue_position, view.waiting_for
            )  # fmt: skip
    assert asked == [set(alone)]


def test_a_read_begins_after_it_was_asked_for(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks while a query runs must not be given what that query found."""
    jobs = deployment.services.jobs
    job_id = deployment.submit(deployment.model())
    claimed = deployment.claimed()
    watcher, read, reads = JobWatcher(jobs), jobs.get_unless, 0

    async def scenario() -> tuple[JobView | str, JobView | str]:
        begun, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def slowly(wanted: dict[str, set[Tags]]) -> dict[str, JobView | str]:
            nonlocal reads
            reads += 1
            found = read(wanted)
            if reads == 1:
                loop.call_soon_threadsafe(begun.set)
                asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
            return found

        monkeypatch.setattr(jobs, "get_unless", slowly)
        early = asyncio.create_task(watcher.read(job_id, NONE))
        await begun.wait()
        await asyncio.to_thread(deployment.services.work.renew, claimed, progress=0.5)
        late = asyncio.create_task(watcher.read(job_id, NONE))
        await asyncio.sleep(0)
        go_on.set()
        return await early, await late

    early, late = asyncio.run(scenario())
    assert isinstance(early, JobView)
    assert isinstance(late, JobView)
    assert (early.job.progress, late.job.progress, reads) == (0.0, 0.5, 2)


def test_what_cannot_be_an_id_spoils_no_other_read(deployment: Deployment) -> None:
    job_id = deployment.submit(deployment.model())
    watcher = JobWatcher(deployment.services.jobs)
    strangers = ("\0", "job_\0", job_id[:-1], job_id + "\n", "job_" + "0" * 26)
    good, *bad = together(
        lambda: watcher.read(job_id, NONE), *(lambda name=name: watcher.read(name, NONE) for name in strangers)
    )
    assert isinstance(good, JobView)
    assert [type(answer) for answer in bad] == [NotFound] * len(strangers)


def test_a_database_that_fails_is_told_to_each_and_asked_again_by_the_next(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = deployment.submit(deployment.model())
    jobs = deployment.services.jobs
    watcher, read = JobWatcher(jobs), jobs.get_unless

    def fail(wanted: object) -> dict[str, JobView | str]:
        raise Unavailable("The database cannot be reached now.", code="database_unavailable")

    async def scenario() -> None:
        monkeypatch.setattr(jobs, "get_unless", fail)
        told = await asyncio.gather(*(watcher.read(job_id, NONE) for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in told] == [Unavailable] * 3
        monkeypatch.setattr(jobs, "get_unless", read)
        assert isinstance(await watcher.read(job_id, NONE), JobView)

    asyncio.run(scenario())


def test_a_wait_ends_when_the_tag_is_none_of_those_known(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.watching.LOOK_SECONDS", 0.02)
    jobs = deployment.services.jobs
    job_id = deployment.submit(deployment.model())
    claimed = deployment.claimed()
    present = jobs.get(job_id).etag
    later = f'"{int(present.strip(chr(34))) + 1}"'
    watcher = JobWatcher(jobs)

    async def scenario() -> None:
        looking = asyncio.create_task(watcher.run())
        several, one, every = (
            asyncio.create_task(watcher.changed(job_id, frozenset(tags), seconds=2))
            for tags in ((present, later, '"x"'), (present,), ("*",))
        )
        await asyncio.to_thread(deployment.services.work.renew, claimed, progress=0.5)
        changed = await one
        assert changed is not None
        assert changed.etag == later
        assert not several.done()
        await asyncio.to_thread(deployment.services.work.renew, claimed, progress=0.6)
        assert await several is not None
        assert await every is None, "there is something for as long as there is a job"
        looking.cancel()

    asyncio.run(scenario())
