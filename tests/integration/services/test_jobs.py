"""Submitting, listing, cancelling and deleting, with others doing the same at the same time."""

import contextlib
import json
from typing import Any

import pytest

from app.db.tables import Artifact, IdempotencyKey, Job, JobDataset
from app.errors import Conflict, InvalidRequest, NotFound, Unavailable
from app.services.jobs import JobView
from tests.parts.deployment import RECIPE, Deployment, at_once


def submit(deployment: Deployment, body: dict[str, Any], key: str | None) -> tuple[str, bool]:
    view, created = deployment.services.jobs.submit(body, idempotency_key=key)
    return view.job.id, created


def test_the_same_key_and_body_give_the_same_job(deployment: Deployment) -> None:
    body = {"model": deployment.model().id, "recipe": RECIPE}
    first, created = submit(deployment, body, "key")
    assert created
    assert submit(deployment, body, "key") == (first, False)
    assert submit(deployment, body, "other key") != (first, True)
    assert submit(deployment, body, None)[0] != submit(deployment, body, None)[0]
    with pytest.raises(Conflict) as refused:
        submit(deployment, {**body, "name": "other"}, "key")
    assert refused.value.code == "idempotency_key_reused"
    assert deployment.count(Job) == 4


def test_a_key_answers_even_when_the_body_would_now_be_refused(deployment: Deployment) -> None:
    body = {"model": deployment.model().id, "recipe": RECIPE}
    first, _ = submit(deployment, body, "key")
    deployment.services.jobs.cancel(first)
    assert submit(deployment, body, "key") == (first, False)


def test_a_body_is_the_same_however_it_is_written(deployment: Deployment) -> None:
    model = deployment.model()
    body = {"model": model.id, "recipe": RECIPE, "name": "ü", "limits": {"run_seconds": 5.0, "queue_seconds": 60}}
    first, _ = submit(deployment, body, "key")
    turned = {name: body[name] for name in reversed(body)}
    spaced = json.dumps(turned, indent=4, ensure_ascii=False).replace("5.0", "5e0")
    assert submit(deployment, json.loads(spaced), "key") == (first, False)
    with pytest.raises(Conflict):
        submit(deployment, {**body, "name": "u"}, "key")


def test_a_refused_submission_does_not_use_up_its_key(deployment: Deployment) -> None:
    body = {"model": deployment.model().id, "recipe": {"technique": "static_int8"}}
    with pytest.raises(InvalidRequest):
        submit(deployment, body, "key")
    assert deployment.count(IdempotencyKey) == 0
    assert submit(deployment, {**body, "recipe": RECIPE}, "key")[1]


def test_one_key_used_by_several_at_once_makes_one_job(deployment: Deployment) -> None:
    model = deployment.model()
    for number in range(5):
        body = {"model": model.id, "recipe": RECIPE, "name": str(number)}
        answers = at_once([lambda b=body, n=number: submit(deployment, b, f"key {n}") for _ in range(4)])
        assert all(isinstance(answer, tuple) for answer in answers), answers
        assert len({answer[0] for answer in answers}) == 1  # type: ignore[index]
        assert sorted(answer[1] for answer in answers) == [False, False, False, True]  # type: ignore[index]
        assert deployment.count(Job) == number + 1


def test_a_key_is_forgotten_with_its_job(deployment: Deployment) -> None:
    body = {"model": deployment.model().id, "recipe": RECIPE}
    first, _ = submit(deployment, body, "key")
    deployment.services.jobs.cancel(first)
    deployment.services.jobs.delete(first)
    second, created = submit(deployment, body, "key")
    assert created
    assert second != first


def test_a_weak_sandbox_is_refused_unless_allowed(deployment: Deployment) -> None:
    model = deployment.model()
    deployment.services.targets.register("w", "jobs.local", "local", {}, {"strong": False})
    with pytest.raises(Unavailable) as refused:
        deployment.submit(model)
    assert (refused.value.code, refused.value.retryable) == ("weak_sandbox", False)
    assert deployment.count(Job) == 0


