"""What runs well where follows from features."""

import pytest

from app.domain.target import FEATURES, fp16_is_native, has_int8_dot, saturates_int8


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
