"""Which children measure a job, and what each is told."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from app.domain.measure import Measure
from workers.tasks.measuring import Measuring
from workers.tasks.plan import Step

ORIGINAL = {"path": "model.onnx", "session_options": {}}
CANDIDATES = [{"id": name, "path": f"{name}.onnx", "session_options": {}} for name in ("cnd_a", "cnd_b")]


def planned(
    replicates: int = 5, candidates: list[dict[str, Any]] = CANDIDATES, batches: list[int] | None = None, **measure: Any
) -> list[Step]:
    steps, folders = run_through(replicates, candidates, batches, **measure)
    assert sorted(folders) == sorted(step.folder for step in steps)
    return steps


def run_through(
    replicates: int,
    candidates: list[dict[str, Any]],
    batches: list[int] | None = None,
    *,
    most_replicates: int = 0,
    runtimes: Sequence[str] = ("onnxruntime",),
    wide: Callable[[dict[str, Any]], list[str]] = lambda request: [],
    providers: list[str] | None = None,
    **measure: Any,
) -> tuple[list[Step], list[str]]:
    """The children that a job is measured with, and the folders that it says they left."""
    steps: list[Step] = []

    def fresh(step: Step) -> dict[str, Any]:
        steps.append(step)
        return {}

    measuring = Measuring(
        ORIGINAL,
        candidates,
        {"spec": {"measure": Measure.model_validate(measure).model_dump(mode="json")}}
        | ({"providers": providers} if providers else {}),
        batches=batches,
        cases=measure.get("cases", {}),
        runtimes=runtimes,
        peaks=None,
        replicates=replicates,
        most_replicates=most_replicates,
        seconds=1.0,
        fresh=fresh,
        beside=lambda step: {"wide": wide(step.request)},
        show=lambda share, text: None,
    )
    measured = measuring.run()
    return steps, [*measured.folders, *measured.profiles.values()]


def conditions(steps: list[Step]) -> Counter[tuple[str, int, int]]:
    return Counter(
        (step.request["candidate_id"], step.request["threads"], step.request["batch"])
        for step in steps
        if step.name == "measure_latency"
    )


def test_every_child_is_told_what_to_run_on() -> None:
    providers = ["CUDAExecutionProvider"]
    steps, _ = run_through(2, CANDIDATES[:1], providers=providers, load={"callers": [1]}, seconds=None)
    assert {step.name for step in steps} == {"measure_latency", "measure_load", "profile"}
    assert all(step.request["providers"] == providers for step in steps)
    assert not any("providers" in step.request for step in planned(2))


def test_every_pair_of_threads_and_batch_has_as_many_children() -> None:
    steps = planned(threads=[1, 2], batch=[1, 8])
    assert conditions(steps) == {(name, t, b): 5 for name in ("cnd_a", "cnd_b") for t in (1, 2) for b in (1, 8)}
    assert len({step.folder for step in steps}) == len(steps)


def test_the_first_pair_comes_first_and_none_twice() -> None:
    steps = planned(threads=[4, 2, 4], batch=[8, 8])
    assert list(conditions(steps)) == [("cnd_a", 4, 8), ("cnd_b", 4, 8), ("cnd_a", 2, 8), ("cnd_b", 2, 8)]
    assert set(conditions(steps).values()) == {5}


def test_a_model_that_fixes_its_rows_is_measured_once_with_them() -> None:
    assert conditions(planned(candidates=CANDIDATES[:1], batch=[1, 8], batches=[4])) == {("cnd_a", 1, 4): 5}


def test_the_original_alone_is_timed_where_there_is_nothing_beside_it() -> None:
    steps = planned(candidates=[], threads=[1, 2])
    assert conditions(steps) == {("original", 1, 1): 5, ("original", 2, 1): 5}
    assert all(step.request["candidate"] is None for step in steps if step.name == "measure_latency")


def test_every_case_has_children_with_the_first_number_of_threads() -> None:
    cases = {"prefill": {"ids": [1, 128]}, "step": {"ids": [1, 1]}}
    steps = planned(2, CANDIDATES[:1], threads=[2, 4], cases=cases)
    timed = [step.request for step in steps if step.name == "measure_latency"]
    assert Counter(request["case"] for request in timed) == {None: 4, "prefill": 2, "step": 2}
    assert {request["threads"] for request in timed if request["case"]} == {2}


def test_every_model_is_profiled_once() -> None:
    profiled = [step.request["subject"] for step in planned(2, threads=[1, 2]) if step.name == "profile"]
    assert profiled == ["original", "cnd_a", "cnd_b"]


def test_other_runtimes_are_timed_under_the_first_conditions() -> None:
    steps, _ = run_through(2, CANDIDATES[:1], runtimes=("onnxruntime", "openvino"), threads=[2, 1])
    timed = [step.request for step in steps if step.name == "measure_latency"]
    assert Counter((request["runtime"], request["threads"]) for request in timed) == {
        ("onnxruntime", 2): 2,
        ("onnxruntime", 1): 2,
        ("openvino", 2): 2,
    }


def test_only_what_is_known_too_little_is_measured_on_and_not_for_ever() -> None:
    asked: list[dict[str, Any]] = []

    def wide(request: dict[str, Any]) -> list[str]:
        asked.append(request["groups"])
        return ["cnd_b-1x1"]

    steps, folders = run_through(3, CANDIDATES, most_replicates=5, wide=wide)
    timed = Counter(step.request["candidate_id"] for step in steps if step.name == "measure_latency")
    assert timed == {"cnd_a": 3, "cnd_b": 5}
    assert [len(groups["cnd_b-1x1"]) for groups in asked] == [3, 4]
    assert {"latency-cnd_b-1x1-4", "latency-cnd_b-1x1-5"} <= set(folders)


def test_names_of_folders_fit_the_column_that_keeps_them() -> None:
    candidate = {**CANDIDATES[0], "id": "cnd_" + "0" * 26}
    steps = planned(50, [candidate], threads=[256], batch=[4096])
    assert max(len(step.folder) for step in steps) <= 64
