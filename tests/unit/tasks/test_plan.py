"""Which children measure a job, and what each is told."""

from collections import Counter
from typing import Any

from app.domain.job import Measure
from workers.tasks.plan import Step, measuring_steps

ORIGINAL = {"path": "model.onnx", "session_options": {}}
CANDIDATES = [{"id": name, "path": f"{name}.onnx", "session_options": {}} for name in ("cnd_a", "cnd_b")]


def planned(
    replicates: int = 5, candidates: list[dict[str, Any]] = CANDIDATES, batches: list[int] | None = None, **measure: Any
) -> list[Step]:
    common = {"spec": {"measure": Measure.model_validate(measure).model_dump(mode="json")}}
    return measuring_steps(ORIGINAL, candidates, common, replicates=replicates, seconds=1.0, batches=batches)


def conditions(steps: list[Step]) -> Counter[tuple[str, int, int]]:
    return Counter(
        (step.request["candidate_id"], step.request["threads"], step.request["batch"])
        for step in steps
        if step.name == "measure_latency"
    )


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


def test_memory_is_measured_in_several_children_of_each_model_and_of_none() -> None:
    for replicates, children in ((2, 2), (3, 3), (5, 3)):
        memory = [step.request for step in planned(replicates) if step.name == "measure_memory"]
        assert Counter(request["subject"] for request in memory) == dict.fromkeys(
            ("zero", "original", "cnd_a", "cnd_b"), children
        )
        assert all((request["model"] is None) == (request["subject"] == "zero") for request in memory)


def test_names_of_folders_fit_the_column_that_keeps_them() -> None:
    candidate = {**CANDIDATES[0], "id": "cnd_" + "0" * 26}
    steps = planned(50, [candidate], threads=[256], batch=[4096])
    assert max(len(step.folder) for step in steps) <= 64
