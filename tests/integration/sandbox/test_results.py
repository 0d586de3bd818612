"""What a child leaves for the parent to open: nothing leads the parent elsewhere, holds it up or swells in it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.sandbox.conftest import Start
from tests.integration.sandbox.trial import Trial, is_gone, limits
from workers.sandbox.errors import ResultInvalid, StepCrashed
from workers.sandbox.limits import MiB
from workers.sandbox.scratch import open_result_file

LINKS = ["link", "hard_link", "fifo", "swapped_folder"]
CONTENTS = [
    "folder", "nothing", "huge", "not_json", "not_utf8", "an_array", "nested", "infinite", "not_a_number",
    "long_number", "surrogate", "nul",
]  # fmt: skip


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    path = tmp_path / "outside" / "result.json"
    path.write_text('{"secret": "the-api-key"}')
    return path


@pytest.mark.parametrize("program", [*LINKS, *CONTENTS])
def test_a_planted_result_is_refused(start_bare: Start, secret: Path, program: str) -> None:
    """By the parent alone: nothing confines this child, so that it can plant what it likes."""
    with (
        start_bare(target=f"dishonest:{program}", limits=limits(result_bytes=1 * MiB)) as child,
        pytest.raises(ResultInvalid, match="larger than" if program == "huge" else "result") as refused,
    ):
        child.run(step="x", folder="x", request={"outside": str(secret)})
    assert "the-api-key" not in refused.value.detail
    assert is_gone(child.pid)
    assert secret.read_text() == '{"secret": "the-api-key"}'


@pytest.mark.parametrize("program", LINKS)
def test_a_confined_child_cannot_even_plant_it(start: Start, secret: Path, program: str) -> None:
    with start(target=f"dishonest:{program}") as child, pytest.raises(StepCrashed) as crashed:
        child.run(step="x", folder="x", request={"outside": str(secret)})
    assert "PermissionError" in crashed.value.log_tail


@pytest.mark.parametrize("program", CONTENTS)
def test_a_confined_child_s_nonsense_is_refused(start: Start, program: str) -> None:
    with (
        start(target=f"dishonest:{program}", limits=limits(result_bytes=1 * MiB)) as child,
        pytest.raises(ResultInvalid),
    ):
        child.run(step="x", folder="x", request={})
    assert is_gone(child.pid)


@pytest.mark.parametrize(
    "program", ["garbage", "not_an_object", "another_step", "progress_that_is_none", "confined_again"]
)
def test_a_report_that_is_no_progress_stops_the_child(start: Start, program: str) -> None:
    with start(target=f"dishonest:{program}") as child, pytest.raises(ResultInvalid):
        child.run(step="x", folder="x", request={})
    assert is_gone(child.pid)


def test_a_step_s_folder_is_new(start: Start) -> None:
    with start() as child:
        trial = Trial(child)
        trial.expect("make_folder", path="step-2")
        with pytest.raises(ResultInvalid, match="step-2"):
            trial.attempt("list_folder", path=".")
        assert trial.expect("list_folder", path="step-2") == []


@pytest.fixture
def results(scratch: Path) -> Path:
    """A scratch folder as a child without confinement could leave it."""
    folder = scratch / "step"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "sub" / "model.data").write_bytes(b"data")
    (folder / "link").symlink_to(folder / "model.onnx")
    (folder / "linked").symlink_to(folder / "sub")
    (folder / "hard").write_bytes(b"hard")
    os.link(folder / "hard", scratch / "also-hard")
    os.mkfifo(folder / "fifo")
    (scratch / "secret").write_bytes(b"secret")
    (scratch / "linked-step").symlink_to(folder)
    return scratch


@pytest.mark.parametrize(("name", "content"), [("model.onnx", b"model"), ("sub/model.data", b"data")])
def test_a_file_that_a_result_names_is_opened(results: Path, name: str, content: bytes) -> None:
    with open_result_file(results, "step", name) as file:
        assert file.read() == content


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("step", "../secret"), ("step", "sub/../../secret"), ("step", "/etc/passwd"), ("step", "link"),
        ("step", "linked/model.data"), ("step", "fifo"), ("step", "sub"), ("step", "hard"), ("step", "missing"),
        ("step", ""), ("step", "."), ("step", "sub/"), ("step", "sub//model.data"), ("step", "model.onnx\0x"),
        ("step", "x" * 5000), ("step", "\ud800"), ("linked-step", "model.onnx"), ("..", "secret"), (".", "secret"),
        ("", "secret"), ("step/sub", "model.data"), ("missing", "model.onnx"),
    ],
)  # fmt: skip
def test_a_file_that_a_result_may_not_name_is_refused(results: Path, folder: str, name: str) -> None:
    with pytest.raises(ResultInvalid):
        open_result_file(results, folder, name).close()


@pytest.mark.parametrize("swap", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_an_opened_file_is_the_one_that_was_looked_at(results: Path, swap: Callable[[Path], object]) -> None:
    with open_result_file(results, "step", "model.onnx") as file:
        path = results / "step" / "model.onnx"
        path.rename(path.with_name("aside"))
        path.symlink_to(results / "secret")
        assert file.read() == b"model"
