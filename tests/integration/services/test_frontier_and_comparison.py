"""The frontier of a model and comparisons, from jobs in a real database."""

from collections.abc import Callable
from typing import Any

import pytest

from app.db.tables import Dataset, Model
from app.domain.variants import Difference
from app.errors import Conflict, InvalidRequest, NotFound
from app.services.frontier import Group
from app.services.work import MadeArtifact
from tests.parts.deployment import RECIPE, Deployment

PLACE = {"runtime": "onnxruntime", "version": "1", "providers": ["CPUExecutionProvider"], "threads": 1, "batch": 1}


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
    latency: float, size: int, top1: float, *, machine: str, source: str, **place: Any
) -> list[dict[str, Any]]:
    timed = {**place, "target": machine}
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
    chosen: str | None = None,
    machine: str = "machine-1",
    slow: float = 1.0,
    besides: Callable[[float], list[dict[str, Any]]] = lambda latency: [],
    **conditions: Any,
) -> tuple[str, list[str]]:
    """A job that succeeded: ms, bytes and top1 of each candidate, where the original has 10, 1000 and 0.9.

    On a `slow` day everything takes so many times as long. `chosen` are the rows that were held out of a dataset for
    all roles; "" for all of them. `conditions` are those of times, `besides` what else is measured of a variant of that
    latency. Returns the job's id and those of the artifacts.
    """
    place = PLACE | conditions
    source = "evaluation" if data else "synthetic"
    given: dict[str, Any] = {"datasets": {"evaluation": data.id}} if data else {}
    if data and chosen is not None:
        given = {"datasets": {"all": data.id}, "split": {"evaluation": 1}}
    job_id = deployment.submit(model, **given)
    job = deployment.claimed()
    assert job.id == job_id
    more: dict[str, Any] = {"machine": machine, "source": source, **place}
    outcome = {
        "chosen_rows": {"calibration": "0" * 64} | ({"evaluation": chosen} if chosen else {}),
        "baseline": {"measurements": measured(10 * slow, 1000, 0.9, **more) + besides(10 * slow)},
        "candidates": [
            {
                "id": name,
                "recipe": RECIPE,
                "measurements": measured(latency * slow, size, top1, **more) + besides(latency * slow),
                "comparisons": [
                    {
                        "name": "latency_p50",
                        "ratio": latency / 10,
                        "ci95": [latency / 10.1, latency / 9.9],
                        "conditions": place,
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


def evaluate(
    deployment: Deployment,
    artifact: str,
    latency: float,
    *,
    size: int = 300,
    top1: float | None = 0.88,
    data: Dataset | None = None,
    machine: str = "machine-1",
    **conditions: Any,
) -> str:
    """A job that measured an artifact again, alone; its id."""
    source = "evaluation" if data else "synthetic"
    given = {"datasets": {"evaluation": data.id}} if data else {}
    view, _ = deployment.services.jobs.submit({"kind": "evaluate", "model": artifact, **given}, idempotency_key=None)
    found = measured(latency, size, top1 or 0, machine=machine, source=source, **(PLACE | conditions))
    found = [each for each in found if each["name"] != "top1" or top1 is not None]
    deployment.services.work.succeed(
        deployment.claimed(),
        outcome={"baseline": {"measurements": found}, "candidates": []},
        gate=None,
        artifacts=[],
        report=deployment.put(b"report " + view.job.id.encode()),
        page=None,
        log=None,
    )
    return view.job.id


def groups_of(deployment: Deployment, model: Model, *constraints: str, **options: Any) -> tuple[Group, ...]:
    given: dict[str, Any] = {"target": None, "minimize": "latency"} | options
    return deployment.services.frontiers.of_model(model.id, constraints=constraints, **given).groups


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
        {"data": data, "chosen": ""},
        {"data": data, "chosen": "1" * 64},
        {"data": again, "chosen": "1" * 64},
        {"data": same, "chosen": "1" * 64},
        {"data": data, "chosen": "2" * 64},
    ):
        finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)}, **options)  # type: ignore[arg-type]

    found = deployment.services.frontiers.of_model(model.id, target=None, minimize="latency", constraints=[])

    kinds = [(group.fingerprint, group.data.source, group.conditions["threads"]) for group in found.groups]
    assert len(kinds) == 9, "equal bytes are equal data, and so are the same rows of them"
    assert kinds.count(("machine-1", "synthetic", 1)) == 1
    assert kinds.count(("machine-1", "evaluation", 2)) == 1
    assert kinds.count(("machine-2", "evaluation", 1)) == 1
    assert kinds.count(("machine-1", "evaluation", 1)) == 6
    for target, count in (("machine-2", 1), ("machine-1", 8), ("local", 9), ("cuda", 0)):
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


SHORT, LONG = {"shapes": {"x": [1, 4, 256]}}, {"shapes": {"x": [1, 512, 256]}}


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (SHORT, LONG),
        ({}, LONG),
        ({}, {"runtime": "openvino", "device": "CPU", "providers": None}),
        ({}, {"version": "2"}),
        ({}, {"providers": ["CUDAExecutionProvider"]}),
        ({}, {"batch": 8}),
        ({}, {"case": "step"}),
        ({}, {"callers": 4}),
        ({"callers": 4}, {"callers": 4, "rate": 200.0}),
    ],
)
def test_what_was_measured_under_other_conditions_is_no_better(
    deployment: Deployment, first: dict[str, Any], other: dict[str, Any]
) -> None:
    """`cnd_1` is a hundred times as fast only in that it was given less to do; its later result replaces none."""
    model = deployment.model()
    _, [little] = finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)}, slow=0.01, **first)
    _, [much] = finish(deployment, model, {"cnd_2": (9.0, 300, 0.88)}, **other)
    _, [again] = finish(deployment, model, {"cnd_1": (20.0, 300, 0.88)}, **other)

    after, before = groups_of(deployment, model, "latency_p50<=1")

    assert [each.variant.id for each in before.placed] == [model.id, little]
    assert [each.variant.id for each in after.placed] == [model.id, again, much]
    assert [each.standings for each in before.placed] == [("met",)] * 2
    assert [each.standings for each in after.placed] == [("missed",)] * 3
    assert [each.costs["latency_p50"][0] for each in after.placed] == pytest.approx([1.0, 2.0, 0.9])
    for group, given in ((before, first), (after, other)):
        stated = {key: value for key, value in (PLACE | given).items() if value is not None}
        assert group.conditions == stated
    for group in (before, after):
        assert group.best.variant is None or group.best.variant.id == little
    compared = deployment.services.comparisons.compare([much, little])
    [told] = [row.values[1].difference for row in compared.rows if row.found["name"] == "latency_p50"]
    assert told is not None
    assert (told.side, told.ratio, told.difference) == ("not_comparable", None, None)
    differing = {key for key in other | first if first.get(key) != other.get(key)}
    assert set(told.differs_in) == ({"runtime"} if "runtime" in differing else differing)


