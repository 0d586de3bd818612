"""The child's program: commands in, events out, and no failure that ends it."""

import errno
import importlib
import io
import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel

from app.errors import BitpressError, RejectedInput, StepError
from tests.parts import models
from tests.unit.steps.conftest import Job, images
from workers.steps import program
from workers.steps.inputs import Progress, StepRequest
from workers.steps.program import STEPS, serve


class Ask(StepRequest):
    number: int = 1


class Answer(BaseModel):
    number: int


Run = Callable[[Ask, Path, Path, Progress], Answer]


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Makes a function the step `test`."""

    def install(run: Run) -> None:
        module = types.ModuleType("tests.a_step")
        module.run = run
        monkeypatch.setitem(sys.modules, "tests.a_step", module)
        monkeypatch.setitem(STEPS, "test", "tests.a_step")

    return install


def events_of(scratch: Path, *commands: Any) -> list[dict[str, Any]]:
    """What is told when these commands are served; each gets an empty request unless it has one."""
    lines = []
    for command in commands:
        if isinstance(command, dict):
            path = scratch / command["request"]
            if ".." not in path.parts and path.is_relative_to(scratch) and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}")
        lines.append(command if isinstance(command, str) else json.dumps(command))
    events: list[dict[str, Any]] = []
    serve(scratch, io.StringIO("\n".join(lines) + "\n"), events.append)
    return events


COMMAND = {"step": "test", "request": "test-1/request.json"}


@pytest.mark.parametrize("name", STEPS)
def test_every_step_can_be_run(name: str) -> None:
    run = importlib.import_module(STEPS[name]).run
    hints = get_type_hints(run)

    assert issubclass(hints["request"], BaseModel)
    assert issubclass(hints["return"], BaseModel)


def test_a_step_answers_in_its_folder(tmp_path: Path, step: Callable[[Run], None]) -> None:
    def run(request: Ask, scratch: Path, folder: Path, progress: Progress) -> Answer:
        progress(0.25, "a quarter")
        assert folder == scratch / "test-1"
        return Answer(number=request.number + 1)

    step(run)

    assert events_of(tmp_path, COMMAND) == [{"progress": 0.25, "message": "a quarter"}, {"done": "test-1"}]
    assert json.loads((tmp_path / "test-1/result.json").read_text()) == {"number": 2}
    assert sorted(path.name for path in (tmp_path / "test-1").iterdir()) == ["request.json", "result.json"]


def test_progress_stays_between_0_and_1_and_short(tmp_path: Path, step: Callable[[Run], None]) -> None:
    def run(request: Ask, scratch: Path, folder: Path, progress: Progress) -> Answer:
        progress(-1, "")
        progress(7, "x" * 10_000)
        return Answer(number=0)

    step(run)
    first, second, _ = events_of(tmp_path, COMMAND)

    assert (first["progress"], second["progress"]) == (0, 1)
    assert len(second["message"]) <= 500


@pytest.mark.parametrize("kind", [StepError, RejectedInput])
def test_an_expected_failure_keeps_its_code(
    tmp_path: Path, step: Callable[[Run], None], kind: type[BitpressError]
) -> None:
    def run(request: Ask, scratch: Path, folder: Path, progress: Progress) -> Answer:
        raise kind("Sentence.", code="some_code")

    step(run)

    assert events_of(tmp_path, COMMAND) == [
        {"failed": "test-1", "code": "some_code", "detail": "Sentence.", "retryable": False}
    ]
    assert not (tmp_path / "test-1/result.json").exists()


def test_an_unforeseen_failure_is_told_without_places(
    tmp_path: Path, step: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(request: Ask, scratch: Path, folder: Path, progress: Progress) -> Answer:
        raise ZeroDivisionError(f"in {folder}/deep.py and /usr/lib/python3/odd.py at node /layer/MatMul\n" + "x" * 2000)

    step(run)
    (event,) = events_of(tmp_path, COMMAND)

    assert event["code"] == "step_failed"
    assert event["detail"].startswith("ZeroDivisionError: in test-1/deep.py and odd.py at node /layer/MatMul x")
    assert len(event["detail"]) < 600
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_no_riddle(tmp_path: Path, step: Callable[[Run], None]) -> None:
    def run(request: Ask, scratch: Path, folder: Path, progress: Progress) -> Answer:
        raise OSError(errno.ENOSPC, "No space left on device")

    step(run)
    (event,) = events_of(tmp_path, COMMAND)

    assert (event["code"], event["retryable"]) == ("disk_limit_exceeded", True)


def test_lack_of_memory_ends_the_child(tmp_path: Path, step: Callable[[Run], None]) -> None:
    def run(request: Ask, scratch: Path, folder: Path, progress: Progress) -> Answer:
        raise MemoryError

    step(run)

    with pytest.raises(MemoryError):
        events_of(tmp_path, COMMAND)


def test_after_a_failure_the_next_command_is_served(tmp_path: Path, step: Callable[[Run], None]) -> None:
    def run(request: Ask, scratch: Path, folder: Path, progress: Progress) -> Answer:
        if folder.name == "test-1":
            raise RuntimeError("once")
        return Answer(number=0)

    step(run)
    first, second = events_of(tmp_path, COMMAND, "", {"step": "test", "request": "test-2/request.json"})

    assert first["failed"] == "test-1"
    assert second == {"done": "test-2"}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("no json", "step_failed"),
        ("[1]", "step_failed"),
        ({"step": "no_such_step", "request": "a/request.json"}, "unknown_step"),
        ({"step": "test", "request": "../request.json"}, "request_invalid"),
        ({"step": "test", "request": "/etc/passwd"}, "request_invalid"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, step: Callable[[Run], None], command: Any, code: str) -> None:
    step(lambda request, scratch, folder, progress: Answer(number=0))

    (event,) = events_of(tmp_path, command)

    assert event["code"] == code


def test_a_request_that_does_not_validate_says_where(tmp_path: Path, step: Callable[[Run], None]) -> None:
    def run(request: Ask, scratch: Path, folder: Path, progress: Progress) -> Answer:
        return Answer(number=0)

    step(run)
    (tmp_path / "test-1").mkdir()
    (tmp_path / "test-1/request.json").write_text('{"number": "many"}')
    (event,) = events_of(tmp_path, COMMAND)

    assert event["code"] == "request_invalid"
    assert "number" in event["detail"]


_MEASURE = """
import io, json, sys
from pathlib import Path
from workers.steps.program import serve
events = []
command = json.dumps({"step": sys.argv[2], "request": "measure/request.json"})
serve(Path(sys.argv[1]), io.StringIO(command), events.append)
assert events[-1] == {"done": "measure"}, events
heavy = {"onnx", "pyarrow", "PIL", "onnxruntime.quantization", "scipy", "torch", "app.domain.recipe"}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize("step_name", ["measure_latency", "measure_load"])
def test_a_measuring_child_imports_no_more_than_it_measures_with(job: Job, step_name: str) -> None:
    job.save_model(models.conv_net())
    job.save_dataset("evaluation", image=images(4))
    model = {"path": job.model, "session_options": {}}
    (job.scratch / "measure").mkdir()
    request = job.request(
        candidate_id="cnd_" + "0" * 26, baseline=model, candidate=model, seconds=0.01, subject="original"
    )
    request["subject_model"] = model
    request["measure"] = {"load": {"seconds": 0.05}}
    (job.scratch / "measure/request.json").write_text(json.dumps(request))

    printed = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(job.scratch), step_name], capture_output=True, text=True, check=True
    ).stdout

    assert printed.strip() == "[]"


def test_the_table_names_the_steps_of_a_job() -> None:
    wanted = {"inspect", "baseline", "calibrate", "candidates", "measure_latency", "profile", "gate", "package"}

    others = {"inspect_model", "inspect_dataset", "probe", "precision", "measure_load", "unfinished"}
    assert wanted | others == set(program.STEPS)
