"""Operations of nodes, against PyTorch's own counter, published figures, and formulas by hand."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, helper

from workers.evaluation.operation_counts import count

Shape = tuple[int, ...]


def flops(
    op_type: str, *shapes: Shape, made: Shape, domain: str = "", more: tuple[Shape, ...] = (), **how: Any
) -> float:
    """Operations of a node with inputs and outputs of these shapes."""
    given = {f"in{place}": shape for place, shape in enumerate(shapes)}
    outputs = {f"out{place}": shape for place, shape in enumerate((made, *more))}
    node = helper.make_node(op_type, list(given), list(outputs), domain=domain, **how)
    found = count(node, given | outputs)
    assert found.kind != "unknown"
    return found.flops


CONVOLUTIONS: list[tuple[Shape, Shape, dict[str, Any]]] = [
    ((2, 3, 17, 19), (8, 3, 3, 3), {}),
    ((1, 8, 16, 16), (8, 1, 5, 5), {"groups": 8, "padding": 2, "stride": 2}),
    ((3, 8, 9, 9), (12, 2, 3, 3), {"groups": 4, "dilation": 2, "padding": 1}),
    ((2, 6, 30), (4, 6, 7), {"stride": 3}),
    ((1, 2, 5, 6, 7), (4, 2, 3, 3, 3), {"padding": 1}),
]


@pytest.mark.parametrize(("given", "kernel", "how"), CONVOLUTIONS)
def test_convolutions_as_pytorch_counts_them(given: Shape, kernel: Shape, how: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (extra `train`)")
    function = getattr(torch.nn.functional, f"conv{len(given) - 2}d")

    expected, made = counted(lambda a, b: function(a, b, **how), given, kernel)

    assert flops("Conv", given, kernel, made=made, group=how.get("groups", 1)) == expected


@pytest.mark.parametrize(
    ("given", "kernel", "how"),
    [((2, 6, 7, 9), (6, 5, 3, 3), {"stride": 2}), ((1, 8, 5, 5), (8, 3, 2, 4), {"groups": 4, "padding": 1})],
)
def test_transposed_convolutions_as_pytorch_counts_them(given: Shape, kernel: Shape, how: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (extra `train`)")

    expected, made = counted(lambda a, b: torch.nn.functional.conv_transpose2d(a, b, **how), given, kernel)

    assert flops("ConvTranspose", given, kernel, made=made, group=how.get("groups", 1)) == expected


@pytest.mark.parametrize(
    ("first", "second"), [((5, 7), (7, 3)), ((4, 5, 7), (4, 7, 3)), ((2, 3, 5, 7), (7, 11)), ((1, 64), (64, 1000))]
)
def test_products_of_matrices_as_pytorch_counts_them(first: Shape, second: Shape) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (extra `train`)")

    expected, made = counted(torch.matmul, first, second)

    assert flops("MatMul", first, second, made=made) == expected


def test_attention_as_pytorch_counts_it() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (extra `train`)")
    batch, heads, queries, keys, width = 2, 4, 6, 9, 8
    shapes = [(batch, heads, length, width) for length in (queries, keys, keys)]

    expected, made = counted(torch.nn.functional.scaled_dot_product_attention, *shapes)

    assert flops("Attention", *shapes, made=made) == expected
    flat = [(batch, length, heads * width) for length in (queries, keys, keys)]
    result = (batch, queries, heads * width)
    assert flops("MultiHeadAttention", *flat, made=result, domain="com.microsoft", num_heads=heads) == expected


def counted(function: Callable[..., Any], *shapes: Shape) -> tuple[int, Shape]:
    """PyTorch's count of one function on tensors of these shapes, and the shape of the result."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        made = function(*(torch.empty(shape, device="meta") for shape in shapes))
    return counter.get_total_flops(), tuple(made.shape)


