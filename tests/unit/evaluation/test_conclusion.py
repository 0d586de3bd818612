"""What the numbers say in words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.domain.goal import Constraint, Goal
from app.domain.measurement import Measurement, absent
from app.domain.metric import METRICS
from tests.unit.evaluation.conftest import five_children
from workers.evaluation.conclusion import conclude
from workers.evaluation.evidence import Evidence, Source, gather, timed
from workers.evaluation.gate import judge_goal
from workers.evaluation.scores import Scores
from workers.evaluation.words import amount, difference, plain

AVX2 = {"architecture": "x86_64", "features": ["avx2", "fma"]}
VNNI = {"architecture": "x86_64", "features": ["avx2", "avx512_vnni"]}
ARM = {"architecture": "aarch64", "features": ["asimddp"]}


def evidence(
    latency: float = 11.2,
    *,
    size: int = 294_000,
    lost: int = 3,
    source: Source = "evaluation",
    labels: bool = True,
    **changes: Any,
) -> Evidence:
    """An original of 10 ms and 1 MB that is right in 270 of 300 rows."""
    replicates = five_children(10, latency, **changes)
    original = np.repeat([1.0, 0.0], (270, 30))[:, np.newaxis]
    artifact = np.repeat([1.0, 0.0], (270 - lost, 30 + lost))[:, np.newaxis]

    def known(value: float) -> list[Measurement]:
        return [Measurement(name="artifact_bytes", value=value, unit="bytes", better="lower")]

    def share(name: str, value: float) -> Measurement:
        return Measurement(name=name, value=value, unit="fraction", better="higher", ci95=(0.97, 0.995))

    found, _ = gather(
        "cnd_a",
        source=source,
        original=[*known(1_000_000), *timed(replicates, "original")],
        artifact=[
            *known(size),
            share("agreement", 0.987),
            share("top1", float(artifact.mean())),
        ],
        scores={
            "original": {"top1": Scores(original)} if labels else {},
            "artifact": {"top1": Scores(artifact)} if labels else {},
        },
        latency=replicates,
    )
    return found


def words(
    found: Evidence,
    fingerprint: dict[str, Any] = AVX2,
    technique: str = "static_int8",
    asked: Sequence[str] = (),
    **goal: Any,
) -> str:
    wanted = Goal(**goal) if goal else None
    gate, verdicts = judge_goal(wanted, found)
    return conclude({"technique": technique}, found, gate=gate, verdicts=verdicts, fingerprint=fingerprint, asked=asked)


def measured(name: str, value: float | None, ci95: tuple[float, float] | None = None) -> Measurement:
    unit, better = METRICS[name].unit, METRICS[name].better
    if value is None:
        return absent(name, "the rows have no labels", unit=unit, better=better)
    return Measurement(name=name, value=value, unit=unit, better=better, ci95=ci95)


def knowing(
    found: Evidence,
    *values: Measurement,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> Evidence:
    """The same with more metrics of the artifact, and with the scores of some of them, a number a row."""

    def scores(of: Mapping[str, Any] | None) -> dict[str, Scores]:
        return {name: Scores(np.asarray(each, float)[:, np.newaxis]) for name, each in (of or {}).items()}

    return replace(
        found,
        artifact={**found.artifact, **{value.name: value for value in values}},
        original_scores={**found.original_scores, **scores(before)},
        artifact_scores={**found.artifact_scores, **scores(after)},
    )


def test_a_slower_and_smaller_artifact() -> None:
    said = words(evidence())
    assert said.startswith("static_int8 is 1.1")
    assert "× slower here (1.1" in said
    assert "3.4 × smaller" in said
    assert "1.0 points ± " in said
    assert "less accurate" in said
    assert "keep the original for latency, take static_int8 for size." in said
    assert said.endswith("This processor has no VNNI.")


def test_a_faster_artifact() -> None:
    said = words(evidence(5.0, lost=0))
    found = re.search(r"([\d.]+) × faster here \(([\d.]+) to ([\d.]+)\)", said)
    assert found is not None
    ratio, lower, upper = (float(number) for number in found.groups())
    assert 1.9 < lower <= ratio <= upper < 2.1
    assert "as accurate to within" in said
    assert "take static_int8 for latency and for size" in said


def test_an_artifact_as_fast_as_the_original() -> None:
    said = words(evidence(10.0))
    assert "within noise" in said
    assert "no gain in latency can be shown" in said
    assert "slower" not in said


def test_a_larger_artifact_has_nothing_to_gain() -> None:
    said = words(evidence(12.0, size=1_100_000))
    assert "1.1 × larger" in said
    assert "keep the original for latency." in said
    assert "for size" not in said


def test_without_labels_it_says_how_often_both_agree() -> None:
    said = words(evidence(labels=False))
    assert "on 98.7 % of rows (97.0 to 99.5 %)" in said
    assert "accurate" not in said


ERRORS = np.random.default_rng(4).uniform(0.5, 1.5, 300)


@pytest.mark.parametrize(
    ("factor", "said"),
    [(1.25, r"(0\.2\d+) ± (0\.0\d+) worse in mae;"), (0.75, r"(0\.2\d+) ± (0\.0\d+) better in mae;")],
)
def test_the_metric_asked_for_is_named_with_what_it_loses(factor: float, said: str) -> None:
    """Not top-1, which is known as well. The drop of a mean is the mean of the rows' own."""
    after = ERRORS * factor
    found = knowing(evidence(), measured("mae", float(after.mean())), before={"mae": ERRORS}, after={"mae": after})
    drop, reach = re.search(said, words(found, asked=["mae"])).groups()  # type: ignore[union-attr]
    assert float(drop) == pytest.approx(abs(after.mean() - ERRORS.mean()), abs=0.001)
    normal = 1.96 * np.std(after - ERRORS, ddof=1) / np.sqrt(len(ERRORS))
    assert float(reach) == pytest.approx(normal, rel=0.1)
    assert "accurate" not in words(found, asked=["mae"])
    assert "mae" not in words(found), "unasked it is top-1"


