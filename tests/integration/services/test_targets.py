"""Targets as callers see them: registered and built in, with what jobs measured there."""

from typing import Any

import pytest
from sqlalchemy import Engine, event, update

from app.api.schemas.documents import TargetDocument, target_document
from app.db.tables import Job, Worker
from app.domain.profiles import PROFILES
from app.domain.suitability import Suitability
from app.domain.target import saturates_int8
from app.errors import InvalidRequest
from app.queue.names import INSPECTIONS
from app.services.targets import ALIVE_SECONDS, MOST_JOBS, Target
from tests.parts.deployment import LONG_AGO, Deployment
from workers.alive import works

AVX2 = {"id": "a" * 16, "features": ["avx2", "fma"]}
STRONG = {"strong": True}
SLOWER = "slower than fp32 (measured)"


def register(deployment: Deployment, target: str, fingerprint: dict[str, Any] = AVX2, worker: str = "w") -> None:
    deployment.services.targets.register(f"{worker}-{target}", f"jobs.{target}", target, fingerprint, STRONG)


def listed(deployment: Deployment) -> dict[str, tuple[Target, dict[str, Suitability]]]:
    return {
        target.id: (target, {found.technique: found for found in suits})
        for target, suits in deployment.services.targets.catalogue()
    }


def finished(
    deployment: Deployment,
    ratio: float,
    *,
    model: Any = None,
    machine: str = AVX2["id"],  # type: ignore[assignment]
    flags: tuple[str, ...] = (),
    outcome: dict[str, Any] | None = None,
) -> str:
    """A job that succeeded, and that timed dynamic_int8 at this multiple of the original's latency."""
    job_id = deployment.submit(model or deployment.model(), target="here")
    candidate = {
        "id": "cnd_1",
        "recipe": {"technique": "dynamic_int8"},
        "measurements": [
            {"name": "artifact_bytes", "value": 8},
            {"name": "latency_p50", "value": 1.0, "conditions": {"target": machine, "threads": 1}},
            {"name": "latency_p50", "value": 1.0, "conditions": {"target": machine, "threads": 2}},
        ],
        "comparisons": [
            {"name": "artifact_bytes", "ratio": 0.3, "ci95": None},
            {"name": "latency_p50", "ratio": ratio, "ci95": [ratio - 0.01, ratio + 0.01], "flags": list(flags)},
            {"name": "latency_p50", "ratio": 9.0, "ci95": [8.9, 9.1], "flags": []},  # at other conditions
        ],
    }
    with deployment.database.write() as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(state="succeeded", outcome={"candidates": [candidate]} if outcome is None else outcome)
        )
    return job_id


def whole(
    ratio: float, flags: dict[str, tuple[str, ...]] | None = None, runtimes: dict[str, str] | None = None
) -> dict[str, Any]:
    """An outcome with all that it says of latency, flagged or measured otherwise at some of its places."""

    def found(of: str) -> dict[str, Any]:
        conditions = {"target": AVX2["id"], "threads": 1, "runtime": (runtimes or {}).get(of, "onnxruntime")}
        said = {"name": "latency_p50", "conditions": conditions, "flags": list((flags or {}).get(of, ()))}
        return said | {"value": 1.0, "ratio": ratio, "ci95": [ratio - 0.01, ratio + 0.01]}

    def both(of: str) -> list[dict[str, Any]]:
        return [{"name": "artifact_bytes", "value": 8, "ratio": 0.3}, found(of), found("elsewhere")]

    candidate = {
        "id": "cnd_1",
        "recipe": {"technique": "dynamic_int8"},
        "measurements": both("the artifact"),
        "comparisons": both("the comparison"),
    }
    return {"baseline": {"measurements": both("the original")}, "candidates": [candidate]}


def timed(recipe: dict[str, Any] | None, conditions: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "c",
        "recipe": recipe,
        "measurements": [{"name": "latency_p50", "value": 1.0, "conditions": conditions}],
        "comparisons": [{"name": "latency_p50", "ratio": 2.0, "ci95": [1.9, 2.1]}],
    }