# What uses what


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_a_job_uses_is_never_deleted_under_it(deployment: Deployment, kind: str) -> None:
    """Whoever is first wins: the job is refused, or the deletion is."""
    services = deployment.services
    for number in range(6):
        model, data = deployment.model(), deployment.dataset()
        uploads, used = (services.models, model.id) if kind == "model" else (services.datasets, data.id)
        jobs, deletions = [], []
        for answer in at_once(
            [lambda m=model, d=data: deployment.submit(m, datasets={"tuning": d.id}) for _ in range(2)]
            + [lambda u=uploads, i=used: u.delete(i) for _ in range(2)]
        ):
            (jobs if isinstance(answer, str | InvalidRequest) else deletions).append(answer)
        submitted = [answer for answer in jobs if isinstance(answer, str)]
        assert len(jobs) == len(deletions) == 2, (number, jobs, deletions)
        for answer in deletions:
            assert answer is None or isinstance(answer, Conflict | NotFound), answer
        if submitted:
            assert None not in deletions
            assert uploads.get(used).id == used
        else:
            assert None in deletions
        for refused in jobs:
            if isinstance(refused, InvalidRequest):
                assert refused.code == f"{kind}_not_found"


def test_a_used_dataset_can_be_deleted_after_its_job(deployment: Deployment) -> None:
    data = deployment.dataset()
    job_id = deployment.submit(deployment.model(), datasets={"tuning": data.id})
    with pytest.raises(Conflict) as refused:
        deployment.services.datasets.delete(data.id)
    assert refused.value.code == "dataset_in_use"
    assert job_id in refused.value.detail
    deployment.services.jobs.cancel(job_id)
    deployment.services.jobs.delete(job_id)
    deployment.services.datasets.delete(data.id)
    assert deployment.count(JobDataset) == 0


def test_deleting_a_job_takes_its_artifacts_along(deployment: Deployment) -> None:
    job_id = deployment.submit(deployment.model())
    with pytest.raises(Conflict) as refused:
        deployment.services.jobs.delete(job_id)
    assert refused.value.code == "job_not_ended"
    [artifact] = deployment.succeed(deployment.claimed())
    assert deployment.services.jobs.get(job_id).artifacts == (artifact,)
    deployment.services.jobs.delete(job_id)
    assert deployment.count(Artifact) == 0
    with pytest.raises(NotFound):
        deployment.services.artifacts.get(artifact)


def test_an_artifact_is_deleted_once(deployment: Deployment) -> None:
    deployment.submit(deployment.model())
    [artifact] = deployment.succeed(deployment.claimed())
    deployment.services.artifacts.delete(artifact)
    with pytest.raises(NotFound) as gone:
        deployment.services.artifacts.delete(artifact)
    assert gone.value.code == "artifact_not_found"


# Entity tags and lists


def test_the_entity_tag_changes_with_what_callers_see_and_with_nothing_else(deployment: Deployment) -> None:
    jobs, model = deployment.services.jobs, deployment.model()
    first, second = deployment.submit(model), deployment.submit(model)
    tags = [jobs.get(second).etag]

    def changed(yes: bool) -> None:
        present = jobs.get(second).etag
        assert (present != tags[-1]) == yes
        assert jobs.etags([second, "job_nobody"]) == {second: present}
        known = jobs.get_unless({second: {frozenset({present, '"x"'}), frozenset("*")}})[second]
        assert known == present or (isinstance(known, JobView) and known.etag == present and known.queue_position)
        others = frozenset({tags[-1]} if yes else ())
        again = jobs.get_unless({second: {others, frozenset({present})}, "job_nobody": {frozenset()}})[second]
        assert isinstance(again, JobView)
        assert (again.etag, again.artifacts, again.queue_position) == (
            present,
            jobs.get(second).artifacts,
            jobs.get(second).queue_position,
        )
        tags.append(present)

    changed(False)
    deployment.claimed()
    changed(True)  # it is the next now
    job = deployment.claimed()
    assert job.id == second != first
    changed(True)
    deployment.services.work.renew(job)
    changed(False)
    deployment.services.work.renew(job, progress=0.5)
    changed(True)
    deployment.succeed(job)
    changed(True)
    [artifact] = jobs.get(second).artifacts
    deployment.services.artifacts.delete(artifact)
    changed(True)
    assert jobs.get(second).artifacts == ()
    assert len(set(tags)) == 6


def test_a_job_that_is_not_there_is_not_found(deployment: Deployment) -> None:
    jobs = deployment.services.jobs
    for call in (
        jobs.get,
        jobs.cancel,
        jobs.delete,
        jobs.log,
        jobs.report,
    ):
        with pytest.raises(NotFound) as missing:
            call("job_nobody")
        assert missing.value.code == "job_not_found"
    assert jobs.etags(["job_nobody"]) == {}
    assert jobs.get_unless({"job_nobody": {frozenset(), frozenset({'"1"'})}}) == {}


def listed(deployment: Deployment, **wanted: Any) -> list[str]:
    options = {"limit": 50, "cursor": None, "state": None, "model": None, "target": None, "label": None} | wanted
    views, _ = deployment.services.jobs.list(**options)
    return [view.job.id for view in views]


