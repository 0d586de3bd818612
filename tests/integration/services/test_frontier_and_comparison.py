"""The frontier of a model and comparisons, from jobs in a real database."""

from typing import Any

import pytest

from app.db.tables import Dataset, Model
from app.errors import Conflict, InvalidRequest, NotFound
from app.services.work import MadeArtifact
from tests.parts.deployment import RECIPE, Deployment


def measurement(name: str, value: float | None, unit: str, better: str, ci95: Any, **conditions: Any) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "better": better,
        "method": "measured" if value is not None else "absent",
        "reason": None if value is not None else "for a reason",
        "ci95": ci95,
        "conditions": conditions,
        "flags": [],
    }


def measured(
    latency: float, size: int, top1: float, *, machine: str, threads: int, source: str
) -> list[dict[str, Any]]:
    timed = {"runtime": "onnxruntime", "version": "1", "threads": threads, "batch": 1, "target": machine}
    return [
        measurement("artifact_bytes", size, "bytes", "lower", None),
        measurement("top1", top1, "fraction", "higher", [top1 - 0.01, top1 + 0.01], source=source, rows=8),
        measurement("latency_p50", latency, "ms", "lower", [latency * 0.98, latency * 1.02], **timed),
        measurement("energy_per_inference", None, "J", "lower", None, **timed),
    ]


def finish(
    deployment: Deployment,
    model: Model,
    candidates: dict[str, tuple[float, int, float]],
    *,
    data: Dataset | None = None,
    machine: str = "machine-1",
    threads: int = 1,
    slow: float = 1.0,
) -> tuple[str, list[str]]:
    """A job that succeeded: ms, bytes and top1 of each candidate, where the original has 10, 1000 and 0.9.

    On a `slow` day everything takes so many times as long. Returns its id and those of the artifacts.
    """
    source = "evaluation" if data else "synthetic"
    given = {"datasets": {"evaluation": data.id}} if data else {}
    job_id = deployment.submit(model, **given)
    job = deployment.claimed()
    assert job.id == job_id
    more: dict[str, Any] = {"machine": machine, "threads": threads, "source": source}
    outcome = {
        "baseline": {"measurements": measured(10 * slow, 1000, 0.9, **more)},
        "candidates": [
            {
                "id": name,
                "recipe": RECIPE,
                "measurements": measured(latency * slow, size, top1, **more),
                "comparisons": [
                    {
                        "name": "latency_p50",
                        "ratio": latency / 10,
                        "ci95": [latency / 10.1, latency / 9.9],
                        "conditions": {"threads": threads, "batch": 1},
                    },
                    {"name": "artifact_bytes", "ratio": size / 1000, "ci95": None},
                ],
                "drops": [{"metric": "top1", "value": 0.9 - top1, "ci95": [0.9 - top1 - 0.002, 0.9 - top1 + 0.002]}],
                "verdict": None,
            }
            for name, (latency, size, top1) in candidates.items()
        ],
        "chosen": next(iter(candidates), None),
    }
    artifacts = deployment.services.work.succeed(
        job,
        outcome=outcome,
        gate=None,
        artifacts=[
            MadeArtifact(name, f"{name}.onnx", deployment.put(f"{job_id} {name}".encode()), deployment.put(b"manifest"))
            for name in candidates
        ],
        report=deployment.put(b"report " + job_id.encode()),
        page=deployment.put(b"page " + job_id.encode()),
        log=None,
    )
    return job_id, artifacts


def test_every_variant_of_every_job_is_there_once(deployment: Deployment) -> None:
    model, data = deployment.model(), deployment.dataset()
    first, [old] = finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)}, data=data)
    second, [other] = finish(deployment, model, {"cnd_2": (8.0, 250, 0.89)}, data=data)
    third, [new] = finish(deployment, model, {"cnd_1": (5.5, 300, 0.88)}, data=data)

    found = deployment.services.frontiers.of_model(model.id, target=None, minimize="latency", constraints=[])

    (group,) = found.groups
    assert group.jobs == {model.id: [third, second, first], new: [third, first], other: [second]}
    assert old not in group.jobs, "of one candidate the newest numbers count"
    by_id = {each.variant.id: each for each in group.placed}
    assert by_id[new].costs["latency_p50"][0] == pytest.approx(0.55)
    assert by_id[model.id].costs["latency_p50"] == (1.0, None)
    assert group.axes == ["latency_p50", "artifact_bytes", "top1"]
    assert all(each.pareto for each in group.placed)
    assert group.best.variant is not None
    assert group.best.variant.id == new
    assert not found.older