def test_built_in_profiles_are_listed_after_what_registered(deployment: Deployment) -> None:
    assert list(listed(deployment)) == list(PROFILES)
    register(deployment, "zoo")
    found = listed(deployment)
    assert list(found) == ["zoo", *PROFILES]
    zoo, amx = found["zoo"][0], found["x86-amx"][0]
    assert (zoo.alive, zoo.workers, zoo.builtin, zoo.features) == (True, 1, False, ("avx2", "fma"))
    assert (amx.alive, amx.workers, amx.builtin, amx.fingerprint) == (False, 0, True, {})
    assert set(amx.features) == set(PROFILES["x86-amx"].features)
    assert [target.id for target in deployment.services.targets.all()] == ["zoo"], "health looks at workers alone"
    for target, suits in deployment.services.targets.catalogue():
        document = TargetDocument.model_validate(target_document(target, suits))
        assert document.features == list(target.features)
        assert (document.suits[0].verdict == "saturates") == saturates_int8(target.features)


def test_a_profile_that_a_worker_serves_is_listed_once_with_its_machine(deployment: Deployment) -> None:
    profile = PROFILES["x86-avx2"]
    register(deployment, "x86-avx2", {"id": "b" * 16, "features": [*profile.features, "gfni"]})
    register(deployment, "x86-avx2", {"id": "b" * 16, "features": [*profile.features, "gfni"]}, worker="v")
    found = listed(deployment)
    assert sorted(found) == sorted(PROFILES)
    target = found["x86-avx2"][0]
    assert (target.alive, target.workers, target.builtin, target.summary) == (True, 2, True, profile.summary)
    assert "gfni" in target.features
    with deployment.database.write() as session:
        session.execute(update(Worker).values(seen_at=LONG_AGO))
    target = listed(deployment)["x86-avx2"][0]
    assert (target.alive, target.workers) == (False, 0)


# What jobs measured


def test_what_jobs_measured_on_a_machine_is_said_of_it(deployment: Deployment) -> None:
    register(deployment, "here")
    register(deployment, "there", {"id": "c" * 16, "features": ["avx2", "fma"]})
    before = listed(deployment)["here"][1]["dynamic_int8"]
    assert (before.verdict, before.measured) == ("saturates", None)
    model = deployment.model()
    finished(deployment, 1.2, model=model)
    finished(deployment, 1.3, model=model)
    finished(deployment, 1.4)
    found = listed(deployment)
    here = found["here"][1]["dynamic_int8"]
    assert here.verdict == SLOWER
    assert here.measured is not None
    assert (here.measured.jobs, here.measured.models, here.measured.slower) == (3, 2, 2)
    assert here.measured.latency_ratio == pytest.approx(1.325)
    assert before.reason in here.reason
    assert found["here"][1]["static_int8"].verdict == "saturates", "of another technique nothing was measured"
    assert found["there"][1]["dynamic_int8"] == before, "nor on another machine"
    assert found["x86-avx2"][1]["dynamic_int8"].measured is None


def test_a_job_is_told_what_jobs_before_it_measured(deployment: Deployment) -> None:
    register(deployment, "here")
    register(deployment, "there", {"id": "c" * 16, "features": ["avx2", "fma"]})
    body = {"model": deployment.model().id, "recipe": {"technique": "dynamic_int8"}, "target": "here"}

    def told(**changes: Any) -> list[str]:
        return [doubt for doubt in deployment.services.jobs.validate(body | changes).doubts if SLOWER in doubt]

    finished(deployment, 0.8)
    assert told() == []
    finished(deployment, 1.2)
    finished(deployment, 1.4)
    (doubt,) = told()
    assert doubt.startswith(
        f"On this target dynamic_int8 is {SLOWER}. 3 jobs on 3 models measured 1.20 times the latency"
    )
    assert "slower for 2, faster for 1" in doubt
    assert told(target="there") == [], "another machine"
    assert told(target="x86-avx2") == [], "a profile, on which nothing was measured"
    assert told(target="nowhere") == []
    assert told(recipe={"technique": "bfloat16"}) == [], "another technique"
    assert told(recipe=None, kind="evaluate") == []
    assert told(recipe={"technique": "magic"}) == []


def test_the_same_bytes_twice_are_one_model(deployment: Deployment) -> None:
    register(deployment, "here")
    for _ in range(2):
        finished(deployment, 1.5, model=deployment.model(b"the same bytes"))
    measured = listed(deployment)["here"][1]["dynamic_int8"].measured
    assert measured is not None
    assert (measured.jobs, measured.models) == (2, 1)


