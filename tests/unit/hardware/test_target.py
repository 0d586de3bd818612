"""What runs well where follows from features."""

import pytest

from app.domain.profiles import PROFILES, providers_of
from app.domain.target import (
    CUDA_PROVIDER,
    FEATURES,
    PROCESSOR,
    Fingerprint,
    Tried,
    fp16_is_native,
    has_int8_dot,
    saturates_int8,
)
from workers.hardware.probe import probe


@pytest.mark.parametrize(
    ("features", "saturates", "dot", "fp16"),
    [
        ({"sse4_1", "avx", "avx2", "fma", "f16c"}, True, False, False),
        ({"avx2", "fma", "avx512f", "avx512bw"}, True, False, False),
        ({"avx2", "fma", "avx512f", "avx512_vnni"}, False, True, False),
        ({"avx2", "fma", "avx_vnni"}, False, True, False),
        # onnxruntime has no kernels in half precision on x86, whatever the processor could.
        ({"avx2", "avx512f", "avx512_vnni", "avx512_fp16", "amx_int8"}, False, True, False),
        ({"asimd"}, False, False, False),
        ({"asimd", "asimdhp", "asimddp", "i8mm"}, False, True, True),
        # Kernels for SSE alone widen to 16 bits before they multiply.
        ({"sse4_1"}, False, False, False),
        (set(), False, False, False),
    ],
)
def test_rules(features: set[str], saturates: bool, dot: bool, fp16: bool) -> None:
    assert saturates_int8(features) is saturates
    assert has_int8_dot(tuple(features)) is dot
    assert fp16_is_native(frozenset(features)) is fp16
    assert features <= FEATURES


def test_only_the_profile_of_gpus_runs_on_one() -> None:
    assert providers_of("cuda") == (CUDA_PROVIDER,)
    assert {providers_of(name) for name in (*PROFILES, "a name of one's own") if name != "cuda"} == {(PROCESSOR,)}


def test_what_ran_on_something_else_has_another_name() -> None:
    machine = probe()
    assert machine.running_on((PROCESSOR,)) == machine
    names = {machine.running_on(each).id for each in [(CUDA_PROVIDER,), (CUDA_PROVIDER, PROCESSOR), (PROCESSOR,)]}
    assert len(names) == 3
    found = machine.running_on((CUDA_PROVIDER,))
    assert Fingerprint.model_validate_json(found.model_dump_json()) == found
    assert found == machine.running_on((CUDA_PROVIDER,)), "the same each time"
    assert "runs_on" not in Tried.model_fields
