"""What each technique is worth: from features alone, and from what jobs measured."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.profiles import PROFILES, refuse_false_name
from app.domain.recipe import TECHNIQUES, WeightOnly
from app.domain.suitability import Timing, evidence_of, suitability
from app.domain.target import CUDA, FEATURES
from app.errors import BitpressError
from workers.quantization.weight_only.choices import resolve

NATIVE, EMULATED, SATURATES, UNSUPPORTED = "native", "emulated", "saturates", "unsupported"
SLOWER = "slower than fp32 (measured)"
EVERY = ("dynamic_int8", "static_int8", "static_int16", "weight_only", "float16", "bfloat16")


def verdicts(features: set[str]) -> dict[str, str]:
    return {found.technique: found.verdict for found in suitability(features)}


@pytest.mark.parametrize(
    ("features", "int8", "weight_only", "float16"),
    [
        ({"sse4_1", "avx", "avx2", "fma", "f16c"}, SATURATES, NATIVE, EMULATED),
        ({"avx2", "avx512f", "avx512bw"}, SATURATES, NATIVE, EMULATED),
        ({"avx2", "avx512f", "avx512_vnni"}, NATIVE, NATIVE, EMULATED),
        ({"avx2", "avx_vnni"}, NATIVE, NATIVE, EMULATED),
        ({"avx2", "avx512f", "avx512_vnni", "amx_int8", "avx512_fp16"}, NATIVE, NATIVE, EMULATED),
        ({"sse4_1"}, EMULATED, EMULATED, EMULATED),
        ({"asimd"}, EMULATED, EMULATED, EMULATED),
        ({"asimd", "asimdhp"}, EMULATED, EMULATED, NATIVE),
        ({"asimd", "asimddp"}, NATIVE, NATIVE, EMULATED),
        ({"asimd", "asimdhp", "asimddp", "i8mm", "bf16"}, NATIVE, NATIVE, NATIVE),
        (set(), EMULATED, EMULATED, EMULATED),
        # Artifacts run on the processor of a machine that has both.
        ({"avx2", CUDA}, SATURATES, NATIVE, EMULATED),
    ],
)
def test_processors(features: set[str], int8: str, weight_only: str, float16: str) -> None:
    found = verdicts(features)
    assert found["dynamic_int8"] == found["static_int8"] == int8
    assert (found["weight_only"], found["float16"]) == (weight_only, float16)
    assert found["static_int16"] == found["bfloat16"] == EMULATED


def test_cuda() -> None:
    assert verdicts({CUDA}) == {
        "dynamic_int8": UNSUPPORTED,
        "static_int8": EMULATED,
        "static_int16": EMULATED,
        "weight_only": NATIVE,
        "float16": NATIVE,
        "bfloat16": EMULATED,
        "mixed": NATIVE,
    }


@given(st.sets(st.sampled_from(sorted(FEATURES | {CUDA}))))
def test_every_technique_is_judged_on_every_machine_with_a_reason(features: set[str]) -> None:
    found = suitability(features)
    assert [each.technique for each in found] == list(TECHNIQUES)
    for each in found:
        assert each.verdict in (NATIVE, EMULATED, SATURATES, UNSUPPORTED)
        assert each.reason.endswith(".")
        assert len(each.reason) > 30
        assert each.measured is None
        # A feature that a reason names is one that is there.
        named = {word.strip("():,.") for word in each.reason.split()} & FEATURES
        assert named <= features
    parts = {each.verdict for each in found[:-1]}
    assert found[-1].verdict == next(verdict for verdict in (NATIVE, SATURATES, EMULATED) if verdict in parts)


def test_weights_of_few_bits_are_judged_as_the_technique_chooses_their_arithmetic() -> None:
    for feature in FEATURES:
        level = resolve(WeightOnly(), {feature}).accuracy_level
        assert (verdicts({feature})["weight_only"] == NATIVE) == (level == 4), feature


# Built-in profiles


def test_profiles_are_data_that_rules_read() -> None:
    for name, profile in PROFILES.items():
        assert profile.id == name
        assert set(profile.features) <= FEATURES | {CUDA}
        assert len(set(profile.features)) == len(profile.features)
        assert set(profile.without) <= FEATURES
        assert not set(profile.without) & set(profile.features)
        refuse_false_name(name, profile.features)
    assert {found.verdict for found in suitability(PROFILES["x86-avx2"].features)} == {SATURATES, NATIVE, EMULATED}


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_name_is_refused_to_whoever_lacks_one_feature(name: str) -> None:
    profile = PROFILES[name]
    for feature in profile.features:
        with pytest.raises(BitpressError, match=rf"lacks {feature}\b") as refused:
            refuse_false_name(name, set(profile.features) - {feature})
        assert refused.value.code == "profile_not_met"
    for feature in profile.without:
        with pytest.raises(BitpressError, match=rf"has {feature}\b"):
            refuse_false_name(name, {*profile.features, feature})


def test_profiles_exclude_each_other_where_results_would_differ() -> None:
    """A machine with VNNI is no AVX2 machine: what saturates there does not saturate on it."""
    for name in ("x86-avx2", "x86-avx512"):
        for other in ("x86-avx512-vnni", "x86-amx"):
            with pytest.raises(BitpressError):
                refuse_false_name(name, PROFILES[other].features)


def test_any_other_name_promises_nothing() -> None:
    refuse_false_name("kiosk", ())


# What jobs measured


def timing(ratio: float, half: float = 0.01, *, job: str = "a", model: str = "m", technique: str = "float16") -> Timing:
    return Timing(technique, job, model, ratio, (ratio - half, ratio + half))


def judged(*timings: Timing, features: frozenset[str] = frozenset({"asimdhp"})) -> str:
    return next(each.verdict for each in suitability(features, timings) if each.technique == "float16")


@pytest.mark.parametrize(
    ("timings", "slower"),
    [
        ([timing(1.2)], True),
        ([timing(1.2, 0.3)], False),  # within noise
        ([timing(0.8)], False),
        ([timing(1.2, model="a"), timing(0.8, model="b")], False),  # as many one way as the other
        ([timing(1.2, model="a"), timing(1.3, model="b"), timing(0.5, model="c")], True),
        ([timing(1.2, model="a"), timing(1.3, model="b"), timing(0.5, model="c"), timing(0.5, model="d")], False),
        # One model a hundred times is one model.
        ([*(timing(1.5, job=str(n)) for n in range(100)), timing(0.5, model="b"), timing(0.6, model="c")], False),
        # A model that once was slower and once was not is undecided.
        ([timing(1.2, job="a"), timing(0.9, job="b")], False),
        ([Timing("float16", "a", "m", 5.0, None)], False),  # one child has no interval
        ([timing(3.0, technique="dynamic_int8")], False),  # of another technique
    ],
)
def test_slower_is_said_where_it_was_measured(timings: list[Timing], slower: bool) -> None:
    assert judged(*timings) == (SLOWER if slower else NATIVE)


def test_what_no_kernel_runs_stays_unsupported() -> None:
    found = suitability({CUDA}, [timing(2.0, technique="dynamic_int8")])[0]
    assert (found.technique, found.verdict) == ("dynamic_int8", UNSUPPORTED)


def test_the_reason_says_what_it_rests_on() -> None:
    timings = [
        timing(1.2, job="a"),
        timing(1.4, job="b"),
        timing(1.6, job="b", model="n"),
        timing(1.0, job="c", model="o"),
    ]
    found = next(each for each in suitability({"avx2"}, timings) if each.technique == "float16")
    assert found.verdict == SLOWER
    assert "3 jobs on 3 models measured 1.30 times the latency of fp32" in found.reason
    assert "slower for 2, faster for 0, undecided for 1" in found.reason
    assert "no kernels in half precision" in found.reason, "why it is so is said too"
    assert found.measured is not None
    assert (found.measured.jobs, found.measured.models) == (3, 3)


def test_evidence_against_a_plain_reference() -> None:
    rng = random.Random(1)
    for _ in range(200):
        timings = [
            timing(rng.uniform(0.5, 1.5), rng.uniform(0, 0.3), job=rng.choice("abcd"), model=rng.choice("xyz"))
            for _ in range(rng.randrange(1, 9))
        ]
        found = evidence_of(timings)
        assert found is not None
        of_model = {model: [each for each in timings if each.model == model] for model in "xyz"}
        of_model = {model: each for model, each in of_model.items() if each}
        medians = sorted(statistics.median([each.ratio for each in some]) for some in of_model.values())
        assert found.latency_ratio == pytest.approx(statistics.median(medians), abs=1e-4)
        assert found.jobs == len({each.job for each in timings})
        assert found.models == len(of_model)
        assert found.slower == sum(min(each.ci95[0] for each in some if each.ci95) > 1 for some in of_model.values())
        assert found.faster == sum(max(each.ci95[1] for each in some if each.ci95) < 1 for some in of_model.values())
    assert evidence_of([]) is None