def test_other_machines_rows_and_threads_are_other_groups(deployment: Deployment) -> None:
    model, data, others = deployment.model(), deployment.dataset(), deployment.dataset()
    same = deployment.dataset(b"the same bytes")
    again = deployment.dataset(b"the same bytes")
    for options in (
        {"data": data},
        {"data": data, "machine": "machine-2"},
        {"data": others},
        {"data": data, "threads": 2},
        {},
        {"data": same},
        {"data": again},
    ):
        finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)}, **options)  # type: ignore[arg-type]

    found = deployment.services.frontiers.of_model(model.id, target=None, minimize="latency", constraints=[])

    kinds = [(group.fingerprint, group.data.source, group.conditions["threads"]) for group in found.groups]
    assert len(kinds) == 6, "equal bytes are equal data"
    assert kinds.count(("machine-1", "synthetic", 1)) == 1
    assert kinds.count(("machine-1", "evaluation", 2)) == 1
    assert kinds.count(("machine-2", "evaluation", 1)) == 1
    assert kinds.count(("machine-1", "evaluation", 1)) == 3
    for target, count in (("machine-2", 1), ("machine-1", 5), ("local", 6), ("cuda", 0)):
        found = deployment.services.frontiers.of_model(model.id, target=target, minimize="latency", constraints=[])
        assert len(found.groups) == count, target


def test_the_best_keeps_what_it_must(deployment: Deployment) -> None:
    model, data = deployment.model(), deployment.dataset()
    _, [fast] = finish(deployment, model, {"cnd_fast": (3.0, 900, 0.7)}, data=data)
    _, [good] = finish(deployment, model, {"cnd_good": (6.0, 300, 0.895)}, data=data, slow=7.0)

    def best(*constraints: str, minimize: Any = "latency") -> str | None:
        found = deployment.services.frontiers.of_model(
            model.id, target=None, minimize=minimize, constraints=constraints
        )
        chosen = found.groups[0].best
        return chosen.variant.id if chosen.variant else chosen.reason

    assert best() == fast
    assert best("max_drop:top1<=0.01") == good, "a slow day does not make a slow artifact"
    assert best(minimize="size") == good
    assert best("max_drop:top1<=0.001") == model.id
    assert "No variant satisfies size<=10" in str(best("size<=10"))


def test_a_model_that_nobody_measured_has_no_groups(deployment: Deployment) -> None:
    model = deployment.model()
    deployment.submit(model)

    assert deployment.services.frontiers.of_model(model.id, target=None, minimize="size", constraints=[]).groups == ()


def test_every_bad_constraint_is_told_at_once(deployment: Deployment) -> None:
    with pytest.raises(InvalidRequest) as raised:
        deployment.services.frontiers.of_model(
            deployment.model().id, target=None, minimize="latency", constraints=["top1", "tpo1>=1", "top1>=0.5"]
        )
    assert [error.code for error in raised.value.errors] == ["invalid_constraint", "unknown_metric"]


@pytest.mark.parametrize("model_id", ["mdl_" + "0" * 26, "job_" + "0" * 26, "nonsense", "\0"])
def test_there_is_no_frontier_of_no_model(deployment: Deployment, model_id: str) -> None:
    with pytest.raises(NotFound):
        deployment.services.frontiers.of_model(model_id, target=None, minimize="latency", constraints=[])


def test_artifacts_and_their_model_side_by_side(deployment: Deployment) -> None:
    model, data = deployment.model(), deployment.dataset()
    first, [slow] = finish(deployment, model, {"cnd_1": (9.0, 300, 0.85)}, data=data)
    _, [fast] = finish(deployment, model, {"cnd_2": (5.0, 400, 0.899)}, data=data, slow=4.0)

    found = deployment.services.comparisons.compare([slow, fast, model.id])

    assert [each.id for each in found.variants] == [slow, fast, model.id]
    assert found.variants[2].job == first, "the model as it was measured beside the reference"
    rows = {row.found["name"]: row.values for row in found.rows}
    assert list(rows) == ["artifact_bytes", "top1", "latency_p50", "energy_per_inference"]
    assert rows["latency_p50"][0].difference is None
    told = {name: [value.difference for value in values[1:]] for name, values in rows.items()}
    latency = told["latency_p50"][0]
    assert latency is not None
    # 20 ms on a slow day against 9: and yet it is the faster one.
    assert (latency.side, latency.basis) == ("better", "through_original")
    assert latency.ratio == pytest.approx(5 / 9)
    assert [(each.side, each.basis) for each in told["top1"] if each] == [
        ("better", "through_original"),
        ("better", "paired"),
    ]
    assert [(each.side, each.difference) for each in told["artifact_bytes"] if each] == [("worse", 100), ("worse", 700)]
    assert [each.side for each in told["energy_per_inference"] if each] == ["unknown", "unknown"]


