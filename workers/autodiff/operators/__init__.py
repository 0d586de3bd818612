"""What each ONNX operator computes, in torch: one small function each, by operator type.

A function takes the node and its inputs (None where one is left out) and returns one tensor, or a sequence of them
where the operator has several outputs. Semantics are those of opset 13 and later (onnx.ai/onnx/operators); the older
form of an operator that had its axes as attributes is read too.
"""

from collections.abc import Callable
from typing import Any

from workers.autodiff.operators import (
    activations,
    arithmetic,
    indexing,
    logic,
    normalization,
    pooling,
    products,
    quantization,
    reductions,
    resizing,
    shapes,
)

OPERATORS: dict[str, Callable[..., Any]] = {
    **activations.OPERATORS,
    **arithmetic.OPERATORS,
    **indexing.OPERATORS,
    **logic.OPERATORS,
    **normalization.OPERATORS,
    **pooling.OPERATORS,
    **products.OPERATORS,
    **quantization.OPERATORS,
    **reductions.OPERATORS,
    **resizing.OPERATORS,
    **shapes.OPERATORS,
}
"""Every operator that can be computed, by its type."""
