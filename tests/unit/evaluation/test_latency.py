"""From children's samples to measurements."""

import statistics

import numpy as np
import pytest

from app.domain.measurement import UNITS, Measurement
from tests.unit.evaluation.conftest import five_children, latency_replicate, memory
from workers.evaluation.comparison import compare_latency
from workers.evaluation.evidence import gather
from workers.evaluation.latency import latencies, samples_of


def by_name(measurements: list[Measurement]) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in measurements}


def test_the_value_is_the_median_over_children_of_each_childs_own() -> None:
    replicates = five_children()
    found = by_name(latencies(replicates, "artifact", target="abc"))
    for name, share in (("latency_p50", 0.5), ("latency_p90", 0.9), ("latency_p99", 0.99)):
        per_child = [
            float(np.quantile(samples_of(replicate, "artifact"), share, method="median_unbiased"))
            for replicate in replicates
        ]
        assert found[name].value == statistics.median(per_child)
        interval = found[name].ci95
        assert interval is not None
        assert interval[0] <= min(per_child)
        assert interval[1] >= max(per_child)
        assert found[name].count == 5 * 200
    means = [statistics.fmean(samples_of(replicate, "artifact")) for replicate in replicates]
    assert found["latency_mean"].value == pytest.approx(statistics.median(means))
    assert found["throughput"].value == pytest.approx(1000 / statistics.median(means))
    assert found["load_time"].value == 15


def test_units_directions_and_conditions_are_stated() -> None:
    for measurement in latencies(five_children(), "original", target="abc"):
        assert (measurement.unit, measurement.better) == UNITS[measurement.name]
        if measurement.method == "measured":
            assert measurement.conditions["threads"] == 1
            assert measurement.conditions["children"] == 5
            assert measurement.conditions["runtime"] == "onnxruntime"
            assert measurement.conditions["target"] == "abc"


def test_what_ran_the_model_and_on_which_shapes_is_stated() -> None:
    said = {"runtime": "onnxruntime", "version": "1.32.0", "providers": ["CPUExecutionProvider"]}
    children = five_children(
        conditions={"original": said, "artifact": said}, shapes={"x": (1, 4, 256)}, case="step", threads=2, batch=1
    )
    place = {**said, "threads": 2, "batch": 1, "shapes": {"x": (1, 4, 256)}, "case": "step"}
    for measurement in latencies(children, "artifact", target="abc"):
        assert measurement.conditions.items() >= place.items(), measurement.name
    assert compare_latency(children).conditions == place
    children = [child.model_copy(update={"memory": memory("original", 100)}) for child in children]
    children += [child.model_copy(update={"memory": memory("artifact", 50)}) for child in children]
    evidence, _ = gather(
        "cnd_a",
        source="synthetic",
        original=[],
        artifact=[],
        scores={"original": {}, "artifact": {}},
        latency=children,
    )
    compared = {found.name: found.conditions for found in evidence.comparisons}
    assert compared == dict.fromkeys(("latency_p50", "load_time", "peak_memory"), place)


def test_throughput_counts_rows_not_calls() -> None:
    single = by_name(latencies(five_children(), "original"))["throughput"].value
    batched = by_name(latencies([child.model_copy(update={"batch": 8}) for child in five_children()], "original"))
    assert single is not None
    assert batched["throughput"].value == pytest.approx(8 * single)


def test_the_original_counts_where_it_took_turns_with_the_candidate() -> None:
    replicate = latency_replicate(10, 8)
    drifted = replicate.model_copy(update={"same": latency_replicate(30, 8).same})
    assert samples_of(drifted, "original") == samples_of(replicate, "original")
    assert len(samples_of(drifted, "original")) == 200
    assert statistics.median(samples_of(drifted, "original")) == pytest.approx(10, rel=0.02)


def test_a_p99_of_few_samples_is_pooled_without_an_interval() -> None:
    found = by_name(latencies(five_children(rounds=2), "original"))
    assert found["latency_p90"].ci95 is not None
    assert found["latency_p99"].ci95 is None
    assert found["latency_p99"].count == 200
    assert found["latency_p99"].conditions["pooled"] is True


def test_a_p99_of_too_few_samples_is_absent_with_a_reason() -> None:
    found = by_name(latencies(five_children(rounds=1, calls=10), "original"))
    assert found["latency_p99"].method == "absent"
    assert found["latency_p99"].reason is not None
    assert "50 samples" in found["latency_p99"].reason
    assert found["latency_p50"].value is not None


def test_children_of_two_modes_are_flagged_and_both_inside() -> None:
    replicates = [latency_replicate(value, 8, replicate=index) for index, value in enumerate((8, 16, 8, 8, 8), 1)]
    found = by_name(latencies(replicates, "original"))["latency_p50"]
    assert "unstable" in found.flags
    assert found.ci95 is not None
    assert found.ci95[0] < 8.2
    assert found.ci95[1] > 15.5
    assert "unstable" not in by_name(latencies(replicates, "artifact"))["latency_p50"].flags


def test_one_child_gives_a_value_without_an_interval() -> None:
    found = by_name(latencies([latency_replicate()], "original"))["latency_p50"]
    assert found.value is not None
    assert found.ci95 is None


def test_energy_is_absent_unless_counted() -> None:
    absent = by_name(latencies(five_children(), "original"))["energy_per_inference"]
    assert absent.method == "absent"
    assert absent.reason is not None
    assert "RAPL" in absent.reason
    joules = {"original": 0.5, "artifact": 0.25}
    counted = [child.model_copy(update={"energy_joules": joules, "batch": 2}) for child in five_children()]
    found = by_name(latencies(counted, "artifact"))["energy_per_inference"]
    assert found.value == 0.125
    assert "idle" in found.conditions["counter"]


def test_each_model_s_memory_is_that_of_the_children_in_which_it_was_alone() -> None:
    peaks = [100, 50, 104, 52, 102]
    children = [
        child.model_copy(update={"memory": memory("original" if number % 2 == 0 else "artifact", peak)})
        for number, (child, peak) in enumerate(zip(five_children(), peaks, strict=True))
    ]
    found = by_name(latencies(children, "original"))
    assert found["peak_memory"].value == 102
    assert found["peak_memory"].count == 3
    assert found["steady_memory"].value == 92
    assert found["steady_memory"].conditions["loaded_bytes"] == 52
    assert found["steady_memory"].conditions["added_by_calls"] == 40
    assert by_name(latencies(children, "artifact"))["peak_memory"].value == 51


def test_memory_that_nobody_tells_is_absent_with_the_reason() -> None:
    untold = by_name(latencies(five_children(), "original"))["peak_memory"]
    assert (untold.method, untold.reason) == ("absent", "this platform does not tell a process's memory")
    once = [latency_replicate(memory=memory("original", 100))]
    assert by_name(latencies(once, "original"))["peak_memory"].ci95 is None
    alone_in_none = by_name(latencies(once, "artifact"))["peak_memory"]
    assert alone_in_none.reason is not None
    assert "two" in alone_in_none.reason
