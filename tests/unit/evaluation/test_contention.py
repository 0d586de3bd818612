"""What else the machine did, from invented counters."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluation.conftest import QUIET
from workers.evaluation.contention import Witness
from workers.hardware.processor_times import read_processor_times

HERTZ = os.sysconf("SC_CLK_TCK")


def stat(path: Path, *, busy: float = 0, stolen: float = 0) -> Path:
    path.write_text(f"cpu  {int(busy * HERTZ)} 0 0 12345 6 0 0 {int(stolen * HERTZ)} 0 0\ncpu0 1 2 3\n")
    return path


def test_processor_times_are_read_in_seconds(tmp_path: Path) -> None:
    assert read_processor_times(stat(tmp_path / "stat", busy=12, stolen=3)) == (12, 3)


@pytest.mark.parametrize("content", ["", "intr 1 2 3", "cpu 1 2 3", "cpu  a b c d e f g h"])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "stat").write_text(content)
    assert read_processor_times(tmp_path / "stat") == (None, None)
    assert read_processor_times(tmp_path / "missing") == (None, None)


def test_a_witness_tells_own_work_from_that_of_others(tmp_path: Path) -> None:
    path = stat(tmp_path / "stat", busy=100)
    witness = Witness(1, stat=path)
    stat(path, busy=100 + 50, stolen=8)
    context = witness.context()
    assert context.neighbour_cpus is not None
    assert context.steal_share is not None
    assert context.neighbour_cpus > 2  # fifty seconds of work by others, and none of ours, in no time
    assert context.steal_share > 0
    assert len(context.disturbances()) >= 2


def test_without_counters_nothing_is_claimed(tmp_path: Path) -> None:
    context = Witness(1, stat=tmp_path / "missing").context()
    assert context.neighbour_cpus is None
    assert context.steal_share is None
    assert context.clock_drift is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"steal_share": None, "neighbour_cpus": None, "clock_drift": None}, None),
        ({"steal_share": 0.019}, None),
        ({"steal_share": 0.05}, "hypervisor"),
        ({"neighbour_cpus": 0.24}, None),
        ({"neighbour_cpus": 0.3}, "0.3 of 2 processors"),
        ({"neighbour_cpus": 0.15, "threads": 2}, "other processes"),
        ({"neighbour_cpus": 1.0, "cpus": 64}, None),
        ({"clock_drift": 0.04}, None),
        ({"clock_drift": 0.2}, "speed changed by 20%"),
    ],
)
def test_what_counts_as_a_disturbance(changes: dict[str, Any], said: str | None) -> None:
    found = QUIET.model_copy(update=changes).disturbances()
    assert (found == []) if said is None else (said in found[0])