def on_openvino(latency: float) -> list[dict[str, Any]]:
    """What a job that times every runtime says beside the usual one: half the time, and no metrics."""
    place = {"runtime": "openvino", "version": "2026", "device": "CPU", "threads": 1, "batch": 1, "target": "machine-1"}
    return [measurement("latency_p50", latency / 2, "ms", "lower", [latency * 0.49, latency * 0.51], **place)]


def test_each_runtime_of_one_job_has_a_group(deployment: Deployment) -> None:
    model, data = deployment.model(), deployment.dataset()
    job, [artifact] = finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)}, data=data, besides=on_openvino)

    usual, other = groups_of(deployment, model, "latency_p50<=4", "top1>=0.5")

    assert [group.conditions["runtime"] for group in (usual, other)] == ["onnxruntime", "openvino"]
    assert [[each.variant.id for each in group.placed] for group in (usual, other)] == [[model.id, artifact]] * 2
    assert [each.standings for each in usual.placed] == [("missed", "met")] * 2
    # Metrics are the usual runtime's, which says nothing of what another computes.
    assert [each.standings for each in other.placed] == [("missed", "unknown"), ("met", "unknown")]
    assert other.placed[1].costs["artifact_bytes"][0] == 0.3
    assert other.placed[1].costs["latency_p50"] == (0.5, pytest.approx((0.486, 0.515), abs=1e-3)), "unpaired here"
    assert usual.jobs[artifact] == other.jobs[artifact] == [job]


def test_an_artifact_that_is_evaluated_is_one_row_with_its_own_numbers(deployment: Deployment) -> None:
    model, data = deployment.model(), deployment.dataset()
    made, [artifact] = finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)}, data=data)
    evaluated = evaluate(deployment, artifact, 20.0, data=data)

    [group] = groups_of(deployment, model, "max_drop:top1<=0.025")

    rows = {each.variant.id: each for each in group.placed}
    assert len(rows) == len(group.placed) == 2
    assert group.jobs[artifact] == [evaluated, made]
    found = rows[artifact]
    assert found.variant.recipe == RECIPE
    assert found.costs["latency_p50"][0] == pytest.approx(2.0), "the newest numbers are what it costs"
    assert group.best.variant is not None
    assert (group.best.variant.id, group.best.indistinguishable) == (model.id, ())
    # 0.018 to 0.022, row by row: what it computes is what it computed.
    assert found.standings == ("met",)


def test_an_evaluation_under_other_conditions_replaces_nothing(deployment: Deployment) -> None:
    model = deployment.model()
    made, [artifact] = finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)})
    evaluated = evaluate(deployment, artifact, 20.0, threads=2)

    other, usual = groups_of(deployment, model)

    assert (other.jobs, other.conditions["threads"]) == ({artifact: [evaluated]}, 2)
    assert usual.jobs == {artifact: [made], model.id: [made]}
    assert [each.costs["latency_p50"][0] for each in usual.placed] == [1.0, 0.5]


