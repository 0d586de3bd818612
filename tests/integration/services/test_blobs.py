"""Objects: stored once, there as long as a row needs them, and gone some time after that."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app import wiring
from app.db.repositories import blobs
from app.db.tables import Blob, Model
from app.errors import InvalidRequest, NotFound, PayloadTooLarge, StepError, Unavailable
from app.services.blobs import ABANDONED_SECONDS
from app.services.work import FinishedStep
from app.settings import Settings
from tests.parts.deployment import Deployment, at_once

GRACE_SECONDS = 3600
MiB = 1 << 20


def collect(deployment: Deployment) -> None:
    deployment.services.blobs.sweep()


def upload(deployment: Deployment, content: bytes) -> Model:
    return deployment.services.models.record(deployment.receive(content), "m.onnx", None, {})


def test_equal_bytes_are_stored_once(deployment: Deployment) -> None:
    first, second = upload(deployment, b"the same"), upload(deployment, b"the same")
    data = deployment.services.datasets.record(deployment.receive(b"the same"), "d.npz", None, {})
    assert first.blob_id == second.blob_id == data.blob_id
    assert first.sha256 == second.sha256
    collect(deployment)
    assert list(deployment.blobs().values()) == ["stored"]
    assert deployment.objects() == set(deployment.blobs())
    assert deployment.content(first.blob_id) == b"the same"


def test_equal_bytes_that_come_at_once_are_stored_once(deployment: Deployment) -> None:
    for number in range(4):
        content = b"the same %d" % number
        rows = at_once([lambda c=content: upload(deployment, c) for _ in range(5)])
        assert all(isinstance(row, Model) for row in rows), rows
        found = {row.blob_id for row in rows if isinstance(row, Model)}
        assert len(found) == 1
        assert deployment.content(found.pop()) == content
    collect(deployment)
    assert list(deployment.blobs().values()) == ["stored"] * 4
    assert deployment.objects() == set(deployment.blobs())


def test_equal_files_of_jobs_that_end_at_once_are_stored_once(deployment: Deployment) -> None:
    model = deployment.model()
    for number in range(4):
        ids = [deployment.submit(model) for _ in range(4)]
        claims = [deployment.claimed() for _ in ids]
        content = b"artifact %d" % number
        made = at_once([lambda job=job, c=content: deployment.succeed(job, c) for job in claims])
        assert all(isinstance(found, list) and len(found) == 1 for found in made), made
        kept = {deployment.services.artifacts.get(found[0])[0].blob_id for found in made if isinstance(found, list)}
        assert len(kept) == 1
        assert deployment.content(kept.pop()) == content


def test_a_file_that_is_there_is_not_stored_again(deployment: Deployment) -> None:
    row = upload(deployment, b"the same")
    assert deployment.put(b"the same").blob_id == row.blob_id
    assert len(deployment.objects()) == 1


def test_an_object_goes_when_its_last_row_has_been_gone_for_the_grace_time(deployment: Deployment) -> None:
    first, second = upload(deployment, b"content"), upload(deployment, b"content")
    collect(deployment)
    deployment.services.models.delete(first.id)
    for _ in range(2):
        deployment.age_blobs(10 * GRACE_SECONDS)
        collect(deployment)
    assert deployment.content(second.blob_id) == b"content", "another row has it"
    deployment.services.models.delete(second.id)
    collect(deployment)
    deployment.age_blobs(GRACE_SECONDS - 60)
    collect(deployment)
    assert deployment.content(second.blob_id) == b"content", "its grace time has not passed"
    deployment.age_blobs(61)
    collect(deployment)
    assert (deployment.blobs(), deployment.objects()) == ({}, set())


def test_an_object_that_is_needed_again_stays(deployment: Deployment) -> None:
    for again in (lambda: upload(deployment, b"content"), lambda: deployment.put(b"content")):
        row = upload(deployment, b"content")
        deployment.services.models.delete(row.id)
        collect(deployment)
        deployment.age_blobs(GRACE_SECONDS - 60)
        assert again().blob_id == row.blob_id
        deployment.age_blobs(61)
        collect(deployment)
        assert deployment.content(row.blob_id) == b"content"
        with deployment.database.write() as session:
            session.query(Model).delete()


def test_what_a_row_needs_is_never_deleted_whatever_its_mark_says(deployment: Deployment) -> None:
    """A sweeper may have set the mark just before the row was committed."""
    row = upload(deployment, b"content")
    with deployment.database.write() as session:
        session.get_one(Blob, row.blob_id).released_at = 1
        session.flush()
        assert blobs.begin_deleting(session, grace_ms=0, abandoned_ms=1000) == []


def test_an_object_that_is_going_is_found_by_nobody(deployment: Deployment) -> None:
    """From the moment deletion begins, equal bytes are stored anew: the old object's end is not theirs."""
    old = upload(deployment, b"content")
    deployment.services.models.delete(old.id)
    collect(deployment)
    deployment.age_blobs(GRACE_SECONDS + 1)
    store = deployment.services.store
    came: list[Any] = []

    class Between:
        """The store, with an upload that comes between the row's end and the object's."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def delete(self, location: str) -> None:
            deployment.services.blobs.store = store
            came.append(upload(deployment, b"content"))
            came.append(deployment.put(b"content"))
            store.delete(location)

    deployment.services.blobs.store = Between()  # type: ignore[assignment]
    collect(deployment)
    assert came[0].blob_id == came[1].blob_id != old.blob_id
    assert deployment.content(came[0].blob_id) == b"content"
    collect(deployment)
    assert deployment.content(came[0].blob_id) == b"content"
    assert len(deployment.objects()) == 1


@pytest.fixture
def hasty(deployment: Deployment) -> Iterator[Deployment]:
    """A deployment without a grace time, where every race is likelier."""
    settings = Settings(
        data_dir=deployment.folder,
        database_url=deployment.database.url.render_as_string(hide_password=False),
        api_key="a-key-for-tests-only",
        grace_seconds=0,
    )
    services = wiring.build(settings)
    yield Deployment(services, deployment.folder)
    services.close()


def test_no_upload_loses_its_bytes_while_equal_ones_are_deleted(hasty: Deployment) -> None:
    contents = [b"one", b"two"]
    services = hasty.services

    def somebody(seed: int) -> Callable[[], None]:
        chance = random.Random(seed)

        def run() -> None:
            mine: list[tuple[Model, bytes]] = []
            for _ in range(25):
                if len(mine) < 3 and chance.random() < 0.6:
                    content = chance.choice(contents)
                    mine.append((upload(hasty, content), content))
                elif mine:
                    row, _ = mine.pop(chance.randrange(len(mine)))
                    services.models.delete(row.id)
                for row, content in mine:
                    _, blob = services.models.content(row.id)
                    assert services.store.read(blob.location, MiB) == content

        return run

    def sweep() -> None:
        for _ in range(60):
            services.blobs.sweep()

    answers = at_once([*(somebody(seed) for seed in range(3)), sweep, sweep])
    assert answers == [None] * 5, answers
    with hasty.database.write() as session:
        session.query(Model).delete()
    for _ in range(3):
        services.blobs.sweep()
    assert (hasty.blobs(), hasty.objects()) == ({}, set())


def test_a_file_whose_equal_is_deleted_before_it_is_needed_is_an_error_to_try_again(hasty: Deployment) -> None:
    """Only without a grace time can that happen; the job must not end with an artifact that has no bytes."""
    upload(hasty, b"content")
    job_id = hasty.submit(hasty.model())
    job = hasty.claimed()
    kept = hasty.put(b"content")
    with hasty.database.write() as session:
        session.query(Model).where(Model.id != job.model.id).delete()
    hasty.services.blobs.sweep()
    step = FinishedStep("baseline", {}, 1.0)
    with pytest.raises(Unavailable) as gone:
        hasty.services.work.record_step(job, step, {"outputs.npz": kept}, fingerprint="machine")
    assert (gone.value.code, gone.value.retryable) == ("object_gone", True)
    assert hasty.steps(job_id) == 0


@pytest.mark.parametrize("holder", ["model", "dataset", "artifact", "report", "log", "step"])
def test_every_kind_of_row_holds_its_object(deployment: Deployment, holder: str) -> None:
    services = deployment.services
    data = deployment.dataset(b"dataset")
    job_id = deployment.submit(deployment.model(b"model"), datasets={"calibration": data.id})
    job = deployment.claimed()
    step = FinishedStep("baseline", {}, 1.0)
    services.work.record_step(job, step, {"outputs.npz": deployment.put(b"step")}, fingerprint="machine")
    if holder in ("artifact", "report"):
        deployment.succeed(job)
    elif holder == "log":
        services.work.fail(job, StepError("No."), log=deployment.put(b"log"))
    collect(deployment)
    deployment.age_blobs(GRACE_SECONDS + 1)
    collect(deployment)
    contents = {services.store.read(location, MiB) for location in deployment.objects()}
    reports = {b"report " + job_id.encode(), b"page " + job_id.encode()}
    expected = {
        "model": {b"model", b"dataset", b"step"},
        "dataset": {b"model", b"dataset", b"step"},
        "step": {b"model", b"dataset", b"step"},
        "artifact": {b"model", b"dataset", b"artifact", b"manifest of artifact", *reports},
        "report": {b"model", b"dataset", b"artifact", b"manifest of artifact", *reports},
        "log": {b"model", b"dataset", b"log"},
    }[holder]
    assert contents == expected
    # And it goes with the row.
    if holder == "artifact":
        services.artifacts.delete(services.jobs.get(job_id).artifacts[0])
        expected = {b"model", b"dataset", *reports}
    elif holder in ("report", "log"):
        services.jobs.delete(job_id)
        expected = {b"model", b"dataset"}
    else:
        services.jobs.cancel(job_id)
        services.work.cancelled(job, log=None)
        services.jobs.delete(job_id)
        expected = {b"model", b"dataset"}
        if holder != "step":
            (services.models if holder == "model" else services.datasets).delete(
                job.model.id if holder == "model" else data.id
            )
            expected.remove(holder.encode())
    collect(deployment)
    deployment.age_blobs(GRACE_SECONDS + 1)
    collect(deployment)
    assert {services.store.read(location, MiB) for location in deployment.objects()} == expected
    assert set(deployment.blobs().values()) == {"stored"}


# Uploads that do not come to their end


class CutOff(Exception):
    pass


def test_an_upload_that_breaks_off_leaves_nothing(deployment: Deployment) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield b"x" * 3 * MiB
        raise CutOff

    with pytest.raises(CutOff):
        asyncio.run(deployment.services.blobs.receive(cut(), max_bytes=10 * MiB))
    assert (deployment.blobs(), deployment.objects()) == ({}, set())


def test_an_upload_whose_receiver_is_cancelled_leaves_nothing(deployment: Deployment) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"x" * 3 * MiB
        await asyncio.sleep(60)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(deployment.services.blobs.receive(stalled(), max_bytes=10 * MiB), 0.3)

    asyncio.run(give_up())
    assert (deployment.blobs(), deployment.objects()) == ({}, set())


def test_an_upload_that_is_too_large_leaves_nothing(deployment: Deployment) -> None:
    assert deployment.receive(b"x" * 5000, max_bytes=5000).bytes == 5000
    with pytest.raises(PayloadTooLarge):
        deployment.receive(b"y" * 5001, max_bytes=5000)
    assert len(deployment.objects()) == 1


def test_an_empty_upload_leaves_nothing(deployment: Deployment) -> None:
    with pytest.raises(InvalidRequest) as refused:
        upload(deployment, b"")
    assert refused.value.code == "empty_file"
    assert (deployment.blobs(), deployment.objects()) == ({}, set())


def test_an_upload_whose_row_cannot_be_written_leaves_nothing(deployment: Deployment) -> None:
    received = deployment.receive(b"content")
    with pytest.raises(TypeError):
        deployment.services.models.record(received, "m.onnx", None, {"no_such_column": 1})
    assert (deployment.blobs(), deployment.objects()) == ({}, set())


def test_what_a_refused_upload_left_goes_with_the_sweeper_where_the_store_was_away(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = deployment.services.store
    received = deployment.receive(b"content")

    def away(location: str) -> None:
        raise Unavailable("The store is away.")

    with monkeypatch.context() as patched:
        patched.setattr(store, "delete", away)
        deployment.services.blobs.discard(received)
        assert list(deployment.blobs().values()) == ["deleting"]
        with pytest.raises(Unavailable):
            collect(deployment)
    assert len(deployment.objects()) == 1
    collect(deployment)
    assert (deployment.blobs(), deployment.objects()) == ({}, set())


def test_an_upload_that_never_ended_goes_after_a_day(deployment: Deployment) -> None:
    """As a server leaves it that was killed: its row `pending`, its object whole, in parts or not there."""
    deployment.receive(b"whole")
    with deployment.database.write() as session:
        session.add(Blob(id="blb_gone", location="uploads/gone", state="pending", bytes=0, created_at=deployment.now()))
    deployment.age_blobs(ABANDONED_SECONDS - 60)
    collect(deployment)
    assert sorted(deployment.blobs().values()) == ["pending", "pending"]
    deployment.age_blobs(61)
    collect(deployment)
    assert (deployment.blobs(), deployment.objects()) == ({}, set())


def test_a_missing_object_is_not_found(deployment: Deployment, tmp_path: Path) -> None:
    row = upload(deployment, b"content")
    _, blob = deployment.services.models.content(row.id)
    deployment.services.store.delete(blob.location)
    with pytest.raises(NotFound):
        deployment.services.store.read(blob.location, MiB)
