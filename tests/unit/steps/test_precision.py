"""Which latencies are known too little, from results that children left."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluation.conftest import latency_replicate
from tests.unit.steps.conftest import Job


def keep(job: Job, folder: str, **values: Any) -> str:
    place: Path = job.scratch / folder
    place.mkdir()
    (place / "result.json").write_text(latency_replicate(**values).model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("original", "artifact", "width", "wide"),
    [
        ((10, 10, 10, 10, 10), (8, 8, 8, 8, 8), 0.02, False),
        ((10, 10, 10, 10, 13), (8, 8, 8, 8, 8), 0.02, True),
        ((10, 10, 10, 10, 10), (8, 8, 8, 8, 11), 0.02, True),
        ((10, 10, 10, 10, 13), (8, 8, 8, 8, 8), 1.0, False),
    ],
)
def test_wide_is_what_either_model_s_interval_is(
    job: Job, original: tuple[float, ...], artifact: tuple[float, ...], width: float, wide: bool
) -> None:
    job.spec = {"measure": {"width": width}}
    folders = [
        keep(job, f"latency-{number}", original=before, artifact=after, replicate=number, scatter=0.001)
        for number, (before, after) in enumerate(zip(original, artifact, strict=True), start=1)
    ]
    found = job.run("precision", groups={"it": folders})
    assert found["wide"] == (["it"] if wide else [])


def test_one_process_is_never_enough(job: Job) -> None:
    folder = keep(job, "latency-1", scatter=0.001)
    assert job.run("precision", groups={"alone": [folder]})["wide"] == ["alone"]