def test_evaluations_reach_comparisons(deployment: Deployment) -> None:
    """Of one artifact made here and one made elsewhere, what was measured in one place is compared."""
    model = deployment.model()
    here, [one] = finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)})
    there, [two] = finish(deployment, model, {"cnd_2": (4.0, 200, 0.88)}, machine="machine-2")
    assert latency_between(deployment, one, two).side == "not_comparable"

    again = evaluate(deployment, one, 10.0, machine="machine-2")

    told = latency_between(deployment, one, two)
    assert (told.side, told.basis) == ("better", "independent")
    assert told.ratio == pytest.approx(0.4)
    assert [each.job for each in deployment.services.comparisons.compare([one, two]).variants] == [again, there]
    assert [each.job for each in deployment.services.comparisons.compare([two, one, model.id]).variants] == [
        there,
        again,
        there,
    ]
    # The reference, too, is what was measured where the others were.
    _, [three] = finish(deployment, model, {"cnd_3": (4.0, 200, 0.88)})
    told = latency_between(deployment, one, three)
    assert (told.side, told.basis, told.ratio) == ("better", "through_original", pytest.approx(0.8))
    # Where both will do, what was measured in turn is surer.
    assert [each.job for each in deployment.services.comparisons.compare([model.id, one]).variants] == [here, here]


def test_an_evaluation_that_says_less_hides_nothing(deployment: Deployment) -> None:
    """Nothing can be compared with what was measured elsewhere, and what can be told is told all the same."""
    model = deployment.model()
    _, [one] = finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)}, machine="machine-2", data=deployment.dataset())
    made, [two] = finish(deployment, model, {"cnd_2": (5.0, 300, 0.88)})
    evaluate(deployment, two, 5.0, top1=None)

    found = deployment.services.comparisons.compare([one, two])
    assert found.variants[1].job == made


def latency_between(deployment: Deployment, first: str, other: str) -> Difference:
    compared = deployment.services.comparisons.compare([first, other])
    found = next(row for row in compared.rows if row.found["name"] == "latency_p50").values[1].difference
    assert found is not None
    return found


def under_all_kinds_of_load(latency: float) -> list[dict[str, Any]]:
    return [
        measurement(
            "latency_p50", latency * times, "ms", "lower", [latency * times * 0.9, latency * times * 1.1], **kind
        )
        for times, kind in (
            (0.5, {**PLACE, "runtime": "openvino", "version": "2026", "target": "machine-1"}),
            (2.0, {**PLACE, "case": "prefill", "shapes": {"x": [1, 128]}, "target": "machine-1"}),
            (3.0, {**PLACE, "callers": 4, "target": "machine-1"}),
            (4.0, {**PLACE, "callers": 4, "rate": 200.0, "target": "machine-1"}),
        )
    ]


def test_every_runtime_case_and_load_has_a_row(deployment: Deployment) -> None:
    model = deployment.model()
    _, [artifact] = finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)}, besides=under_all_kinds_of_load)
    _, [plain] = finish(deployment, model, {"cnd_2": (5.0, 300, 0.88)})

    def rows(*ids: str) -> list[tuple[Any, ...]]:
        return [
            tuple(beside.found["value"] if beside.found else None for beside in row.values)
            for row in deployment.services.comparisons.compare(ids).rows
            if row.found["name"] == "latency_p50"
        ]

    assert rows(model.id, artifact) == [(10, 5), (5, 2.5), (20, 10), (30, 15), (40, 20)]
    # Nothing that only the other has is left out, nor is it put beside what it cannot be compared with.
    assert rows(plain, artifact) == [(5, 5), (None, 2.5), (None, 10), (None, 15), (None, 20)]
    compared = deployment.services.comparisons.compare([artifact, plain]).rows
    sides = [
        row.values[1].difference.side
        for row in compared
        if row.found["name"] == "latency_p50" and row.values[1].difference is not None
    ]
    assert sides == ["within_noise", *["not_comparable"] * 4]
    bases = [
        row.values[1].difference.basis
        for row in deployment.services.comparisons.compare([model.id, artifact]).rows
        if row.found["name"] == "latency_p50" and row.values[1].difference is not None
    ]
    assert bases == ["paired", *["independent"] * 4], "one pairing is that of its conditions alone"


def test_a_target_that_there_is_not_is_an_error(deployment: Deployment) -> None:
    model = deployment.model()
    finish(deployment, model, {"cnd_1": (5.0, 300, 0.88)})
    with pytest.raises(InvalidRequest) as raised:
        groups_of(deployment, model, target="nope")
    assert raised.value.code == "target_unknown"
    assert "'nope'" in raised.value.detail
    assert "local" in raised.value.detail


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
