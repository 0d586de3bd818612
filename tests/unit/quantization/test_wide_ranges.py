"""Tensors of parts that one scale would erase stay in float: coordinates beside scores, as detection heads have."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper

from app.domain.recipe import StaticInt8
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array, tensor, value, weights
from tests.unit.quantization.conftest import Made, Maker
from workers.quantization.affine import for_range
from workers.quantization.calibration.collect import collect
from workers.quantization.qdq.placement import place
from workers.quantization.qdq.wide_ranges import LEAST_STEPS, keep_wide_ranges, probes
from workers.quantization.static import prepare_for

PLAIN = StaticInt8(reduce_range=False, recovery=())


def head_weights(scores: int, coordinates: int, channels: int = 8) -> Array:
    """1×1 kernels that make scores near 1 and coordinates up to hundreds out of the same channels."""
    rng = np.random.default_rng(3)
    kernels = rng.normal(0, 0.2, (scores + coordinates, channels, 1, 1))
    kernels[scores:] = np.abs(kernels[scores:]) * 600
    return kernels.astype(np.float32)


def trunk() -> tuple[list[NodeProto], list[TensorProto]]:
    return (
        [
            helper.make_node("Conv", ["image", "w0", "b0"], ["c0"], name="/stem/Conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c0"], ["r0"], name="/stem/Relu"),
        ],
        [weights("w0", 8, 3, 3, 3), weights("b0", 8)],
    )


def yolo() -> ModelProto:
    """One convolution makes 2 scores and 4 coordinates of each cell, which are cut apart, as YOLO's heads are:
    (b, 3, 8, 8) → scores (b, 2, 64) and boxes (b, 4, 64)."""
    nodes, stored = trunk()
    return models.model(
        [
            *nodes,
            helper.make_node("Conv", ["r0", "w1"], ["head"], name="/head/Conv"),
            helper.make_node("Reshape", ["head", "cells"], ["flat"], name="/head/Reshape"),
            helper.make_node("Split", ["flat", "sizes"], ["logits", "boxes"], name="/head/Split", axis=1),
            helper.make_node("Sigmoid", ["logits"], ["scores"], name="/head/Sigmoid"),
        ],
        [value("image", ["batch", 3, 8, 8])],
        [value("scores", ["batch", 2, 64]), value("boxes", ["batch", 4, 64])],
        [
            *stored,
            models.tensor("w1", head_weights(2, 4)),
            tensor("cells", [0, 6, 64], np.int64),
            tensor("sizes", [2, 4], np.int64),
        ],
    )


def joined() -> ModelProto:
    """Two convolutions, coordinates beside scores in one Concat that two more convolutions read:
    (b, 3, 8, 8) → (b, 2, 8, 8) and (b, 4, 8, 8)."""
    nodes, stored = trunk()
    kernels = head_weights(2, 4)
    back = np.zeros((6, 6, 1, 1), np.float32)
    back[:, :, 0, 0] = np.eye(6)
    return models.model(
        [
            *nodes,
            helper.make_node("Conv", ["r0", "w_scores"], ["s"], name="/scores/Conv"),
            helper.make_node("Conv", ["r0", "w_boxes"], ["b"], name="/boxes/Conv"),
            helper.make_node("Concat", ["s", "b"], ["j"], name="/join/Concat", axis=1),
            helper.make_node("Conv", ["j", "w_left"], ["scores"], name="/left/Conv"),
            helper.make_node("Conv", ["j", "w_right"], ["boxes"], name="/right/Conv"),
        ],
        [value("image", ["batch", 3, 8, 8])],
        [value("scores", ["batch", 2, 8, 8]), value("boxes", ["batch", 4, 8, 8])],
        [
            *stored,
            models.tensor("w_scores", kernels[:2]),
            models.tensor("w_boxes", kernels[2:]),
            models.tensor("w_left", back[:2]),
            models.tensor("w_right", back[2:]),
        ],
    )


def images(rows: int = 8) -> list[dict[str, Array]]:
    return [
        {"image": np.random.default_rng(row).standard_normal((1, 3, 8, 8)).astype(np.float32)} for row in range(rows)
    ]


def db_of(made: Made, output: int) -> float:
    """SQNR of one output over all rows."""
    signal = sum(float((row[output].astype(np.float64) ** 2).sum()) for row in made.original)
    noise = sum(
        float(((before[output].astype(np.float64) - after[output]) ** 2).sum())
        for before, after in zip(made.original, made.artifact, strict=True)
    )
    return float(10 * np.log10(signal / noise))


@pytest.mark.parametrize(
    ("model", "wide", "kept", "still"),
    [
        (yolo, "head", {"/head/Conv"}, {"/stem/Conv"}),
        (
            joined,
            "j",
            {"/join/Concat", "/left/Conv", "/right/Conv"},
            {"/stem/Conv", "/scores/Conv", "/boxes/Conv"},
        ),
    ],
    ids=["one convolution, cut apart", "a join"],
)
def test_scores_beside_coordinates_survive(
    make: Maker,
    monkeypatch: pytest.MonkeyPatch,
    model: Callable[[], ModelProto],
    wide: str,
    kept: set[str],
    still: set[str],
) -> None:
    made = make(model(), PLAIN, feeds=images())

    # What each kind of number has of its own is kept: a scale in common leaves next to nothing of the scores.
    assert db_of(made, 0) > 25
    assert db_of(made, 1) > 30
    (note,) = (note for note in made.produced.notes if note.startswith("Kept in float"))
    assert f"tensor {wide!r}" in note
    assert all(name in note for name in kept)
    readers = {node.name: node.input[1] for node in made.proto.graph.node if node.op_type == "Conv"}
    assert all(readers[name].endswith("_dequantized") for name in still)
    assert not any(readers[name].endswith("_dequantized") for name in kept & set(readers))

    monkeypatch.setattr("workers.quantization.qdq.wide_ranges.LEAST_STEPS", 0)
    erased = make(model(), PLAIN, feeds=images())
    assert db_of(erased, 0) < 15


def test_joins_of_like_ranges_stay_in_integers(make: Maker) -> None:
    model = joined()
    (boxes,) = (entry for entry in model.graph.initializer if entry.name == "w_boxes")
    boxes.CopyFrom(models.tensor("w_boxes", head_weights(2, 4)[2:] / 100))

    made = make(model, PLAIN, feeds=images())

    assert not any(note.startswith("Kept in float") for note in made.produced.notes)
    names = {entry.name for entry in made.proto.graph.initializer}
    assert {"j_scale", "w_left_quantized", "w_right_quantized"} <= names


def test_a_mask_beside_scores_is_a_part_too(make: Maker) -> None:
    nodes, stored = trunk()
    model = models.model(
        [
            *nodes,
            helper.make_node("Conv", ["r0", "w1"], ["c1"], name="scores"),
            helper.make_node("Greater", ["r0", "edge"], ["mask"], name="greater"),
            helper.make_node("Where", ["mask", "c1", "low"], ["masked"], name="where"),
            helper.make_node("Conv", ["masked", "w2"], ["y"], name="last"),
        ],
        [value("image", ["batch", 3, 8, 8])],
        [value("y", ["batch", 4, 8, 8])],
        [*stored, weights("w1", 8, 8, 1, 1), weights("w2", 4, 8, 1, 1), tensor("edge", 1.5), tensor("low", -10_000.0)],
    )

    made = make(model, PLAIN, feeds=images())

    (note,) = (note for note in made.produced.notes if note.startswith("Kept in float"))
    assert "'masked'" in note
    assert "last" in note


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0, 9), st.integers(0, 5))
def test_a_part_is_kept_apart_exactly_when_it_has_few_steps(first: float, second: float, seed: int) -> None:
    """Against the plain sum: the part's range over the steps of the common scale."""
    import tempfile

    rng = np.random.default_rng(seed)
    scales = np.array([10.0**first, 10.0 ** (first + second / 3)], np.float32)
    model = models.model(
        [
            helper.make_node("Mul", ["x", "s0"], ["p0"], name="small"),
            helper.make_node("Mul", ["x", "s1"], ["p1"], name="large"),
            helper.make_node("Concat", ["p0", "p1"], ["j"], name="join", axis=1),
            helper.make_node("MatMul", ["j", "w"], ["y"], name="product"),
        ],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 3])],
        [tensor("s0", scales[0]), tensor("s1", scales[1]), weights("w", 8, 3)],
    )
    rows = [{"x": rng.standard_normal((1, 4)).astype(np.float32)} for _ in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        path = models.save(model, Path(folder) / "model.onnx")
        prepared, setting, placement = prepare_for(path, PLAIN)
        assert set(probes(prepared.model, placement)) == {"p0", "p1"}
        seen = collect(prepared.model, ["j", "p0", "p1"], lambda: ((row, 1) for row in rows), Path(folder))

    found = keep_wide_ranges(prepared.model, setting, placement, seen)

    parts = [np.concatenate([row["x"] for row in rows]) * scale for scale in scales]
    step = float(for_range(min(p.min() for p in parts), max(p.max() for p in parts), "uint8").scale)
    erased = any(max(p.max(), 0) - min(p.min(), 0) < LEAST_STEPS * step for p in parts)
    assert bool(found.notes) == erased
    assert ("product" in found.setting.kept) == erased
    assert found.placement.weights == ([] if erased else placement.weights)


def test_where_nothing_is_left_the_error_says_why(make: Maker) -> None:
    model = yolo()
    model.graph.node[0].CopyFrom(helper.make_node("AveragePool", ["image"], ["c0"], name="pool", kernel_shape=[1, 1]))
    (head,) = (entry for entry in model.graph.initializer if entry.name == "w1")
    head.CopyFrom(models.tensor("w1", head_weights(2, 4, channels=3)))

    with pytest.raises(StepError) as raised:
        make(model, PLAIN, feeds=images())

    assert raised.value.code == "nothing_to_quantize"
    assert "tensor 'head'" in raised.value.detail


def past() -> ModelProto:
    """A cache that is empty on every calibration row, joined with what is new."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w0"], ["k"], name="key"),
            helper.make_node("Concat", ["past", "k"], ["keys"], name="join", axis=0),
            helper.make_node("MatMul", ["keys", "w1"], ["y"], name="last"),
            helper.make_node("MatMul", ["past", "w1"], ["z"], name="of the past"),
        ],
        [value("x", [1, 8]), value("past", ["length", 8])],
        [value("y", [None, 8]), value("z", [None, 8])],
        [weights("w0", 8, 8), weights("w1", 8, 8, seed=1)],
    )


def test_what_calibration_never_saw_stays_in_float(make: Maker) -> None:
    rows = [
        {
            "x": np.random.default_rng(row).standard_normal((1, 8)).astype(np.float32),
            "past": np.empty((0, 8), np.float32),
        }
        for row in range(4)
    ]

    made = make(past(), PLAIN, feeds=rows)

    (note,) = (note for note in made.produced.notes if note.startswith("Kept in float"))
    assert "'past' held no number" in note
    later = {"x": rows[0]["x"], "past": np.random.default_rng(9).standard_normal((3, 8)).astype(np.float32) * 50}
    stored = {entry.name: entry for entry in past().graph.initializer}
    exact = later["past"] @ models.numpy_helper.to_array(stored["w1"])
    np.testing.assert_allclose(made.session.run(later, ["z"])[0], exact, rtol=1e-5, atol=1e-4)


def test_a_scale_that_was_shared_is_known_to_who_needs_it_then(make: Maker) -> None:
    """When the mover of a scale stays in float, what it moved is quantized by the range of where it came from."""
    model = yolo()
    model.graph.node.extend([helper.make_node("Conv", ["square", "w2"], ["z"], name="/after/Conv")])
    model.graph.node.insert(5, helper.make_node("Reshape", ["boxes", "grid"], ["square"], name="/after/Reshape"))
    model.graph.initializer.extend([weights("w2", 3, 4, 1, 1), tensor("grid", [0, 4, 8, 8], np.int64)])
    model.graph.output.append(value("z", ["batch", 3, 8, 8]))

    made = make(model, PLAIN, feeds=images())

    assert db_of(made, 0) > 25
    assert db_of(made, 2) > 25
    assert "w2_quantized" in {entry.name for entry in made.proto.graph.initializer}


def test_placement_is_left_alone_where_nothing_is_wide(tmp_path: Path) -> None:
    path = models.save(models.conv_net(), tmp_path / "model.onnx")
    prepared, setting, placement = prepare_for(path, PLAIN)
    feeds = [
        {"image": np.random.default_rng(row).standard_normal((1, 3, 12, 12)).astype(np.float32)} for row in range(3)
    ]
    seen = collect(prepared.model, placement.observed(), lambda: ((row, 1) for row in feeds), tmp_path)

    found = keep_wide_ranges(prepared.model, setting, placement, seen)

    assert probes(prepared.model, placement) == []
    assert found.placement is placement
    assert found.placement == place(prepared.model, setting.op_types, setting.kept)
    assert found.notes == []
