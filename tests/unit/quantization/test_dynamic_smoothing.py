"""Smoothing of what is quantized at run time: the same in float, nearer in integers, or undone."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

from app.domain.recipe import DynamicInt8, Mixed, Part, StaticInt8, calibration_samples
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.conftest import Feeds, Maker
from tests.unit.quantization.products import (
    WIDE,
    assert_chosen,
    nodes_of,
    plain_choice,
    product,
    rows_of,
    starts,
    stored,
)
from workers.quantization.affine import WeightType, for_range
from workers.quantization.judged import power
from workers.quantization.recovery.ladder import divided
from workers.quantization.recovery.measuring import outputs_db
from workers.quantization.smoothing.dynamic import smooth
from workers.quantization.technique import Context, quantize
from workers.runtimes.session import Port, load

SEVEN = WeightType("int8", 7, per_channel=True)
RECIPE = DynamicInt8(reduce_range=True)
TYPES = ("MatMul", "Gemm")


@pytest.fixture(autouse=True)
def never_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small random products are near enough as they are; what is tested here is how they are smoothed all the same."""
    monkeypatch.setattr("workers.quantization.techniques.dynamic_int8.ENOUGH_DB", np.inf)


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from(["MatMul", "Gemm", "Gemm, transB", "Gemm, alpha"]),
    readers=st.integers(1, 2),
    outliers=st.sampled_from([(), (3,), (3, 50), (0, 1, 2, 63)]),
    by=st.floats(5, 500),
)
def test_a_smoothed_model_is_the_same_in_float(
    tmp_path_factory: pytest.TempPathFactory, form: str, readers: int, outliers: tuple[int, ...], by: float
) -> None:
    folder = tmp_path_factory.mktemp("smooth")
    model = product(
        form.split(",")[0], flipped="transB" in form, alpha=0.3 if "alpha" in form else 1.0, readers=readers
    )
    rows = rows_of(8, outliers, by)
    before = load(models.save(model, folder / "before.onnx"))
    smooth(model, TYPES, frozenset(), SEVEN, starts(rows), folder)
    onnx.checker.check_model(model, full_check=True)
    after = load(models.save(model, folder / "after.onnx"))
    for row in rows_of(4, outliers, by, seed=9):
        for one, other in zip(before.run(row), after.run(row), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * np.abs(one).max())


def normalized(
    *, axis: int = -1, shift: bool = True, gain: str = "gain", addend: str = "", more: str = ""
) -> ModelProto:
    """A LayerNormalization whose gains make two channels large, and a product of what it makes."""
    gains = np.ones(WIDE)
    gains[[3, 50]] = 80.0
    nodes = [
        helper.make_node("LayerNormalization", ["x", gain, *["shift"] * shift], ["n"], name="norm", axis=axis),
        helper.make_node("Gemm", ["n", "w", *[addend] * bool(addend)], ["y"], name="product"),
    ]
    outputs = [models.value("y", ["rows", WIDE])]
    if more == "output":
        outputs.append(models.value("n", ["rows", WIDE]))
    elif more == "captured":
        body = helper.make_graph(
            [helper.make_node("Neg", ["n"], ["inner"], name="inner")], "body", [], [models.value("inner", None)]
        )
        nodes.append(helper.make_node("If", ["yes"], ["z"], name="if", then_branch=body, else_branch=body))
        outputs.append(models.value("z", None))
    elif more:
        nodes.append(helper.make_node("Mul", [more, more], ["z"], name="more"))
        outputs.append(models.value("z", None))
    return models.model(
        nodes,
        [models.value("x", ["rows", WIDE])],
        outputs,
        [
            models.tensor("gain", gains if axis == -1 else np.ones((5, WIDE)) * gains),
            models.tensor("shift", np.linspace(-1, 1, WIDE) if axis == -1 else np.ones((5, WIDE))),
            models.weights("w", WIDE, WIDE),
            models.tensor("yes", True, np.bool_),
        ],
    )


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(normalized(), id="plain"),
        pytest.param(normalized(shift=False), id="no shift"),
        pytest.param(normalized(axis=0), id="another axis"),
        pytest.param(normalized(gain="x0"), id="gains that are computed"),
        pytest.param(normalized(addend="n"), id="added to its own product"),
        *(pytest.param(normalized(more=more), id=f"also read: {more}") for more in ("n", "gain", "shift")),
        *(pytest.param(normalized(more=more), id=more) for more in ("output", "captured")),
    ],
)
def test_what_follows_a_normalization_is_the_same_in_float(tmp_path: Path, model: ModelProto) -> None:
    model = ModelProto.FromString(model.SerializeToString())
    outliers: tuple[int, ...] = ()
    if model.graph.node[0].input[1] == "x0":
        outliers = (3, 50)
        model.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["x0"], name="top", axes=[0], keepdims=0))
    before = load(models.save(model, tmp_path / "before.onnx"))
    rows = rows_of(8, outliers)
    assert smooth(model, TYPES, frozenset(), SEVEN, starts(rows), tmp_path) == frozenset() or nodes_of(model, "Mul")
    after = load(models.save(model, tmp_path / "after.onnx"))
    for row in rows_of(4, outliers, seed=9):
        for one, other in zip(before.run(row), after.run(row), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * np.abs(one).max())


