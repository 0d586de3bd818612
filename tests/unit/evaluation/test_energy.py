"""Energy counters, from an invented powercap folder."""

import time
from pathlib import Path

from workers.evaluation.energy import EnergyCounter

RANGE = 262_143_328_850


def package(folder: Path, name: str, microjoules: int) -> Path:
    home = folder / name
    home.mkdir(exist_ok=True)
    (home / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (home / "energy_uj").write_text(f"{microjoules}\n")
    return home


def test_joules_of_all_packages_are_added(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 1_000_000)
    package(tmp_path, "intel-rapl:1", 5_000_000)
    counter = EnergyCounter(tmp_path)
    assert counter.readable
    package(tmp_path, "intel-rapl:0", 3_500_000)
    package(tmp_path, "intel-rapl:1", 6_000_000)
    assert counter.since_last() == 3.5
    assert counter.since_last() == 0


def test_a_part_of_a_package_is_not_counted_twice(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 0)
    package(tmp_path, "intel-rapl:0:0", 0)
    counter = EnergyCounter(tmp_path)
    package(tmp_path, "intel-rapl:0", 2_000_000)
    package(tmp_path, "intel-rapl:0:0", 1_000_000)
    assert counter.since_last() == 2


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", RANGE - 1_000_000)
    counter = EnergyCounter(tmp_path)
    package(tmp_path, "intel-rapl:0", 500_000)
    assert counter.since_last() == 1.5


def test_a_machine_without_counters_has_nothing_to_read(tmp_path: Path) -> None:
    assert not EnergyCounter(tmp_path / "missing").readable
    (package(tmp_path, "intel-rapl:0", 0) / "energy_uj").unlink()
    assert not EnergyCounter(tmp_path).readable


def test_power_at_rest_is_what_was_used_meanwhile(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 0)
    counter = EnergyCounter(tmp_path)

    def rest(seconds: float) -> None:
        time.sleep(seconds)
        package(tmp_path, "intel-rapl:0", 3_000_000)

    begun = time.monotonic()
    watts = counter.watts(0.05, wait=rest)
    assert 3.0 / (time.monotonic() - begun) <= watts <= 3.0 / 0.05
