"""Small real models that a runtime loads and that go wrong only when they are run: on some rows, or on many at once.

All take `x` (n, 16) and put out `y` (n, 8), which is `x` times `weights()` while nothing goes wrong. They go wrong
where the first number of a row is above `ALARM`, and those made with `crowded` where a call has more rows than `CROWD`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from tests.parts.models import Array, model, tensor, value

ALARM = 100.0
CROWD = 4
INPUTS, OUTPUTS = 16, 8
_FOREVER = 2**62

Nodes = list[NodeProto]


def weights() -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(0, 1, (INPUTS, OUTPUTS)).astype(np.float32)


def rows(count: int, *, bad: int | None = None, seed: int = 1) -> Array:
    """Rows of which one, if it is named, makes the models go wrong."""
    found = np.random.default_rng(seed).normal(size=(count, INPUTS)).astype(np.float32)
    if bad is not None:
        found[bad, 0] = 2 * ALARM
    return found


def _alarm(crowded: bool) -> Nodes:
    """Nodes that make `alarm`, int64 of no axes: 1 where the call is to go wrong, else 0."""
    if crowded:
        begin = [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "first"], ["count"], axis=0),
            helper.make_node("Greater", ["count", "crowd"], ["wrong"]),
        ]
    else:
        begin = [
            helper.make_node("Gather", ["x", "first"], ["column"], axis=1),
            helper.make_node("ReduceMax", ["column"], ["highest"], keepdims=0),
            helper.make_node("Greater", ["highest", "bound"], ["wrong"]),
        ]
    return [*begin, helper.make_node("Cast", ["wrong"], ["alarm"], to=TensorProto.INT64)]


def _made(nodes: Nodes, spoilt: str, crowded: bool) -> ModelProto:
    """`nodes` take `alarm` and make `spoilt`, a float of no axes that is 0 unless something went wrong."""
    return model(
        [
            *_alarm(crowded),
            *nodes,
            helper.make_node("MatMul", ["x", "w"], ["product"], name="product"),
            helper.make_node("Add", ["product", spoilt], ["y"], name="sum"),
        ],
        [value("x", ["n", INPUTS])],
        [value("y", ["n", OUTPUTS])],
        [
            tensor("w", weights()),
            tensor("first", 0, np.int64),
            tensor("bound", ALARM),
            tensor("crowd", CROWD, np.int64),
            tensor("one", 1, np.int64),
            tensor("forever", _FOREVER, np.int64),
            tensor("zero", 0.0),
            tensor("go", True, np.bool_),
        ],
    )


def _loop(body: Nodes, *, collects: bool) -> Nodes:
    """A Loop that is run once, or without end where the alarm is given; `state` begins with 0."""
    outputs = [value("go_on", [], TensorProto.BOOL), value("next", [])]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["condition"], ["go_on"]), *body],
        "body",
        [value("turn", [], TensorProto.INT64), value("condition", [], TensorProto.BOOL), value("state", [])],
        [*outputs, value("block", [None])] if collects else outputs,
    )
    return [
        helper.make_node("Mul", ["alarm", "forever"], ["more"]),
        helper.make_node("Add", ["more", "one"], ["turns"]),
        helper.make_node(
            "Loop", ["turns", "go", "zero"], ["last", *(["blocks"] if collects else [])], name="loop", body=graph
        ),
    ]


def endless(*, crowded: bool = False) -> ModelProto:
    """It never returns."""
    body = [helper.make_node("Sin", ["state"], ["next"], name="turn/Sin")]
    return _made(_loop(body, collects=False), "last", crowded)


def growing(*, crowded: bool = False) -> ModelProto:
    """It never returns, and keeps 4 MB more at each turn."""
    body = [
        helper.make_node("Sin", ["state"], ["next"], name="turn/Sin"),
        helper.make_node("Constant", [], ["size"], value_ints=[1 << 20]),
        helper.make_node(
            "ConstantOfShape", ["size"], ["block"], name="turn/Block", value=tensor("filled", [1.0], np.float32)
        ),
    ]
    nodes = [
        *_loop(body, collects=True),
        helper.make_node("ReduceMax", ["blocks"], ["highest_block"], keepdims=0),
        helper.make_node("Mul", ["highest_block", "last"], ["nothing"]),
    ]
    return _made(nodes, "nothing", crowded)


def gigantic(*, crowded: bool = False) -> ModelProto:
    """It wants 64 GB in one piece."""
    nodes = [
        helper.make_node("Constant", [], ["many"], value_int=1 << 34),
        helper.make_node("Mul", ["alarm", "many"], ["more"]),
        helper.make_node("Add", ["more", "one"], ["size"]),
        helper.make_node("Constant", [], ["axis"], value_ints=[0]),
        helper.make_node("Unsqueeze", ["size", "axis"], ["sizes"]),
        helper.make_node("ConstantOfShape", ["sizes"], ["block"], name="block"),
        helper.make_node("ReduceMax", ["block"], ["nothing"], keepdims=0),
    ]
    return _made(nodes, "nothing", crowded)


def crashing(*, crowded: bool = False) -> ModelProto:
    """It divides the least int64 by -1: on x86 that is SIGFPE, which onnxruntime 1.32 does not see coming."""
    nodes = [
        helper.make_node("Constant", [], ["two"], value_int=2),
        helper.make_node("Constant", [], ["least"], value_int=-(2**63)),
        helper.make_node("Mul", ["alarm", "two"], ["twice"]),
        helper.make_node("Sub", ["one", "twice"], ["divisor"]),
        helper.make_node("Div", ["least", "divisor"], ["quotient"], name="quotient"),
        helper.make_node("Cast", ["quotient"], ["large"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["large", "zero"], ["nothing"]),
    ]
    return _made(nodes, "nothing", crowded)


def crashing_at_load() -> ModelProto:
    """The same of two constants, which onnxruntime computes before anything is run."""
    return model(
        [
            helper.make_node("Div", ["least", "minus"], ["quotient"], name="quotient"),
            helper.make_node("Cast", ["quotient"], ["large"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "large"], ["y"], name="product"),
        ],
        [value("x", ["n", INPUTS])],
        [value("y", ["n", INPUTS])],
        [tensor("least", -(2**63), np.int64), tensor("minus", -1, np.int64)],
    )


def refusing(*, crowded: bool = False) -> ModelProto:
    """It looks up a place that is not there, which the runtime refuses."""
    nodes = [
        helper.make_node("Mul", ["alarm", "forever"], ["place"]),
        helper.make_node("Constant", [], ["table"], value_floats=[0.0]),
        helper.make_node("Gather", ["table", "place"], ["nothing"], name="lookup"),
    ]
    return _made(nodes, "nothing", crowded)


def undefined() -> ModelProto:
    """Rows whose first number is negative come out as NaN, and no others."""
    return model(
        [
            helper.make_node("Slice", ["x", "begin", "end", "columns"], ["column"]),
            helper.make_node("Sqrt", ["column"], ["root"], name="root"),
            helper.make_node("Mul", ["root", "zero"], ["nothing"]),
            helper.make_node("MatMul", ["x", "w"], ["product"], name="product"),
            helper.make_node("Add", ["product", "nothing"], ["y"], name="sum"),
        ],
        [value("x", ["n", INPUTS])],
        [value("y", ["n", OUTPUTS])],
        [
            tensor("w", weights()),
            tensor("begin", [0], np.int64),
            tensor("end", [1], np.int64),
            tensor("columns", [1], np.int64),
            tensor("zero", 0.0),
        ],
    )


GOES_WRONG: dict[str, Callable[..., ModelProto]] = {
    made.__name__: made for made in (endless, growing, gigantic, crashing, refusing)
}


def many_headed() -> ModelProto:
    """An output of each kind that a metric reads: `classes` (n, 8), `number` (n, 1), `tokens` (n, 4, 8), `boxes`
    (n, 3, 4), `scores` (n, 3), `mask` (n, 3, 2, 2), `embedding` (n, 6); and those that few or none read: `grid`
    (n, 2, 2, 8), `five` (n, 3, 5), `chosen` (n,) of whole numbers, `text` (n, 8) of text."""
    shapes = {
        "classes": (8,),
        "number": (1,),
        "tokens": (4, 8),
        "boxes": (3, 4),
        "scores": (3,),
        "mask": (3, 2, 2),
        "embedding": (6,),
        "grid": (2, 2, 8),
        "five": (3, 5),
    }
    nodes: Nodes = []
    stored = []
    for seed, (name, shape) in enumerate(shapes.items()):
        width = int(np.prod(shape))
        made = np.random.default_rng([7, seed]).normal(0, 1, (INPUTS, width)).astype(np.float32)
        stored += [tensor(f"w_{name}", made), tensor(f"shape_{name}", [-1, *shape], np.int64)]
        nodes += [
            helper.make_node("MatMul", ["x", f"w_{name}"], [f"flat_{name}"], name=f"{name}/MatMul"),
            helper.make_node("Reshape", [f"flat_{name}", f"shape_{name}"], [name], name=f"{name}/Reshape"),
        ]
    nodes += [
        helper.make_node("ArgMax", ["classes"], ["chosen"], name="chosen", axis=1, keepdims=0),
        helper.make_node("Cast", ["classes"], ["text"], name="text", to=TensorProto.STRING),
    ]
    return model(
        nodes,
        [value("x", ["n", INPUTS])],
        [
            *(value(name, ["n", *shape]) for name, shape in shapes.items()),
            value("chosen", ["n"], TensorProto.INT64),
            value("text", ["n", 8], TensorProto.STRING),
        ],
        stored,
    )