@pytest.mark.parametrize("dead", [31, 33, 48])
def test_a_channel_that_was_silent_may_speak_up_later(tmp_path: Path, dead: int) -> None:
    rows, later = rows_of(12), rows_of(4, seed=5)
    for row in rows:
        row["x"][:, :dead] = 0.0
    for row in later:
        row["x"][:, : dead - 1] = 0.0
        row["x"][:, dead - 1] = 1.0
    path = models.save(product(), tmp_path / "model.onnx")
    found = []
    for smoothing in (False, True):
        recipe = RECIPE.model_copy(update={"smoothing": smoothing})
        made = quantize(path, tmp_path / f"{smoothing}.onnx", recipe, Context(work=tmp_path, feeds=starts(rows)))
        found.append(outputs_db(load(path), [load(made.file)], ["y0"], later)[0]["y0"])
    assert found[1] > found[0] - 6


def test_outputs_whose_shape_hangs_on_the_numbers_are_compared_too(make: Maker) -> None:
    model = models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
            helper.make_node("Greater", ["a", "zero"], ["c"], name="greater"),
            helper.make_node("NonZero", ["c"], ["i"], name="where"),
            helper.make_node("Transpose", ["i"], ["places"], name="turn", perm=[1, 0]),
            helper.make_node("GatherND", ["a", "places"], ["y"], name="take"),
        ],
        [models.value("x", ["rows", WIDE])],
        [models.value("y", ["found"])],
        [models.weights("w", WIDE, 60), models.tensor("zero", 0.0)],
    )
    rows = rows_of(32, (3,))
    path_shapes = {tuple(row.shape) for made in [make(model, RECIPE, feeds=rows)] for (row,) in made.artifact}
    assert len(path_shapes) > 1
    (rung,) = make(model, RECIPE, feeds=rows).produced.recovery
    assert rung.after_db is not None
    static = make(model, StaticInt8(reduce_range=True, recovery=("bias_correction", "smoothquant")), feeds=rows)
    assert len(static.produced.recovery) == 2


def test_another_shape_is_as_far_as_nothing_at_all() -> None:
    exact = np.arange(1.0, 4.0, dtype=np.float32)
    assert power(exact, np.ones(1, np.float32)) == power(exact, np.zeros(5, np.float32)) == (14.0, 14.0)


@pytest.mark.parametrize(
    "name", ["r_smooth", "r_smoothing", "product0_apart_x", "product0_apart_weight", "product0_rest"]
)
@pytest.mark.parametrize("place", ["node", "body"])
def test_names_that_smoothing_would_give_may_be_taken(make: Maker, name: str, place: str) -> None:
    model = product()
    if place == "node":
        model.graph.node[1].name = name
    else:
        body = helper.make_graph(
            [helper.make_node("Neg", ["r"], [name], name="b")], "body", [], [models.value(name, None)]
        )
        model.graph.initializer.append(models.tensor("yes", True, np.bool_))
        model.graph.node.append(helper.make_node("If", ["yes"], ["z"], name="if", then_branch=body, else_branch=body))
        model.graph.output.append(models.value("z", None))
    (rung,) = make(model, RECIPE, feeds=rows_of(32, (3,))).produced.recovery
    assert rung.kept


@pytest.mark.parametrize("outliers", [(3,), (3, 50), (5, 6, 7)])
def test_the_choice_is_the_one_that_trying_all_would_make(tmp_path: Path, outliers: tuple[int, ...]) -> None:
    model, rows = product(), rows_of(6, outliers)
    divisor, apart = plain_choice(model, rows)

    smooth(model, TYPES, frozenset(), SEVEN, starts(rows), tmp_path)

    assert_chosen(model, divisor, apart, outliers)


def test_a_normalization_divides_by_itself_and_is_computed_whole(tmp_path: Path) -> None:
    model = normalized()
    before = [node.op_type for node in model.graph.node]
    assert smooth(model, TYPES, frozenset(), SEVEN, starts(rows_of(6)), tmp_path) == frozenset()
    assert [node.op_type for node in model.graph.node] == before
    assert not np.allclose(stored(model, "gain"), stored(normalized(), "gain"))