def _convolution(inputs: int, outputs: int, kernel: int, side: int, groups: int = 1) -> float:
    return flops(
        "Conv",
        (1, inputs, side, side),
        (outputs, inputs // groups, kernel, kernel),
        made=(1, outputs, side, side),
        group=groups,
    )


def test_resnet_50_has_its_published_multiply_adds() -> None:
    """4.09 G at 224² (torchvision's table of models, ResNet50_Weights)."""
    total, inputs = _convolution(3, 64, 7, 112), 64
    for width, blocks, side in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        for block in range(blocks):
            # The stride is in the 3x3 convolution: the first one still sees the larger image.
            before = side * 2 if block == 0 and width > 64 else side
            total += _convolution(inputs, width, 1, before)
            total += _convolution(width, width, 3, side) + _convolution(width, 4 * width, 1, side)
            total += _convolution(inputs, 4 * width, 1, side) if block == 0 else 0
            inputs = 4 * width
    total += flops("Gemm", (1, 2048), (1000, 2048), made=(1, 1000), transB=1)

    assert round(total / 2e9, 2) == 4.09


def _inverted_residuals(stages: list[tuple[int, int, int, int, int]], inputs: int, side: int) -> tuple[float, int, int]:
    """Expansion, depthwise convolution and projection: (repeats, kernel, stride, expansion, outputs) a stage."""
    total = 0.0
    for repeats, kernel, stride, expansion, outputs in stages:
        for block in range(repeats):
            wide = inputs * expansion
            total += _convolution(inputs, wide, 1, side) if expansion > 1 else 0
            side //= stride if block == 0 else 1
            total += _convolution(wide, wide, kernel, side, groups=wide) + _convolution(wide, outputs, 1, side)
            inputs = outputs
    return total, inputs, side


def test_mobilenet_v2_has_its_published_multiply_adds() -> None:
    """300 M at 224² (Sandler et al., "MobileNetV2", CVPR 2018, table 4)."""
    stages = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (3, 3, 2, 6, 32), (4, 3, 2, 6, 64), (3, 3, 1, 6, 96),
              (3, 3, 2, 6, 160), (1, 3, 1, 6, 320)]  # fmt: skip
    total, inputs, side = _inverted_residuals(stages, 32, 112)
    total += _convolution(3, 32, 3, 112) + _convolution(inputs, 1280, 1, side)
    total += flops("Gemm", (1, 1280), (1280, 1000), made=(1, 1000))

    assert round(total / 2e6) == pytest.approx(300, abs=1.5)


def test_efficientnet_lite0_has_the_published_multiply_adds_but_for_what_is_no_product() -> None:
    """407 M at 224² (tensorflow/tpu, efficientnet/lite/README.md), where batch norms, ReLU6 and pooling count too:
    5 operations, or 2.5 multiply-adds, for most of 6.7 M activations. PyTorch's counter finds 385.19 M."""
    stages = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
              (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]  # fmt: skip
    total, inputs, side = _inverted_residuals(stages, 32, 112)
    total += _convolution(3, 32, 3, 112) + _convolution(inputs, 1280, 1, side)
    total += flops("Gemm", (1, 1280), (1280, 1000), made=(1, 1000))

    assert total / 2e6 == pytest.approx(385.19, abs=0.01)
    assert total / 2e6 == pytest.approx(407, rel=0.06)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (2 * 5 * 3 * 7 + 15, flops("Gemm", (7, 5), (7, 3), (3,), made=(5, 3), transA=1)),
        (2 * 5 * 3 * 7, flops("FusedMatMul", (2, 7, 5), (2, 7, 3), made=(2, 5, 3), transA=1) / 2),
        (2 * 6 * 32 * 64, flops("MatMulNBits", (2, 3, 32), (64, 1, 16), (64,), made=(2, 3, 64), K=32, N=64, bits=4)),
        (2 * 4 * 8 * 16, flops("MatMulInteger", (4, 8), (8, 16), (), (), made=(4, 16))),
        (2 * 4 * 8 * 16, flops("QLinearMatMul", (4, 8), (), (), (8, 16), (), (), (), (), made=(4, 16))),
        (2 * 9 * 4 * 27 + 36, flops("QLinearConv", (1, 3, 5, 5), (), (), (4, 3, 3, 3), (), (), (), (), (4,),
                                    made=(1, 4, 3, 3))),
        (2 * 9 * 4 * 27, flops("ConvInteger", (1, 3, 5, 5), (4, 3, 3, 3), (), made=(1, 4, 3, 3))),
        (2 * 5 * 2 * 4 * 3 * (6 + 3), flops("LSTM", (5, 2, 6), (1, 12, 6), (1, 12, 3), made=(5, 1, 2, 3),
                                            hidden_size=3)),
        (2 * (2 * 5 * 2 * 3 * 3 * (6 + 3)), flops("GRU", (5, 2, 6), (2, 9, 6), (2, 9, 3), made=(5, 2, 2, 3),
                                                  hidden_size=3, direction="bidirectional")),
        (2 * 2 * 3 * 5 * 7, flops("Einsum", (2, 3, 5), (2, 5, 7), made=(2, 3, 7), equation="bij,bjk->bik")),
        (60, flops("Add", (3, 4, 5), (5,), made=(3, 4, 5))),
        (120, flops("Sum", (3, 4, 5), (3, 4, 5), (5,), made=(3, 4, 5))),
        (9 * 32, flops("MaxPool", (1, 2, 12, 12), made=(1, 2, 4, 4), kernel_shape=[3, 3])),
        (288, flops("GlobalAveragePool", (1, 2, 12, 12), made=(1, 2, 1, 1))),
        (300, flops("Softmax", (3, 20), made=(3, 20))),
        (420, flops("LayerNormalization", (3, 20), (20,), (20,), made=(3, 20))),
        (2 * 3 * 64, flops("Resize", (1, 1, 4, 4), (), (4,), made=(1, 1, 8, 8), mode="linear")),
        (0, flops("Transpose", (3, 4), made=(4, 3))),
        (0, flops("Reshape", (3, 4), (1,), made=(12,))),
    ],
)  # fmt: skip
def test_formulas_by_hand(expected: float, found: float) -> None:
    assert found == expected


