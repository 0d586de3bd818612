"""What is tried first, and what is not, by a machine and a model."""

import pytest

from app.domain.goal import Minimizable
from app.domain.recipe import TECHNIQUES
from workers.evaluation.operators import OperatorTime
from workers.evaluation.roofline import MachinePeaks, Potential, Roofline
from workers.search.prior import Known, openings

VNNI = frozenset({"avx2", "avx512f", "avx512_vnni", "f16c"})
HALVES = frozenset({"asimd", "asimdhp", "asimddp"})


def operator(op_type: str, share: float) -> OperatorTime:
    return OperatorTime(
        name=op_type,
        op_type=op_type,
        kernel=op_type,
        provider="CPUExecutionProvider",
        calls=1,
        ms=share,
        share=share,
        output_bytes=None,
        nodes=(op_type,),
    )


def roofline(int8: float | None, int4: float) -> Roofline:
    return Roofline(
        peaks=MachinePeaks(fp32_gflops=100, bandwidth_gbs=20),
        operators=(),
        flops=1,
        best_ms=1,
        int8=Potential(share=0.5, upper_bound=int8, same_efficiency=None),
        int4_weights=Potential(share=0.5, upper_bound=int4, same_efficiency=None),
        not_counted=(),
        weight_bytes=1,
    )


def known(
    *,
    features: frozenset[str] = VNNI,
    minimize: Minimizable = "latency",
    calibration: bool = True,
    convolutions: float = 0.5,
    products: float = 0.5,
    int8: float | None = 3.0,
    int4: float = 2.0,
) -> Known:
    return Known(
        features=features,
        minimize={minimize: 1.0},
        calibration=calibration,
        operators=[operator("Conv", convolutions), operator("MatMul", products)],
        roofline=roofline(int8, int4),
    )


def tried(given: Known) -> set[str]:
    return {opening.recipe.technique for opening in openings(given)[0]}


@pytest.mark.parametrize("minimize", ["latency", "size", "memory"])
@pytest.mark.parametrize("features", [VNNI, HALVES, frozenset({"avx2"}), frozenset[str]()])
@pytest.mark.parametrize("products", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("calibration", [True, False])
def test_each_technique_is_tried_or_skipped_with_a_reason(
    features: frozenset[str], minimize: Minimizable, products: float, calibration: bool
) -> None:
    found, skipped = openings(
        known(
            features=features,
            minimize=minimize,
            products=products,
            convolutions=1 - products,
            calibration=calibration,
        )
    )
    assert {each.recipe.technique for each in found} | {each.technique for each in skipped} == set(TECHNIQUES)
    assert not {each.recipe.technique for each in found} & {each.technique for each in skipped}
    assert all(each.reason for each in skipped)
    assert all(each.why for each in found)
    assert len({each.recipe for each in found}) == len(found)


def test_what_the_roofline_forbids_is_not_tried_for_time_but_for_bytes() -> None:
    assert tried(known(int8=1.02, int4=1.01)) == set()
    assert {"static_int8", "dynamic_int8", "weight_only"} <= tried(known(int8=1.02, int4=1.01, minimize="size"))
    assert "static_int8" in tried(known(int8=None))


def test_a_model_of_convolutions_is_spared_what_is_for_products() -> None:
    found = tried(known(convolutions=0.98, products=0.02))
    assert "static_int8" in found
    assert not {"dynamic_int8", "weight_only", "mixed"} & found


def test_without_calibration_rows_nothing_is_tried_that_needs_them() -> None:
    found, skipped = openings(known(calibration=False))
    assert not {"static_int8", "mixed"} & {each.recipe.technique for each in found}
    assert any("calibration" in each.reason for each in skipped if each.technique == "static_int8")
    assert all(getattr(each.recipe, "algorithm", "mse") == "mse" for each in found)


def test_halves_are_tried_where_the_processor_computes_in_them_or_bytes_count() -> None:
    assert "float16" not in tried(known())
    assert "float16" in tried(known(features=HALVES))
    assert {"float16", "bfloat16"} <= tried(known(minimize="size"))


def test_without_a_profile_time_speaks_against_nothing() -> None:
    found = tried(Known(features=VNNI, minimize={"latency": 1.0}, calibration=True))
    assert {"static_int8", "dynamic_int8", "weight_only"} <= found