@pytest.mark.parametrize("outliers", [(), (3,), (3, 50)])
def test_what_is_kept_is_nearer_as_measured_on_rows_that_nothing_was_fitted_to(
    make: Maker, tmp_path: Path, outliers: tuple[int, ...]
) -> None:
    rows = rows_of(32, outliers)
    plain = make(product(), RECIPE.model_copy(update={"smoothing": False}), feeds=rows)
    assert plain.produced.recovery == ()
    made = make(product(), RECIPE, feeds=rows)
    if not made.produced.recovery:
        assert not outliers
        assert made.produced.notes == ("Smoothing: nothing that the products read comes nearer for it.",)
        return
    (rung,) = made.produced.recovery
    judging = [row for row, _ in divided(starts(rows))[1]()]
    found = []
    for artifact in (plain, made):
        noise, signal = np.zeros(2), np.zeros(2)
        for row in judging:
            exact = np.maximum(row["x"], 0) @ stored(product(), "w0"), -np.maximum(row["x"], 0)
            # Of the smaller one's own file, run by onnxruntime alone.
            for place, (wanted, output) in enumerate(zip(exact, artifact.session.run(row), strict=True)):
                noise[place] += np.square(wanted - output).sum()
                signal[place] += np.square(wanted).sum()
        # The other output is exact: it counts as 40 dB until both are beyond them, and not at all then.
        levels = 10 * np.log10(signal / np.maximum(noise, signal * 1e-20))
        found.append(levels.min() if levels.min() > 40 else np.minimum(levels, 40).mean())
    assert rung.step == "smoothing"
    if rung.kept:
        assert found[1] > found[0]
        assert rung.after_db - rung.before_db == pytest.approx(found[1] - found[0], abs=0.01)
    if outliers:
        assert rung.kept
        assert found[1] > found[0] + 3
        assert len(nodes_of(made.proto, "MatMulInteger")) == 1
        assert len(nodes_of(made.proto, "MatMul")) == 1, "the few channels apart, in float"


@pytest.mark.parametrize("enough", [20.0, 60.0])
def test_what_is_near_enough_is_left_as_fast_as_it_is(
    make: Maker, monkeypatch: pytest.MonkeyPatch, enough: float
) -> None:
    """Judged by the worst output: the other one of this model is exact."""
    monkeypatch.setattr("workers.quantization.techniques.dynamic_int8.ENOUGH_DB", enough)
    made = make(product(), RECIPE, feeds=rows_of(32, (3,)))
    assert len(made.produced.recovery) == (0 if enough == 20.0 else 1)
    assert bool(nodes_of(made.proto, "Gather")) == (enough == 60.0)
    assert any("not needed" in note for note in made.produced.notes) == (enough == 20.0)


def test_smoothing_that_makes_the_outputs_worse_is_undone_and_says_so(make: Maker) -> None:
    """Fitted to rows in which one half of the channels is large, judged by rows in which it is the other half."""
    rows = rows_of(40)
    judging = {id(row) for row, _ in divided(starts(rows))[1]()}
    for row in rows:
        row["x"][:, slice(32, None) if id(row) in judging else slice(32)] *= 50.0
    plain = make(product(), RECIPE.model_copy(update={"smoothing": False}), feeds=rows)
    made = make(product(), RECIPE, feeds=rows)
    (rung,) = made.produced.recovery
    assert not rung.kept
    assert rung.after_db is not None
    assert rung.after_db < rung.before_db
    assert any("undone" in note for note in made.produced.notes)
    assert made.proto.graph.SerializeToString() == plain.proto.graph.SerializeToString()


def test_without_rows_nothing_is_smoothed_and_the_report_says_what_to_give(tmp_path: Path) -> None:
    path = models.save(product(), tmp_path / "model.onnx")
    made = quantize(path, tmp_path / "out.onnx", RECIPE, Context(work=tmp_path))
    assert made.recovery == ()
    assert any("calibration rows" in note for note in made.notes)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(rows_of(1, (3,)), id="one row"),
        pytest.param([{"x": np.full((5, WIDE), np.nan, np.float32)}] * 4, id="no numbers"),
        pytest.param([{"x": np.full((5, WIDE), 3e38, np.float32)}] * 4, id="huge"),
        pytest.param([{"x": np.zeros((5, WIDE), np.float32)}] * 4, id="zeros"),
        pytest.param([{"x": np.zeros((0, WIDE), np.float32)}] * 4, id="empty"),
    ],
)
def test_rows_that_tell_nothing_leave_the_artifact_as_it_is_without_them(tmp_path: Path, rows: list[Feeds]) -> None:
    path = models.save(product(), tmp_path / "model.onnx")
    without, made = (
        quantize(path, tmp_path / f"{name}.onnx", RECIPE, Context(work=tmp_path, feeds=feeds))
        for name, feeds in (("without", None), ("with", starts(rows)))
    )
    assert made.file.read_bytes() == without.file.read_bytes()
    assert not any(rung.kept for rung in made.recovery)