def test_group_query_attention_counts_what_was_kept() -> None:
    """A new token against 8 kept and itself: 4 heads of 16, two of keys."""
    node = helper.make_node(
        "GroupQueryAttention", ["q", "k", "v", "pk", "pv", "s", "t"], ["y", "nk", "nv"], domain="com.microsoft",
        num_heads=4, kv_num_heads=2,
    )  # fmt: skip
    shapes = {"q": (1, 1, 64), "k": (1, 1, 32), "v": (1, 1, 32), "pk": (1, 2, 8, 16), "pv": (1, 2, 8, 16),
              "s": (1, 1), "t": (), "y": (1, 1, 64), "nk": (1, 2, 9, 16), "nv": (1, 2, 9, 16)}  # fmt: skip

    assert count(node, shapes).flops == 2 * (4 * 9 * 16) * 2


def _unknown(node: NodeProto, shapes: dict[str, Shape]) -> bool:
    found = count(node, shapes)
    return found.kind == "unknown" and found.flops == 0


def test_what_is_not_known_says_so() -> None:
    assert _unknown(helper.make_node("NonMaxSuppression", ["a", "b"], ["c"]), {"a": (1, 2), "b": (2,), "c": (3, 3)})
    assert _unknown(helper.make_node("MatMul", ["a", "b"], ["c"]), {"a": (2, 3)})
    assert _unknown(helper.make_node("Einsum", ["a"], ["b"], equation="...i->i"), {"a": (2, 3), "b": (3,)})
    assert count(helper.make_node("Loop", ["a"], ["b"]), {}).kind == "control"


SIZES = st.integers(1, 9)


@given(batch=SIZES, groups=st.sampled_from([1, 2, 4]), inputs=SIZES, outputs=SIZES, kernel=SIZES, side=SIZES)
def test_convolutions_scale(batch: int, groups: int, inputs: int, outputs: int, kernel: int, side: int) -> None:
    def of(rows: int, parts: int) -> float:
        return flops(
            "Conv",
            (rows, 4 * inputs, side, side),
            (4 * outputs, 4 * inputs // parts, kernel, kernel),
            made=(rows, 4 * outputs, side, side),
            group=parts,
        )

    assert of(batch, groups) == batch * of(1, groups)
    assert of(1, 1) == groups * of(1, groups)


@given(rows=SIZES, inner=SIZES, columns=SIZES, batch=SIZES)
def test_products_are_the_same_turned_round(rows: int, inner: int, columns: int, batch: int) -> None:
    straight = flops("MatMul", (batch, rows, inner), (batch, inner, columns), made=(batch, rows, columns))

    assert straight == flops("MatMul", (batch, columns, inner), (batch, inner, rows), made=(batch, columns, rows))
    assert straight == batch * flops("Gemm", (rows, inner), (inner, columns), made=(rows, columns))
    assert straight == flops(
        "Einsum", (batch, rows, inner), (batch, inner, columns), made=(batch, rows, columns), equation="bij,bjk->bik"
    )