def test_other_conditions_are_named_and_nothing_is_said_to_differ(deployment: Deployment) -> None:
    model, data = deployment.model(), deployment.dataset()
    _, [one] = finish(deployment, model, {"cnd_1": (9.0, 300, 0.85)}, data=data)
    _, [other] = finish(
        deployment, model, {"cnd_2": (5.0, 400, 0.9)}, data=deployment.dataset(), machine="machine-2", threads=4
    )

    rows = {
        row.found["name"]: row.values[1].difference
        for row in deployment.services.comparisons.compare([one, other]).rows
    }

    assert rows["latency_p50"] is not None
    assert set(rows["latency_p50"].differs_in) == {"target", "threads"}
    assert rows["top1"] is not None
    assert set(rows["top1"].differs_in) == {"dataset"}
    assert rows["artifact_bytes"] is not None
    assert rows["artifact_bytes"].side == "worse"


@pytest.mark.parametrize(
    ("ids", "code"),
    [
        ([], "invalid_value"),
        (["art_" + "0" * 26], "invalid_value"),
        (["art_" + "0" * 26] * 2, "duplicate_id"),
        (["art_" + "0" * 26, "job_" + "0" * 26], "invalid_id"),
        (["art_" + "0" * 26, "\0" * 1000], "invalid_id"),
        ([f"art_{number:026d}" for number in range(21)], "invalid_value"),
    ],
)
def test_what_cannot_be_compared_is_refused(deployment: Deployment, ids: list[str], code: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        deployment.services.comparisons.compare(ids)
    assert raised.value.code == code


def test_what_is_not_there_cannot_be_compared(deployment: Deployment) -> None:
    model = deployment.model()
    _, [artifact] = finish(deployment, model, {"cnd_1": (9.0, 300, 0.85)})
    for missing, code in (("art_" + "0" * 26, "artifact_not_found"), ("mdl_" + "0" * 26, "model_not_found")):
        with pytest.raises(NotFound) as raised:
            deployment.services.comparisons.compare([artifact, missing])
        assert raised.value.code == code
    with pytest.raises(Conflict) as refused:
        deployment.services.comparisons.compare([artifact, deployment.model().id])
    assert refused.value.code == "not_measured"


def test_the_page_stays_as_long_as_its_job(deployment: Deployment) -> None:
    model = deployment.model()
    job_id, [_] = finish(deployment, model, {"cnd_1": (9.0, 300, 0.85)})
    page = deployment.services.jobs.page(job_id)
    assert deployment.content(page.id) == b"page " + job_id.encode()

    deployment.age_blobs(1e6)
    deployment.services.blobs.sweep()
    deployment.age_blobs(1e6)
    deployment.services.blobs.sweep()
    assert deployment.content(page.id) == b"page " + job_id.encode()

    deployment.services.jobs.delete(job_id)
    deployment.services.blobs.sweep()
    deployment.age_blobs(1e6)
    deployment.services.blobs.sweep()
    assert page.location not in deployment.objects()


def test_a_job_without_a_page_says_so(deployment: Deployment) -> None:
    model = deployment.model()
    queued = deployment.submit(model)
    with pytest.raises(Conflict) as early:
        deployment.services.jobs.page(queued)
    assert early.value.code == "report_not_ready"
    work, report = deployment.services.work, deployment.put(b"a report of an earlier version")
    work.succeed(deployment.claimed(), outcome={}, gate=None, artifacts=[], report=report, page=None, log=None)
    assert deployment.services.jobs.report(queued).sha256 == report.sha256
    with pytest.raises(NotFound) as older:
        deployment.services.jobs.page(queued)
    assert older.value.code == "page_not_found"