def test_jobs_are_found_by_any_label(deployment: Deployment) -> None:
    names = ["team", "a.b", 'quo"te', "it's", "$[0]", "ümlaut", "", " ", "a\\b", "%", "{x}", "0"]
    model = deployment.model()
    ours = {name: deployment.submit(model, labels={name: f"ü{name}", "all": "x:y"}) for name in names}
    everything = deployment.submit(model, labels=dict.fromkeys(names, "else"))
    for name in names:
        assert listed(deployment, label=f"{name}:ü{name}") == [ours[name]]
        assert listed(deployment, label=f"{name}:else") == [everything]
        assert listed(deployment, label=f"{name}:nothing") == []
    assert listed(deployment, label="all:x:y") == sorted(ours.values(), reverse=True)


def test_a_label_filter_names_a_value(deployment: Deployment) -> None:
    with pytest.raises(InvalidRequest):
        listed(deployment, label="team")


def test_lists_come_in_pages_newest_first(deployment: Deployment) -> None:
    model, other = deployment.model(), deployment.model()
    ids = [deployment.submit(model, target="a" if number % 2 else "b") for number in range(5)]
    theirs = deployment.submit(other)
    seen: list[str] = []
    cursor: str | None = None
    for size in (2, 2, 2):
        views, cursor = deployment.services.jobs.list(
            limit=2, cursor=cursor, state=None, model=None, target=None, label=None
        )
        assert len(views) == size
        seen += [view.job.id for view in views]
    assert cursor is None
    assert seen == sorted([*ids, theirs], reverse=True)
    assert listed(deployment, model=other.id) == [theirs]
    assert listed(deployment, target="a") == [ids[3], ids[1]]
    deployment.claimed(target="b")
    assert listed(deployment, state="running") == [ids[0]]
    assert listed(deployment, state="running", target="a") == []


@pytest.mark.parametrize("text", ["\0", "mdl_\0", "dst_", "job_1", "mdl_" + "0" * 25 + "\0", "x" * 10_000])
def test_what_cannot_be_an_id_names_nothing(deployment: Deployment, text: str) -> None:
    """On both dialects, though only Postgres minds a NUL."""
    services = deployment.services
    for call in (
        services.models.get,
        services.models.content,
        services.models.delete,
        services.datasets.get,
        services.datasets.content,
        services.datasets.delete,
        services.artifacts.get,
        services.artifacts.delete,
        services.jobs.get,
        services.jobs.cancel,
        services.jobs.delete,
        services.jobs.log,
        services.jobs.report,
    ):
        with pytest.raises(NotFound):
            call(text)


@pytest.mark.parametrize("cursor", ["zzz", "", "\0", "mdl_" + "0" * 26 + "\n"])
def test_a_cursor_is_one_that_a_page_gave(deployment: Deployment, cursor: str) -> None:
    services = deployment.services
    for call in (
        lambda: services.models.list(limit=1, cursor=cursor),
        lambda: services.datasets.list(limit=1, cursor=cursor),
        lambda: listed(deployment, cursor=cursor),
        lambda: listed(deployment, cursor="mdl_" + "0" * 26),
    ):
        with pytest.raises(InvalidRequest) as refused:
            call()
        assert refused.value.code == "invalid_cursor"


def test_a_filter_with_a_nul_is_refused(deployment: Deployment) -> None:
    services = deployment.services
    for call in (
        lambda: services.models.list(limit=1, cursor=None, name="a\0"),
        lambda: listed(deployment, target="a\0"),
        lambda: listed(deployment, model="a\0"),
        lambda: listed(deployment, label="a:\0"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            call()
        assert refused.value.code == "invalid_value"


@pytest.mark.parametrize("text", ["\0", "x\0y"])
def test_text_that_a_database_does_not_store_is_an_answer(deployment: Deployment, text: str) -> None:
    """Postgres has no NUL in text and SQLite does; neither is a fault of the service."""
    services = deployment.services
    calls = [
        lambda: services.jobs.get(text),
        lambda: services.models.get(text),
        lambda: services.artifacts.get(text),
        lambda: services.models.list(limit=1, cursor=text),
        lambda: listed(deployment, label=f"{text}:{text}"),
        lambda: listed(deployment, target=text, model=text),
        lambda: services.jobs.get_unless({text: {frozenset({'"1"'})}}),
    ]
    for call in calls:
        with contextlib.suppress(NotFound, InvalidRequest):
            call()