@pytest.mark.parametrize("flag", ["noisy", "contended", "unsettled", "unstable"])
@pytest.mark.parametrize("of", ["the comparison", "the artifact", "the original"])
def test_what_was_disturbed_is_no_evidence(deployment: Deployment, flag: str, of: str) -> None:
    register(deployment, "here")
    finished(deployment, 1.5, outcome=whole(2.8, flags={of: (flag,)}))
    assert listed(deployment)["here"][1]["dynamic_int8"].measured is None
    finished(deployment, 1.5, outcome=whole(2.8, flags={"elsewhere": (flag,)}))
    assert listed(deployment)["here"][1]["dynamic_int8"].measured is not None, "flags at other conditions"


@pytest.mark.parametrize("of", ["the comparison", "the artifact", "the original"])
def test_what_another_runtime_measured_is_no_evidence(deployment: Deployment, of: str) -> None:
    """What a technique is worth is said of onnxruntime's kernels."""
    register(deployment, "here")
    finished(deployment, 1.5, outcome=whole(2.8, runtimes={of: "openvino"}))
    assert listed(deployment)["here"][1]["dynamic_int8"].verdict == "saturates"
    finished(deployment, 1.5, outcome=whole(2.8, runtimes={"elsewhere": "openvino"}))
    assert listed(deployment)["here"][1]["dynamic_int8"].verdict == SLOWER


def test_a_flag_that_disturbs_nothing(deployment: Deployment) -> None:
    register(deployment, "here")
    finished(deployment, 1.5, flags=("short_blocks",))
    assert listed(deployment)["here"][1]["dynamic_int8"].measured is not None


@pytest.mark.parametrize(
    "outcome",
    [
        {},
        {"candidates": []},
        {"candidates": [{"id": "c", "recipe": {"technique": "float16"}, "measurements": [], "comparisons": []}]},
        {"candidates": [{"id": "c", "recipe": {"technique": "float16"}, "measurements": []}]},
        {"candidates": [timed({"technique": "dynamic_int8"}, {})]},
        {"candidates": [timed(None, {"target": AVX2["id"]})]},
    ],
)
def test_outcomes_that_tell_nothing(deployment: Deployment, outcome: dict[str, Any]) -> None:
    register(deployment, "here")
    finished(deployment, 1.5, outcome=outcome)
    assert all(found.measured is None for found in listed(deployment)["here"][1].values())


def test_a_deleted_job_is_no_evidence_any_more(deployment: Deployment) -> None:
    register(deployment, "here")
    job_id = finished(deployment, 1.5)
    assert listed(deployment)["here"][1]["dynamic_int8"].verdict == SLOWER
    deployment.services.jobs.delete(job_id)
    assert listed(deployment)["here"][1]["dynamic_int8"].verdict == "saturates"


def test_an_outcome_is_read_once(deployment: Deployment) -> None:
    """It is long, and never changes."""
    register(deployment, "here")
    for _ in range(3):
        finished(deployment, 1.5)
    targets = deployment.services.targets
    first = targets.catalogue()
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert targets.catalogue() == first
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert statements
    assert not any("outcome" in statement for statement in statements)
    assert MOST_JOBS >= 100


def test_what_suits_a_target_is_said_of_what_its_jobs_run_on(deployment: Deployment) -> None:
    """A machine with a GPU whose jobs run on the processor, and one whose jobs run on the GPU."""
    both = AVX2 | {"features": ["avx2", "cuda", "fma"]}
    register(deployment, "here", both | {"runs_on": ["CPUExecutionProvider"]})
    register(deployment, "cuda", both | {"id": "b" * 16, "runs_on": ["CUDAExecutionProvider", "CPUExecutionProvider"]})
    found = listed(deployment)
    assert found["here"][1]["dynamic_int8"].verdict == "saturates"
    assert found["cuda"][1]["dynamic_int8"].verdict == "unsupported"
    assert found["cuda"][1]["float16"].verdict == "native"
    assert found["cuda"][0].features == ("avx2", "cuda", "fma")


# Who is alive


def let_time_pass(deployment: Deployment, seconds: float = ALIVE_SECONDS + 30) -> None:
    """As if every worker's task had begun so long ago; a lease is renewed meanwhile."""
    with deployment.database.write() as session:
        session.execute(update(Worker).values(seen_at=Worker.seen_at - round(seconds * 1000)))


