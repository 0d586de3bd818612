"""Operators of two models, matched by the nodes that they come from."""

from tests.unit.report.conftest import operator
from workers.report.operators import side_by_side, time_by_type


def test_what_was_fused_stands_beside_its_parts() -> None:
    rows = side_by_side(
        [
            operator("conv", "Conv", 2.0, "conv"),
            operator("relu", "Relu", 0.5, "relu"),
            operator("add", "Add", 0.25, "add"),
        ],
        [operator("conv_quant", "QLinearConv", 1.0, "conv", "relu"), operator("add", "Add", 0.5, "add")],
    )

    assert [(row.original_ms, row.artifact_ms) for row in rows] == [(2.5, 1.0), (0.25, 0.5)]
    assert rows[0].op_types == ("Conv + Relu", "QLinearConv")
    assert rows[0].name == "conv"


def test_chains_of_shared_nodes_come_together() -> None:
    rows = side_by_side(
        [operator("ab", "Fused", 1.0, "a", "b"), operator("cd", "Fused", 2.0, "c", "d")],
        [operator("bc", "Fused", 4.0, "b", "c"), operator("e", "Other", 8.0, "e")],
    )

    assert [(row.name, row.original_ms, row.artifact_ms) for row in rows] == [("e", None, 8.0), ("bc", 3.0, 4.0)]


def test_what_only_one_has_stands_alone() -> None:
    rows = side_by_side([operator("x", "Relu", 1.0, "x")], [operator("q", "QuantizeLinear", 2.0)])

    assert [(row.op_type, row.original_ms, row.artifact_ms) for row in rows] == [
        ("QuantizeLinear", None, 2.0),
        ("Relu", 1.0, None),
    ]


def test_no_time_is_lost_or_counted_twice() -> None:
    before = [operator(f"n{number}", "Conv", 1.0, f"n{number}", f"n{number * 2}") for number in range(50)]
    after = [operator(f"m{number}", "QLinearConv", 2.0, f"n{number * 3}") for number in range(50)]

    times = time_by_type(side_by_side(before, after))

    assert sum(one for one, _ in times.values()) == 50
    assert sum(other for _, other in times.values()) == 100


def test_a_type_is_what_the_original_calls_it() -> None:
    times = time_by_type(side_by_side([operator("c", "Conv", 1.0, "c")], [operator("cq", "QLinearConv", 3.0, "c")]))

    assert times == {"Conv": (1.0, 3.0)}


def test_calls_and_shares_of_what_was_fused_add_up() -> None:
    (row,) = side_by_side(
        [
            operator("conv", "Conv", 2.0, "conv", share=0.5, calls=2.0),
            operator("relu", "Relu", 0.5, "relu", share=0.25, kernel="Relu(float32)"),
        ],
        [operator("q", "QLinearConv", 1.0, "conv", "relu", share=0.75, calls=2.0, output_bytes=1000)],
    )

    assert (row.calls, row.shares, row.output_bytes) == ((12.0, 2.0), (0.75, 0.75), 1000)
    assert row.kernels == ("Conv + Relu(float32)", "QLinearConv")
