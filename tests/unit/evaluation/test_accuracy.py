"""From two models' outputs to measurements and the scores behind them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain.measurement import Measurement
from app.domain.metric import MetricChoice
from app.errors import StepError
from workers.evaluation import accuracy
from workers.evaluation.accuracy import (
    NON_FINITE,
    Accuracy,
    compared_output,
    judge_all,
    metrics_for,
)
from workers.evaluation.scores import read_scores, save_scores
from workers.evaluation.statistics.proportions import share_bounds
from workers.runtimes.session import Port

ROWS, CLASSES = 200, 10


def outputs(seed: int = 0, noise: float = 0.0) -> dict[str, NDArray[np.float32]]:
    logits = 3 * np.random.default_rng(0).standard_normal((ROWS, CLASSES))
    logits += noise * np.random.default_rng([1, seed]).standard_normal((ROWS, CLASSES))
    return {"logits": logits.astype(np.float32)}


LABELS = outputs()["logits"].argmax(axis=1)
ALL = ("top1", "agreement", "sqnr_db", "cosine", "kl")


def judge(
    metrics: Sequence[str], artifact: dict[str, Any], *, labels: NDArray[Any] | None = None, **more: Any
) -> Accuracy:
    """Judge one output, with labels under their usual name."""
    choices = [MetricChoice(name=name) for name in metrics]
    return judge_all(choices, artifact, labels={} if labels is None else {"labels": labels}, **more)


def by_name(found: Accuracy) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in found.measurements}


def test_the_original_alone_has_what_compares_with_nothing() -> None:
    found = judge(ALL, outputs(), output="logits", labels=LABELS)
    assert set(by_name(found)) == {"top1"}
    assert by_name(found)["top1"].value == 1.0


def test_every_metric_has_value_interval_rows_and_conditions() -> None:
    found = judge(
        ALL, outputs(noise=1.0), output="logits", original=outputs(), labels=LABELS, conditions={"source": "evaluation"}
    )
    measurements = by_name(found)
    assert tuple(measurements) == ALL
    for name, measurement in measurements.items():
        assert measurement.value is not None
        assert measurement.ci95 is not None
        assert measurement.ci95[0] < measurement.value < measurement.ci95[1], name
        assert measurement.count == ROWS
        assert measurement.conditions == {"source": "evaluation", "output": "logits", "rows": ROWS}
        assert len(found.scores[name]) == ROWS
    assert measurements["kl"].better == "lower"
    assert measurements["sqnr_db"].unit == "dB"


def test_a_share_has_wilsons_interval() -> None:
    measurement = by_name(judge(["top1"], outputs(noise=1.0), output="logits", labels=LABELS))["top1"]
    right = int((outputs(noise=1.0)["logits"].argmax(axis=1) == LABELS).sum())
    assert measurement.ci95 == pytest.approx(share_bounds(right, ROWS, 0.975))


def test_a_perfect_share_is_not_certain() -> None:
    """All 200 rows right leaves up to 1.9 % wrong; a bootstrap would claim an interval without width."""
    measurement = by_name(judge(["agreement"], outputs(), output="logits", original=outputs()))["agreement"]
    assert measurement.value == 1.0
    assert measurement.ci95 is not None
    assert measurement.ci95[0] == pytest.approx(1 - 1.96**2 / (200 + 1.96**2), abs=1e-4)
    assert measurement.ci95[1] == 1.0


def test_positions_of_a_row_are_not_counted_as_rows() -> None:
    """A row of 50 positions is one draw: Wilson on 20 · 50 positions would be far too narrow."""
    rng = np.random.default_rng(3)
    right = np.repeat(rng.random(20) < 0.7, 50).reshape(20, 50)  # whole rows are right or wrong
    values = np.stack([right, ~right], axis=-1).astype(np.float32)
    labels = np.zeros((20, 50), np.int64)
    labels[0, 0] = 1 - labels[0, 0]  # so that one row has a share of its own
    measurement = by_name(judge(["top1"], {"y": values}, output="y", labels=labels))["top1"]
    assert measurement.ci95 is not None
    assert measurement.ci95[1] - measurement.ci95[0] > 0.3


def test_rows_that_share_their_fraction_have_a_narrow_interval() -> None:
    """Every row has 70 of 100 positions right, or 71: that is known far better than 20 tosses of a coin."""
    labels = np.tile(np.arange(100) >= 70, (20, 1)).astype(np.int64)
    labels[::2, 70] = 0
    values = np.tile(np.array([1.0, 0.0], np.float32), (20, 100, 1))
    measurement = by_name(judge(["top1"], {"y": values}, output="y", labels=labels))["top1"]
    assert measurement.value == pytest.approx(0.705)
    assert measurement.ci95 is not None
    assert measurement.ci95[1] - measurement.ci95[0] < 0.01


def test_scores_do_not_depend_on_how_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = judge(ALL, outputs(noise=0.5), output="logits", original=outputs(), labels=LABELS)
    monkeypatch.setattr(accuracy, "_ELEMENTS", 7 * CLASSES)
    pieces = judge(ALL, outputs(noise=0.5), output="logits", original=outputs(), labels=LABELS)
    assert pieces.measurements == whole.measurements
    for name in ALL:
        assert np.array_equal(whole.scores[name].values, pieces.scores[name].values)


def test_without_labels_top1_is_absent_with_a_reason() -> None:
    measurement = by_name(judge(ALL, outputs(), output="logits", original=outputs()))["top1"]
    assert measurement.method == "absent"
    assert measurement.value is None
    assert measurement.reason == "the rows have no labels"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((5, 1), np.float32), "no class axis"),
        (np.zeros((5, 3), np.int64), "integers"),
        (np.zeros((0, 3), np.float32), "no rows"),
    ],
)
def test_agreement_without_classes_is_absent_with_a_reason(values: NDArray[np.float32], said: str) -> None:
    measurement = by_name(judge(["agreement"], {"y": values}, output="y", original={"y": values}))["agreement"]
    assert measurement.method == "absent"
    assert measurement.reason is not None
    assert said in measurement.reason


def test_a_model_without_a_float_output_has_every_metric_absent() -> None:
    found = judge(ALL, {}, output=None, original={}, labels=LABELS)
    assert [measurement.method for measurement in found.measurements] == ["absent"] * 5


def test_outputs_of_another_shape_are_not_compared() -> None:
    found = judge(["cosine"], {"y": np.ones((4, 3))}, output="y", original={"y": np.ones((4, 2))})
    reason = by_name(found)["cosine"].reason
    assert reason is not None
    assert "[4, 3]" in reason


def test_overflow_is_absent_flagged_and_counted() -> None:
    artifact = outputs()
    artifact["logits"][:3, 0] = np.inf
    measurements = by_name(judge(ALL, artifact, output="logits", original=outputs(), labels=LABELS))
    assert measurements["sqnr_db"].method == "absent"
    assert measurements["sqnr_db"].reason == "the output is not finite in 3 of 200 rows"
    assert NON_FINITE in measurements["sqnr_db"].flags
    assert measurements["agreement"].value is not None


def test_flags_travel_with_every_measurement() -> None:
    found = judge(["cosine"], outputs(noise=1), output="logits", original=outputs(), flags=["synthetic"])
    assert by_name(found)["cosine"].flags == ("synthetic",)


def test_scores_are_kept_and_read(tmp_path: Path) -> None:
    found = judge(ALL, outputs(noise=0.5), output="logits", original=outputs(), labels=LABELS)
    save_scores(tmp_path, found.scores)
    kept = read_scores(tmp_path)
    assert set(kept) == set(ALL)
    assert all(np.array_equal(kept[name].values, found.scores[name].values) for name in ALL)
    assert read_scores(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_that_are_no_whole_numbers_score_nothing(dtype: type) -> None:
    """A label of 0.5 is never the highest output: that would be a measured 0."""
    found = judge(ALL, outputs(), output="logits", original=outputs(), labels=np.full(ROWS, 0.5, dtype))
    measurement = by_name(found)["top1"]
    assert (measurement.method, measurement.value) == ("absent", None)
    assert measurement.reason is not None
    assert np.dtype(dtype).name in measurement.reason
    assert "top1" not in found.scores


def names(choices: Sequence[MetricChoice]) -> list[str]:
    return [choice.name for choice in choices]


def test_the_metrics_of_a_job() -> None:
    assert names(metrics_for((), has_labels=True)) == ["top1", "agreement", "sqnr_db", "cosine"]
    assert names(metrics_for((), has_labels=False)) == ["agreement", "sqnr_db", "cosine"]
    asked = [MetricChoice(name="kl")]
    assert names(metrics_for(asked, has_labels=True)) == ["top1", "agreement", "sqnr_db", "cosine", "kl"]
    with pytest.raises(StepError, match="no metric 'psnr'") as error:
        metrics_for([MetricChoice(name="psnr")], has_labels=True)
    assert error.value.code == "unknown_metric"


def test_what_is_asked_for_stands_for_what_is_always_computed() -> None:
    second, first = MetricChoice(name="cosine", output="b"), MetricChoice(name="cosine", output="a")
    found = metrics_for([second, MetricChoice(name="top1", output="b"), first], has_labels=True)
    assert names(found) == ["top1", "agreement", "sqnr_db", "cosine", "cosine"]
    assert [choice.output for choice in found] == ["b", None, None, "b", "a"]


def test_metrics_of_several_outputs_say_which_and_goals_use_the_first() -> None:
    exact, noisy = outputs()["logits"], outputs(noise=3.0)["logits"]
    original, artifact = {"a": exact, "b": exact}, {"a": noisy, "b": exact}
    choices = [
        MetricChoice(name="top1", output="b", labels="right"),
        MetricChoice(name="agreement", output="a"),
        MetricChoice(name="agreement", output="b"),
        MetricChoice(name="cosine"),
        MetricChoice(name="cosine", output="a"),
    ]
    found = judge_all(choices, artifact, output="a", original=original, labels={"right": LABELS})
    assert [(each.name, each.conditions["output"]) for each in found.measurements] == [
        ("top1", "b"), ("agreement", "a"), ("agreement", "b"), ("cosine", "a"),
    ]  # fmt: skip
    top1, first, second, _ = found.measurements
    assert (top1.value, second.value) == (1.0, 1.0)
    assert top1.conditions["labels"] == "right"
    assert first.value is not None
    assert first.value < 1
    assert found.scores["agreement"].values.mean() == first.value
    assert set(found.scores) == {"top1", "agreement", "cosine"}


def test_a_first_that_is_absent_lends_no_scores_to_the_second() -> None:
    single = np.zeros((ROWS, 1), np.float32)
    values = {"a": single, **outputs()}
    choices = [MetricChoice(name="agreement", output="a"), MetricChoice(name="agreement", output="logits")]
    found = judge_all(choices, values, output="logits", original=values)
    assert [measurement.method for measurement in found.measurements] == ["absent", "measured"]
    assert found.measurements[0].conditions["output"] == "a"
    assert found.scores == {}


def test_the_first_float_output_is_compared() -> None:
    ports = [Port("ids", "int64", (1,)), Port("logits", "float16", (1, 10)), Port("hidden", "float32", (1, 64))]
    assert compared_output(ports) == "logits"
    assert compared_output(ports[:1]) is None