def test_what_is_observed_in_several_passes_is_what_one_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = models.model(
        [
            helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "w1"], ["y"], name="second"),
        ],
        [models.value("x", ["rows", WIDE])],
        [models.value("y", ["rows", 6])],
        [models.weights("w0", WIDE, 80), models.weights("w1", 80, 6, seed=1)],
    )
    made = []
    for size in (1 << 30, 1):
        monkeypatch.setattr("workers.quantization.smoothing.seen.SLICE_BYTES", size)
        made.append(ModelProto.FromString(chain.SerializeToString()))
        assert smooth(made[-1], TYPES, frozenset(), SEVEN, starts(rows_of(6, (3,))), tmp_path) is not None
    assert made[0].SerializeToString() == made[1].SerializeToString()


def test_weights_that_other_nodes_read_are_not_doubled(tmp_path: Path) -> None:
    model = product(readers=2)
    for node in nodes_of(model, "MatMul"):
        node.input[1] = "w0"
    together, apart = ModelProto.FromString(model.SerializeToString()), model
    assert smooth(together, TYPES, frozenset(), SEVEN, starts(rows_of(6, (3,))), tmp_path) is not None
    assert len({node.input[1] for node in nodes_of(together, "MatMul")}) == 1
    assert smooth(apart, TYPES, frozenset({"product1"}), SEVEN, starts(rows_of(6, (3,))), tmp_path) is None


def test_nodes_kept_in_float_keep_their_weights(make: Maker) -> None:
    recipe = RECIPE.model_copy(update={"keep_float": ("product1",)})
    made = make(product(readers=2), recipe, feeds=rows_of(32, (3,)))
    kept = next(node for node in made.proto.graph.node if node.name == "product1")
    assert kept.op_type == "MatMul"
    np.testing.assert_array_equal(stored(made.proto, kept.input[1]), stored(product(), "w0"))


def test_a_dynamic_part_of_a_mixed_recipe_is_smoothed_too(make: Maker) -> None:
    model = product(readers=2)
    recipe = Mixed(
        parts=(Part(nodes=("product0",), recipe=RECIPE),),
        rest=StaticInt8(reduce_range=True, op_types=("MatMul",), recovery=()),
    )
    assert calibration_samples(Mixed(rest=RECIPE)) == RECIPE.samples
    made = make(model, recipe, feeds=rows_of(32, (3,)))
    assert [rung.step for rung in made.produced.recovery if rung.kept] == ["smoothing"]
    assert len(nodes_of(made.proto, "MatMulInteger")) == 1
    assert nodes_of(made.proto, "QuantizeLinear")


class Fixed:
    """A session whose answers are known."""

    def __init__(self, given: list[list[Array]], dtype: str = "float32") -> None:
        self._given = iter(given)
        self.inputs, self.outputs = (Port("x", dtype, ()),), ()
        self.load_ms, self.conditions = 0.0, dict[str, Any]()
        self.fed: list[str] = []

    def run(self, feeds: Any, wanted: Any = None) -> list[Array]:
        self.fed.append(str(feeds["x"].dtype))
        return next(self._given)


def test_distances_are_sums_over_rows_for_each_output() -> None:
    rng = np.random.default_rng(0)
    exact, found = rng.standard_normal((2, 3, 2, 4))
    half = Fixed([list(row) for row in found], "float16")
    rows = [{"x": np.ones(3, np.float32)}] * 3
    (values,) = outputs_db(Fixed([list(row) for row in exact]), [half], ["a", "b"], rows)
    by_output = [
        10 * np.log10(np.square(exact[:, place]).sum() / np.square(exact[:, place] - found[:, place]).sum())
        for place in range(2)
    ]
    assert values == pytest.approx(dict(zip(["a", "b"], by_output, strict=True)))
    assert half.fed == ["float16"] * 3


@given(
    ends=st.lists(st.tuples(st.floats(-1e5, 1e5), st.floats(0, 1e5)), min_size=1, max_size=6),
    dtype=st.sampled_from(["uint8", "int8", "uint16"]),
    seed=st.integers(0, 99),
)
def test_ranges_along_an_axis_are_those_of_each_alone_and_rounding_is_there_and_back(
    ends: list[tuple[float, float]], dtype: str, seed: int
) -> None:
    low = np.array([start for start, _ in ends])
    high = np.array([start + width for start, width in ends])
    values = (np.random.default_rng(seed).standard_normal((len(ends), 9)) * 2e4).astype(np.float32)
    along = for_range(low, high, dtype, axis=0)
    np.testing.assert_array_equal(along.rounded(values), along.dequantize(along.quantize(values)))
    for place, row in enumerate(values):
        alone = for_range(float(low[place]), float(high[place]), dtype)
        np.testing.assert_array_equal(along.rounded(values)[place], alone.rounded(row))
        np.testing.assert_array_equal(along.quantize(values)[place], alone.quantize(row))
