"""A child that takes more than it may is stopped, and by the right limit."""

import time
from pathlib import Path

import pytest

from tests.integration.sandbox.conftest import Start
from tests.integration.sandbox.trial import Trial, is_gone, limits
from workers.sandbox.errors import (
    DiskLimitExceeded,
    MemoryLimitExceeded,
    ProgressLimitExceeded,
    ResultInvalid,
    ThreadLimitExceeded,
    TimeLimitExceeded,
)
from workers.sandbox.limits import GiB, MiB


def test_an_endless_allocation_is_stopped_near_the_limit(start: Start) -> None:
    with start(limits=limits(memory_bytes=200 * MiB)) as child, pytest.raises(MemoryLimitExceeded, match="200 MiB"):
        Trial(child).attempt("allocate_endlessly", stop_bytes=4 * GiB)
    assert 200 * MiB < child.peak_memory() < 800 * MiB
    assert is_gone(child.pid)


def test_an_allocation_beyond_the_address_space_is_refused_at_once(start: Start) -> None:
    with start(limits=limits(memory_bytes=200 * MiB)) as child, pytest.raises(MemoryLimitExceeded):
        Trial(child).attempt("allocate_at_once", size=64 * GiB)


def test_address_space_is_limited_even_untouched(start: Start) -> None:
    with start(limits=limits(memory_bytes=200 * MiB)) as child:
        trial = Trial(child)
        assert trial.attempt("reserve_memory", size=9 * GiB)["because"].endswith("Cannot allocate memory")
        assert trial.expect("reserve_memory", size=1 * GiB)


def test_an_endless_loop_is_stopped_in_time(start: Start) -> None:
    with start() as child:
        began = time.monotonic()
        with pytest.raises(TimeLimitExceeded, match=r": 0\.5 seconds were left .* limits\.run_seconds"):
            child.run(step="spin", folder="spin", request={"seconds": 60}, seconds=0.5)
        assert 0.5 <= time.monotonic() - began < 1.5
        assert is_gone(child.pid)
        assert not child.alive


def test_a_step_that_had_hardly_any_time_says_so_in_round_numbers(start: Start) -> None:
    with start() as child, pytest.raises(TimeLimitExceeded, match=r": less than 0\.1 seconds were left"):
        child.run(step="spin", folder="spin", request={"seconds": 60}, seconds=0.00563135)


def test_processor_time_stops_a_child_whose_parent_does_not_look(start: Start) -> None:
    with start(limits=limits(cpu_seconds=1)) as child, pytest.raises(TimeLimitExceeded, match="processor time"):
        Trial(child).attempt("spin", seconds=60)


def test_ten_thousand_threads_are_stopped(start: Start) -> None:
    with start(limits=limits(threads=64)) as child, pytest.raises(ThreadLimitExceeded, match="64 threads"):
        Trial(child).attempt("start_threads", count=10_000)
    assert is_gone(child.pid)


def test_one_file_cannot_outgrow_the_disk_limit(start: Start) -> None:
    with start(limits=limits(disk_bytes=32 * MiB)) as child:
        trial = Trial(child)
        answer = trial.attempt("reserve_one_file", size=100 * GiB)
        assert (answer["refused"], "File too large" in answer["because"]) == ("OSError", True)
        with pytest.raises(DiskLimitExceeded, match="32 MiB"):  # the file is full, the result comes on top
            trial.attempt("fill_one_file", size=64 * MiB)


@pytest.mark.parametrize("act", ["fill_many_files", "fill_deleted_files"])
def test_a_full_disk_is_noticed(start: Start, act: str) -> None:
    with start(limits=limits(disk_bytes=32 * MiB)) as child, pytest.raises(DiskLimitExceeded, match="32 MiB"):
        Trial(child).attempt(act, size=128 * MiB)
    assert is_gone(child.pid)


def test_what_the_file_system_must_keep_free_is_kept(start: Start) -> None:
    with start(limits=limits(free_disk_bytes=1 << 60)) as child, pytest.raises(DiskLimitExceeded) as stopped:
        Trial(child).attempt("spin", seconds=5)
    assert stopped.value.retryable


def test_many_files_are_noticed(start: Start) -> None:
    with start(limits=limits(files=500)) as child, pytest.raises(DiskLimitExceeded, match="500 files"):
        Trial(child).attempt("make_many_files", count=2000)


def test_deep_folders_are_noticed(start: Start) -> None:
    with start() as child, pytest.raises(DiskLimitExceeded, match="64 deep"):
        Trial(child).attempt("nest_folders", depth=200)


def test_the_same_work_is_done_within_the_limits(start: Start) -> None:
    """Otherwise the tests above would pass for a child that can do nothing."""
    with start() as child:
        trial = Trial(child)
        assert trial.expect("allocate_endlessly", stop_bytes=100 * MiB) >= 100 * MiB
        assert trial.expect("spin", seconds=0.2) == "span"
        assert trial.expect("start_threads", count=100) == 100
        assert trial.expect("fill_one_file", size=16 * MiB)
        assert trial.expect("reserve_one_file", size=16 * MiB)
        assert trial.expect("fill_many_files", size=32 * MiB)
        assert trial.expect("fill_deleted_files", size=32 * MiB)
        assert trial.expect("make_many_files", count=1000)
        assert trial.expect("nest_folders", depth=30)
        assert child.alive


def test_a_gigabyte_of_output_ends_in_a_small_log(start: Start, tmp_path: Path) -> None:
    with start(limits=limits(log_bytes=64 << 10)) as child:
        assert Trial(child).expect("print_much", size=1 << 30) == 1 << 30
    log = (tmp_path / "log").read_bytes()
    assert len(log) < 80 << 10
    assert log.startswith(b"first line\n")
    assert b"bytes left out" in log
    assert log.endswith(b"\nlast line\n")


def test_a_log_grows_over_several_children_up_to_its_limit(start: Start, tmp_path: Path) -> None:
    for _ in range(3):
        with start(limits=limits(log_bytes=4096)) as child:
            Trial(child).expect("print_much", size=3000)
            child.scratch.joinpath("step-1").rename(child.scratch / f"kept-{time.monotonic_ns()}")
    assert 4096 <= (tmp_path / "log").stat().st_size < 4096 + 2 * 4200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_that_cannot_be_written_costs_no_step(start: Start, tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    with start() as child:
        assert Trial(child).expect("print_much", size=3000) == 3000


def test_a_flood_of_progress_is_stopped(start: Start) -> None:
    seen: list[float] = []
    with (
        start(target="dishonest:flood", limits=limits(progress_bytes=1 * MiB)) as child,
        pytest.raises(ProgressLimitExceeded),
    ):
        child.run(step="x", folder="x", request={}, on_progress=lambda fraction, _: seen.append(fraction))
    assert is_gone(child.pid)
    assert len(seen) < 50  # and the job's row is not written for each line


def test_an_endless_line_is_stopped(start: Start) -> None:
    with start(target="dishonest:endless_line") as child, pytest.raises(ResultInvalid):
        child.run(step="x", folder="x", request={})
    assert is_gone(child.pid)