def test_a_share_drops_by_points() -> None:
    right = np.repeat([1.0, 0.0], (270, 30))
    wrong = np.repeat([1.0, 0.0], (261, 39))
    value = measured("exact_match", 0.87)
    lost = knowing(evidence(), value, before={"exact_match": right}, after={"exact_match": wrong})
    assert re.search(r"smaller, 3\.0 points ± \d\.\d worse in exact_match;", words(lost, asked=["exact_match"]))
    same = knowing(evidence(), value, before={"exact_match": right}, after={"exact_match": right})
    assert re.search(r"as good in exact_match to within \d\.\d points;", words(same, asked=["exact_match"]))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("kl", 0.0123, "with kl 0.0123 nats (0.0100 nats to 0.0200 nats) between it and the original;"),
        ("cosine", 0.9991, "with cosine 0.999 (0.0100 to 0.0200) between it and the original;"),
        ("sqnr_db", 31.4, "31.4 dB above its quantization noise;"),
        ("agreement", 0.95, "in agreement with the original on 95.0 % of rows (1.0 to 2.0 %);"),
        ("top1", 0.89, "1.0 points ± "),
    ],
)
def test_fidelity_is_said_where_it_is_what_was_asked_for(name: str, value: float, said: str) -> None:
    found = knowing(evidence(), measured(name, value, (0.01, 0.02)))
    assert said in words(found, asked=[name])
    assert ("accurate" in words(found, asked=[name])) == (name == "top1")


def test_the_first_asked_for_that_has_a_value_is_said() -> None:
    found = knowing(evidence(), measured("kl", 0.01), measured("cosine", 0.9), measured("f1", None))
    assert "with cosine" in words(found, asked=["f1", "auc", "cosine", "kl"])
    assert "with kl" in words(found, asked=["f1", "auc", "kl", "cosine"])
    assert "less accurate" in words(found, asked=["f1", "auc"])


def test_without_a_pair_of_rows_both_values_are_said() -> None:
    found = knowing(evidence(), measured("mae", 1.5), before={"mae": ERRORS[:200]}, after={"mae": ERRORS})
    assert "with mae 1.50;" in words(found, asked=["mae"])
    found = replace(found, original={**found.original, "mae": measured("mae", 1.25)})
    assert "with mae 1.50 instead of 1.25;" in words(found, asked=["mae"])


@pytest.mark.parametrize(("fingerprint", "lacks"), [(AVX2, True), (VNNI, False), (ARM, False), ({}, False)])
def test_vnni_is_missed_where_it_could_be(fingerprint: dict[str, Any], lacks: bool) -> None:
    assert ("no VNNI" in words(evidence(), fingerprint)) == lacks
    assert "VNNI" not in words(evidence(), fingerprint, technique="float16")


def test_a_disturbed_machine_is_told() -> None:
    replicates = evidence(again=11)
    assert "The times are doubtful: the original differed from a second session of itself." in words(replicates)
    assert "doubtful" not in words(evidence())


@pytest.mark.parametrize(
    ("source", "said"), [("calibration", "Nothing was held out"), ("synthetic", "There were no data")]
)
def test_what_was_not_held_out_is_told(source: Source, said: str) -> None:
    assert words(evidence(source=source)).count(said) == 1
    assert said not in words(evidence())


def test_what_the_verdict_already_says_is_not_said_twice() -> None:
    said = words(evidence(source="calibration"), constraints=(Constraint(metric="top1", max_drop=0.01),))
    assert said.lower().count("nothing was held out") == 1


@pytest.mark.parametrize(
    ("limit", "said"),
    [(0.1, "The goal is met."), (0.01, "is undecided: top1 is worse"), (0.0001, "The goal is missed: top1 is worse")],
)
def test_the_verdict_is_told_with_its_reason(limit: float, said: str) -> None:
    constraint = Constraint(metric="top1", max_drop=limit)
    text = words(evidence(lost=3 if limit > 0.001 else 20), constraints=(constraint,))
    assert said in text
    assert ("top1 is worse by" in text) == (limit < 0.1)
    assert ("keep the original, or ask for less" in text) == (limit == 0.0001)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.987, "fraction", "98.7 %"),
        (0.99995, "fraction", "99.995 %"),
        (1.0, "fraction", "100.0 %"),
        (32.41, "dB", "32.4 dB"),
        (1_234_567, "bytes", "1.23 MB"),
        (999, "bytes", "999 bytes"),
        (0.0123, "1", "0.0123"),
        (12.0, "ms", "12.0 ms"),
    ],
)
def test_amounts_read_as_people_write_them(value: float, unit: str, said: str) -> None:
    assert amount(value, unit) == said


def test_differences_of_shares_are_points() -> None:
    assert difference(0.003, "fraction") == "0.3 points"
    assert difference(-0.0004, "fraction") == "-0.04 points"
    assert difference(0, "fraction") == "0.0 points"
    assert plain(0) == "0"
    assert plain(float("inf")) == "inf"