def test_a_worker_at_a_long_job_is_alive(deployment: Deployment) -> None:
    targets, model = deployment.services.targets, deployment.model()
    register(deployment, "here")
    register(deployment, "here", worker="idle")
    deployment.submit(model, target="here")
    job = deployment.claimed("w-here", target="here")
    let_time_pass(deployment)
    deployment.services.work.renew(job)
    (target,) = targets.all()
    assert (target.alive, target.workers) == (True, 1), "the one that idles and is not heard of is gone"
    body = {"model": model.id, "recipe": {"technique": "dynamic_int8"}, "target": "here", "if_no_worker": "refuse"}
    checked = deployment.services.jobs.validate(body)
    assert not checked.errors
    assert not any("alive" in doubt for doubt in checked.doubts)
    view, _ = deployment.services.jobs.submit(body, idempotency_key=None)
    assert view.waiting_for is not None
    assert "none is alive" not in view.waiting_for
    # A worker that is being told to cancel is there too, and the one whose lease lapsed is not.
    deployment.services.jobs.cancel(job.id)
    assert targets.all()[0].alive
    deployment.lapse()
    assert not targets.all()[0].alive
    view, _ = deployment.services.jobs.submit({**body, "if_no_worker": "wait"}, idempotency_key=None)
    assert view.waiting_for == "a worker of target 'here': none is alive"


def test_a_lease_speaks_for_its_own_worker_alone(deployment: Deployment) -> None:
    register(deployment, "here")
    register(deployment, "there")
    deployment.submit(deployment.model(), target="here")
    deployment.claimed("w-here", target="here")
    let_time_pass(deployment)
    assert {target.id: target.alive for target in deployment.services.targets.all()} == {"here": True, "there": False}


@pytest.mark.parametrize("uploads", ["models", "datasets"])
def test_a_worker_at_a_long_inspection_is_alive(deployment: Deployment, uploads: str) -> None:
    targets = deployment.services.targets
    targets.register("w@host-1", INSPECTIONS, "local", AVX2, STRONG)
    getattr(deployment.services, uploads).record(deployment.receive(b"content"), "file.onnx", None, {})
    let_time_pass(deployment)
    assert not targets.inspection_alive()
    assert not works(deployment.database, "host")
    upload = deployment.services.work.claim_upload("w@host-1")
    assert upload is not None
    assert targets.inspection_alive()
    assert works(deployment.database, "host")
    assert not works(deployment.database, "hos")
    deployment.services.work.end_upload(upload, inspection={})
    assert not targets.inspection_alive()


# Jobs for profiles


def test_a_job_for_a_profile_waits_and_says_so_or_is_refused(deployment: Deployment) -> None:
    model = deployment.model()
    register(deployment, "local")
    body = {"model": model.id, "recipe": {"technique": "float16"}, "target": "arm-i8mm"}
    checked = deployment.services.jobs.validate(body)
    assert checked.errors == []
    assert any("'arm-i8mm'" in doubt and "wait" in doubt for doubt in checked.doubts)
    assert not any("half precision" in doubt for doubt in checked.doubts), "doubts are by the profile's features"
    x86 = deployment.services.jobs.validate({**body, "target": "x86-amx"})
    assert any("half precision" in doubt for doubt in x86.doubts)
    view, _ = deployment.services.jobs.submit(body, idempotency_key=None)
    assert view.waiting_for == "a worker of target 'arm-i8mm': none is alive"
    with pytest.raises(InvalidRequest) as refused:
        deployment.services.jobs.submit({**body, "if_no_worker": "refuse"}, idempotency_key=None)
    assert refused.value.code == "no_worker"
    unknown = deployment.services.jobs.validate({**body, "target": "arm-i9mm"})
    assert [error.code for error in unknown.errors] == ["target_unknown"]
    assert "arm-i8mm" in unknown.errors[0].detail, "the profiles are named"
    register(deployment, "arm-i8mm", {"id": "d" * 16, "features": list(PROFILES["arm-i8mm"].features)})
    view, _ = deployment.services.jobs.submit({**body, "if_no_worker": "refuse"}, idempotency_key=None)
    assert view.waiting_for is not None
    assert "none is alive" not in view.waiting_for


def test_profiles_do_not_make_the_local_target_ambiguous(deployment: Deployment) -> None:
    model = deployment.model()
    body = {"model": model.id, "recipe": {"technique": "dynamic_int8"}}
    assert deployment.services.jobs.validate(body).errors == []
    register(deployment, "kiosk")
    assert deployment.services.jobs.validate(body).errors == []
    register(deployment, "server")
    assert [error.code for error in deployment.services.jobs.validate(body).errors] == ["target_ambiguous"]
