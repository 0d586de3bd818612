"""mixed: who gets which node, how techniques stand side by side, and what is refused."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper
from pydantic import ValidationError

from app.domain.recipe import (
    RECIPE,
    Bfloat16,
    BySensitivity,
    Calibration,
    DynamicInt8,
    Float16,
    Mixed,
    OperatorType,
    Part,
    Plain,
    StaticInt8,
    StaticInt16,
    WeightOnly,
    calibration_samples,
    needs_calibration,
)
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.conftest import Made, Maker
from workers.formats.onnx.graph import all_nodes
from workers.quantization.assignment import assign
from workers.quantization.recovery.ladder import divided
from workers.quantization.technique import Context, quantize, resolve
from workers.runtimes.session import load

AVX2 = frozenset({"avx2", "fma"})
STATIC = StaticInt8(reduce_range=True, recovery=(), calibration=Calibration(method="minmax"))
WIDE = StaticInt16(recovery=(), calibration=Calibration(method="minmax"))
DYNAMIC = DynamicInt8(reduce_range=True, smoothing=False)
FOUR_BITS = WeightOnly(bits=4, block_size=16, accuracy_level=0)
HALF = Float16()
BRAIN = Bfloat16(least_elements=1)

NAMES = ("a", "b", "c", "d", "e", "f")


def chain() -> ModelProto:
    """Six products of 16 by 16 with a Tanh between, named a to f: (n, 16) → (n, 16)."""
    nodes, tensors, found = [], [], "x"
    for index, name in enumerate(NAMES):
        tensors.append(models.weights(f"w_{name}", 16, 16, seed=index, spread=0.3))
        nodes.append(helper.make_node("MatMul", [found, f"w_{name}"], [f"h_{name}"], name=name))
        nodes.append(helper.make_node("Tanh", [f"h_{name}"], [f"t_{name}"], name=f"tanh_{name}"))
        found = f"t_{name}"
    nodes[-1].output[0] = "y"
    return models.model(nodes, [models.value("x", ["n", 16])], [models.value("y", ["n", 16])], tensors)


def technique_of(made: Made | ModelProto, weight: str) -> str:
    """Which technique's mark the artifact bears on a weight of `chain`."""
    proto = made.proto if isinstance(made, Made) else made
    stored = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    kinds = {onnx.TensorProto.FLOAT: "float", onnx.TensorProto.FLOAT16: "float16"}
    if weight in stored:
        return kinds[stored[weight]]
    if f"{weight}_bfloat16" in stored:
        return "bfloat16"
    reader = next(
        node for node in proto.graph.node if any(name.startswith(f"{weight}_quantized") for name in node.input)
    )
    return {
        "MatMulNBits": "weight_only",
        "MatMulInteger": "dynamic_int8",
        "DequantizeLinear": "static_int8",
        "Cast": "static_int16",
    }[reader.op_type]


SIX: tuple[Plain, ...] = (DYNAMIC, FOUR_BITS, HALF, BRAIN)


@pytest.mark.parametrize("static", [STATIC, WIDE], ids=["static_int8", "static_int16"])
@pytest.mark.parametrize("backwards", [False, True])
def test_five_techniques_and_float_in_one_model(make: Maker, static: Plain, backwards: bool) -> None:
    recipes: list[Plain | None] = [static, *SIX, None]
    order = list(reversed(recipes)) if backwards else recipes
    parts = tuple(Part(nodes=(name,), recipe=recipe) for name, recipe in zip(NAMES, order, strict=True))

    made = make(chain(), Mixed(parts=parts, rest=None))

    wanted = [recipe.technique if recipe is not None else "float" for recipe in order]
    assert [technique_of(made, f"w_{name}") for name in NAMES] == wanted
    # One layer has four bits; of all layers' noise that is most.
    assert made.sqnr_db > 15
    assert [port.dtype for port in (*made.session.inputs, *made.session.outputs)] == ["float32", "float32"]


recipes = st.sampled_from([None, STATIC, DYNAMIC, FOUR_BITS, HALF, BRAIN])


@settings(max_examples=25, deadline=None)
@given(
    assigned=st.lists(recipes, min_size=6, max_size=6), rest=recipes, named=st.integers(0, 5), rows=st.integers(1, 3)
)
def test_the_output_is_that_of_each_layers_own_arithmetic(
    tmp_path_factory: pytest.TempPathFactory, assigned: list[Plain | None], rest: Plain | None, named: int, rows: int
) -> None:
    """Against a slow reference that rounds as each layer's technique does, layer by layer."""
    each = [recipe if index < named else rest for index, recipe in enumerate(assigned)]
    if not any(each):
        each[-1] = rest = BRAIN
    folder = tmp_path_factory.mktemp("mixed")
    parts = tuple(Part(nodes=(name,), recipe=recipe) for name, recipe in zip(NAMES[:named], each, strict=False))
    mixed = Mixed(parts=parts, rest=rest)
    path = models.save(chain(), folder / "model.onnx")
    feeds = [{"x": np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)} for seed in range(3)]

    model = made_of(path, mixed, feeds, folder)

    session = load(model.file)
    for row in feeds:
        (found,) = session.run(row)
        expected = slow_chain(row["x"], onnx.load(model.file), each)
        assert np.abs(found - expected).max() < 2e-2


def made_of(path: Path, mixed: Mixed, feeds: Sequence[dict[str, Array]], folder: Path) -> Any:
    from tests.unit.quantization.conftest import observe
    from workers.quantization.assignment import static_recipe

    work = folder / "work"
    work.mkdir()
    if needs_calibration(mixed):
        observe(path, static_recipe(path, mixed), list(feeds), folder).write(folder / "statistics.npz")
    context = Context(work=work, statistics=folder / "statistics.npz", feeds=lambda: ((row, 1) for row in feeds))
    return quantize(path, folder / "out.onnx", mixed, context)


def slow_chain(x: Array, proto: ModelProto, each: Sequence[Plain | None]) -> Array:
    """The chain in float64, every product with its weights (and activations) as its technique leaves them."""
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    original = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in chain().graph.initializer}
    found = x.astype(np.float64)
    source = "x"
    for name, recipe in zip(NAMES, each, strict=True):
        weight = original[f"w_{name}"].astype(np.float64)
        if isinstance(recipe, StaticInt8):
            scale, zero = float(tensors[f"{source}_scale"]), int(tensors[f"{source}_zero_point"])
            found = (np.clip(np.rint(found / scale) + zero, 0, 255) - zero) * scale
            weight = tensors[f"w_{name}_quantized"].astype(np.float64) * tensors[f"w_{name}_scale"]
        elif isinstance(recipe, DynamicInt8):
            low, high = min(found.min(), 0.0), max(found.max(), 0.0)
            scale = (high - low) / 255 or 1.0
            zero = np.clip(np.rint(-low / scale), 0, 255)
            found = (np.clip(np.rint(found / scale) + zero, 0, 255) - zero) * scale
            weight = tensors[f"w_{name}_quantized"].astype(np.float64) * tensors[f"w_{name}_scale"]
        elif isinstance(recipe, WeightOnly):
            weight = unpacked(tensors, f"w_{name}_quantized").T
        elif isinstance(recipe, Float16):
            weight = weight.astype(np.float16).astype(np.float64)
        elif isinstance(recipe, Bfloat16):
            weight = tensors[f"w_{name}_bfloat16"].astype(np.float64)
        found = np.tanh(found @ weight)
        source = f"t_{name}"
    return found


def unpacked(tensors: dict[str, Array], name: str) -> Array:
    """Weights of MatMulNBits, two a byte, lower half first: [outputs, inputs] float64."""
    codes = tensors[f"{name}_codes"]
    outputs = codes.shape[0]
    whole = np.stack([codes & 15, codes >> 4], axis=-1).reshape(outputs, -1, 16).astype(np.float64)
    scales = tensors[f"{name}_scales"].reshape(outputs, -1, 1).astype(np.float64)
    if f"{name}_zeros" in tensors:
        packed = tensors[f"{name}_zeros"].reshape(outputs, -1)
        zeros = np.stack([packed & 15, packed >> 4], axis=-1).reshape(outputs, -1)[:, : scales.shape[1], None]
    else:
        zeros = 8
    return ((whole - zeros) * scales).reshape(outputs, -1)


def test_the_first_part_that_names_a_node_has_it(tmp_path: Path) -> None:
    path = models.save(chain(), tmp_path / "model.onnx")
    mixed = Mixed(
        parts=(Part(nodes=("b",), recipe=None), Part(nodes=("[a-c]",), recipe=FOUR_BITS)),
        rest=DYNAMIC,
        keep_float=("d",),
    )

    found = {each.recipe.technique: each.nodes for each in assign(path, mixed)}

    assert found["weight_only"] == {"a", "c"}
    assert found["dynamic_int8"] & set(NAMES) == {"e", "f"}


def test_equal_recipes_are_one_part(tmp_path: Path) -> None:
    path = models.save(chain(), tmp_path / "model.onnx")
    parts = tuple(Part(nodes=(name,), recipe=FOUR_BITS) for name in ("a", "c"))

    (found,) = assign(path, Mixed(parts=parts))

    assert found.nodes == {"a", "c"}
    assert found.place == "parts[0] and parts[1]"


def test_a_parts_own_keep_float_holds(make: Maker) -> None:
    inner = FOUR_BITS.model_copy(update={"keep_float": ("b",)})

    made = make(chain(), Mixed(parts=(Part(nodes=("[ab]",), recipe=inner),)))

    assert technique_of(made, "w_a") == "weight_only"
    assert technique_of(made, "w_b") == "float"


def test_convolutions_static_and_products_in_four_bits(make: Maker) -> None:
    mixed = Mixed(parts=(Part(nodes=(OperatorType(op_type="Gemm"),), recipe=FOUR_BITS),), rest=STATIC)

    made = make(models.conv_net(), mixed)

    assert "MatMulNBits" in made.op_types
    assert "QuantizeLinear" in made.op_types
    assert "BatchNormalization" not in made.op_types
    assert made.sqnr_db > 15


def test_unnamed_nodes_and_functions_are_assigned_by_type(make: Maker) -> None:
    part = Part(nodes=(OperatorType(op_type="MatMul"),), recipe=DYNAMIC)

    made = make(models.mlp(constants=True, named=False), Mixed(parts=(part,), rest=BRAIN))
    inside = make(models.function_model(), Mixed(parts=(part,)))

    assert "MatMulInteger" in made.op_types
    assert any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in made.proto.graph.initializer)
    assert "MatMulInteger" in inside.op_types


def test_products_in_bodies_get_their_own_technique(make: Maker) -> None:
    mixed = Mixed(parts=(Part(nodes=("then/*",), recipe=FOUR_BITS), Part(nodes=("else/*",), recipe=BRAIN)), rest=STATIC)

    made = make(models.branches(), mixed)

    assert {"MatMulNBits", "DequantizeLinear", "Cast"} <= {node.op_type for node in all_nodes(made.proto)}
    assert made.sqnr_db > 15


@pytest.mark.parametrize("recipe", [STATIC, WIDE, DYNAMIC, FOUR_BITS, HALF, BRAIN], ids=lambda each: each.technique)
def test_alone_it_makes_what_the_technique_makes(make: Maker, recipe: Plain) -> None:
    for model in (models.conv_net, models.transformer):
        plain = make(model(), recipe)
        mixed = make(model(), Mixed(rest=recipe))

        for one, other in zip(plain.artifact, mixed.artifact, strict=True):
            for expected, found in zip(one, other, strict=True):
                np.testing.assert_array_equal(found, expected)


def test_external_data_stay_external(make: Maker) -> None:
    mixed = Mixed(parts=(Part(nodes=("a",), recipe=DYNAMIC), Part(nodes=("b",), recipe=FOUR_BITS)), rest=BRAIN)

    made = make(chain(), mixed, external=True)

    assert made.sqnr_db > 15
    assert {path.name for path in made.produced.file.parent.iterdir()} <= {"model.onnx", "model.onnx.data"}


def test_recovery_and_notes_say_whose_they_are(make: Maker) -> None:
    static = StaticInt8(reduce_range=True, recovery=("clip_search",))

    made = make(chain(), Mixed(parts=(Part(nodes=("a", "b"), recipe=static),), rest=BRAIN))

    assert [rung.step for rung in made.produced.recovery] == ["clip_search"]
    assert any(note.startswith("static_int8: Ranges by") for note in made.produced.notes)
    assert any(note.startswith("bfloat16: ") for note in made.produced.notes)


# What is refused


def test_a_name_that_matches_nothing_is_refused_with_near_ones(make: Maker) -> None:
    with pytest.raises(StepError) as raised:
        make(chain(), Mixed(parts=(Part(nodes=("a",), recipe=None), Part(nodes=("tanh_g",), recipe=DYNAMIC))))

    assert raised.value.code == "nodes_match_nothing"
    assert "parts[1].nodes" in raised.value.detail
    assert "tanh_" in raised.value.detail


def test_a_part_without_nodes_of_its_own_is_refused(make: Maker) -> None:
    parts = (Part(nodes=("*",), recipe=DYNAMIC), Part(nodes=("a",), recipe=FOUR_BITS))

    with pytest.raises(StepError) as raised:
        make(chain(), Mixed(parts=parts))

    assert raised.value.code == "nothing_to_quantize"
    assert raised.value.detail.startswith("parts[1]")


@pytest.mark.parametrize("recipe", [DYNAMIC, FOUR_BITS, HALF, BRAIN], ids=lambda each: each.technique)
def test_a_part_in_which_its_technique_finds_nothing_is_named(make: Maker, recipe: Plain) -> None:
    parts = (Part(nodes=("a",), recipe=WeightOnly(bits=8)), Part(nodes=("tanh_a",), recipe=recipe))

    with pytest.raises(StepError) as raised:
        make(chain(), Mixed(parts=parts))

    assert raised.value.code == "nothing_to_quantize"
    assert "parts[1]" in raised.value.detail


def test_a_rest_in_which_nothing_is_left_is_noted(make: Maker) -> None:
    made = make(chain(), Mixed(parts=(Part(nodes=("[a-f]",), recipe=FOUR_BITS),), rest=DYNAMIC))

    assert any("rest of the mixed recipe: dynamic_int8 finds nothing" in note for note in made.produced.notes)


def test_two_static_recipes_are_refused() -> None:
    parts = (Part(nodes=("a",), recipe=STATIC), Part(nodes=("b",), recipe=WIDE))

    with pytest.raises(ValidationError, match="one static recipe"):
        Mixed(parts=parts)


def test_nothing_to_do_and_mixed_in_mixed_are_refused() -> None:
    with pytest.raises(ValidationError, match="give a part"):
        Mixed()
    with pytest.raises(ValidationError, match="give a part"):
        Mixed(parts=(Part(nodes=("a",), recipe=None),))
    with pytest.raises(ValidationError):
        RECIPE.validate_python({"technique": "mixed", "rest": {"technique": "mixed", "rest": {"technique": "float16"}}})


def test_parts_that_need_other_session_options_are_refused(make: Maker) -> None:
    levels = [WeightOnly(bits=4, form="qdq", accuracy_level=level) for level in (0, 4)]
    parts = tuple(Part(nodes=(name,), recipe=recipe) for name, recipe in zip("ab", levels, strict=True))

    with pytest.raises(StepError) as raised:
        make(chain(), Mixed(parts=parts))

    assert raised.value.code == "session_options_conflict"
    assert "parts[1]" in raised.value.detail


# What it says of itself


def test_calibration_is_needed_where_a_part_needs_it() -> None:
    assert needs_calibration(Mixed(rest=STATIC))
    assert not needs_calibration(Mixed(rest=DYNAMIC))
    assert calibration_samples(Mixed(rest=DYNAMIC)) is None
    mixed = Mixed(parts=(Part(nodes=("a",), recipe=WeightOnly(samples=700)),), rest=STATIC)
    assert calibration_samples(mixed) == 700


def test_every_part_is_resolved() -> None:
    mixed = Mixed(parts=(Part(nodes=("a",), recipe=DynamicInt8()),), rest=WeightOnly())

    found = resolve(mixed, AVX2)

    assert isinstance(found, Mixed)
    assert found.parts[0].recipe == DynamicInt8(reduce_range=True)
    assert isinstance(found.rest, WeightOnly)
    assert found.rest.accuracy_level == 4


def test_the_costliest_nodes_are_found_and_get_something_finer(make: Maker) -> None:
    """As good as the best of all choices, each of which is made and measured here."""
    by_hand = {
        name: make(chain(), Mixed(parts=(Part(nodes=(name,), recipe=None),), rest=STATIC)).sqnr_db for name in NAMES
    }
    for recipe, kind in ((None, "float"), (BRAIN, "bfloat16")):
        made = make(chain(), Mixed(rest=STATIC, by_sensitivity=BySensitivity(layers=1, recipe=recipe)))
        (found,) = (name for name in NAMES if technique_of(made, f"w_{name}") != "static_int8")
        assert technique_of(made, f"w_{found}") == kind
        assert made.sqnr_db > max(by_hand.values()) - 0.3
        assert max(by_hand.values()) > min(by_hand.values()) + 1  # so that not every choice is as good
        assert any(f"Found by sensitivity: {found};" in note for note in made.produced.notes)
        assert made.produced.sensitivity is not None


def test_nothing_is_made_finer_where_the_target_is_reached_already(make: Maker) -> None:
    made = make(chain(), Mixed(rest=STATIC, by_sensitivity=BySensitivity(target_db=1.0)))
    assert [technique_of(made, f"w_{name}") for name in NAMES] == ["static_int8"] * 6
    assert any("Found by sensitivity: no node" in note for note in made.produced.notes)


TWO_BITS = WeightOnly(bits=2, block_size=16, accuracy_level=0)
TOLD = re.compile(
    r"predicted as if in float, before recovery: (\S+) → (\S+) dB; measured, with recovery: (\S+) → (\S+) dB"
)


def judged_db(made: Made) -> float:
    """SQNR of the artifact on the rows that judge."""
    rows = [row for row, _ in divided(lambda: ((row, 1) for row in made.feeds))[1]()]
    chosen = [number for number, row in enumerate(made.feeds) if any(row is each for each in rows)]
    assert 0 < len(chosen) < len(made.feeds)
    original, artifact = ([kept[number] for number in chosen] for kept in (made.original, made.artifact))
    return replace(made, original=original, artifact=artifact).sqnr_db


@pytest.mark.parametrize("static", [STATIC, WIDE], ids=["static_int8", "static_int16"])
def test_what_would_make_the_model_worse_is_not_done(make: Maker, static: StaticInt8 | StaticInt16) -> None:
    """Two bits are worse than eight, though keeping the same layer in float would be better."""
    alone = make(chain(), Mixed(rest=static))

    made = make(chain(), Mixed(rest=static, by_sensitivity=BySensitivity(layers=1, recipe=TWO_BITS)))

    assert [technique_of(made, f"w_{name}") for name in NAMES] == [static.technique] * 6
    for one, other in zip(alone.artifact, made.artifact, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    note = made.produced.notes[0]
    assert "weight_only makes the outputs worse there, so the rest's technique has them too" in note
    told = TOLD.search(note)
    assert told is not None
    before, predicted, unmixed, mixed = map(float, told.groups())
    assert predicted > before + 0.5, "as if in float"
    assert mixed < unmixed - 5
    assert unmixed == pytest.approx(judged_db(alone), abs=0.06)
    assert made.produced.sensitivity is not None
    (found,) = re.findall("Found by sensitivity: (.);", note)
    by_hand = make(chain(), Mixed(parts=(Part(nodes=(found,), recipe=TWO_BITS),), rest=static))
    assert mixed == pytest.approx(judged_db(by_hand), abs=0.06)


@pytest.mark.parametrize("recipe", [None, BRAIN, Float16(keep_io_types=False)], ids=["float", "bfloat16", "float16"])
def test_what_it_gains_is_measured(make: Maker, recipe: Plain | None) -> None:
    alone = make(chain(), Mixed(rest=STATIC))

    made = make(chain(), Mixed(rest=STATIC, by_sensitivity=BySensitivity(layers=2, recipe=recipe)))

    told = TOLD.search(made.produced.notes[0])
    assert told is not None
    _, _, unmixed, mixed = map(float, told.groups())
    assert unmixed == pytest.approx(judged_db(alone), abs=0.06)
    assert mixed == pytest.approx(judged_db(made), abs=0.06)
    assert mixed > unmixed
    assert made.produced.file.parent.name == "artifact"


def test_without_an_output_of_floats_nothing_is_measured(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.model(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
            helper.make_node("Tanh", ["h"], ["t"], name="tanh"),
            helper.make_node("MatMul", ["t", "w2"], ["scores"], name="second"),
            helper.make_node("ArgMax", ["scores"], ["y"], name="class", axis=-1),
        ],
        [models.value("x", ["n", 16])],
        [models.value("y", None, onnx.TensorProto.INT64), models.value("scores", None)],
        [models.weights("w1", 16, 16), models.weights("w2", 16, 4)],
    )
    mixed = Mixed(rest=STATIC, by_sensitivity=BySensitivity(layers=1))
    sensitivity = make(model, mixed).produced.sensitivity
    monkeypatch.setattr("workers.quantization.techniques.mixed.sensitivity_of", lambda *_: sensitivity)
    del model.graph.output[1]

    made = make(model, mixed)

    assert "no output of floats" in made.produced.notes[0]
    kinds = {tensor.name: tensor.data_type for tensor in made.proto.graph.initializer}
    assert len({"w1", "w2"} & set(kinds)) == 1, "one of them is still float"


@pytest.mark.parametrize("wanted", [{"layers": 1000}, {"target_db": 150}], ids=["layers", "target_db"])
@pytest.mark.parametrize("parts", [(), (Part(nodes=("a", "b"), recipe=STATIC),)], ids=["rest", "part"])
def test_where_everything_is_found_fewer_layers_are_asked_for(
    make: Maker, wanted: dict[str, Any], parts: tuple[Part, ...]
) -> None:
    with pytest.raises(StepError) as raised:
        make(chain(), Mixed(parts=parts, rest=STATIC, by_sensitivity=BySensitivity(**wanted)))
    assert raised.value.code == "nothing_to_quantize"
    assert "by_sensitivity finds 6 layers, which leaves nothing to static_int8" in raised.value.detail
    assert "fewer layers" in raised.value.detail
    assert "target_db" in raised.value.detail
    assert "op_types" not in raised.value.detail

    made = make(chain(), Mixed(parts=parts, rest=STATIC, by_sensitivity=BySensitivity(**wanted, recipe=BRAIN)))
    assert [technique_of(made, f"w_{name}") for name in NAMES] == ["bfloat16"] * 6
    assert any("fewer layers" in note for note in made.produced.notes)


def test_what_its_recipe_cannot_do_is_not_laid_to_a_part(make: Maker) -> None:
    convolutions = Mixed(
        parts=(Part(nodes=("/head/Gemm",), recipe=BRAIN),),
        rest=STATIC,
        by_sensitivity=BySensitivity(layers=1, recipe=FOUR_BITS),
    )
    with pytest.raises(StepError) as raised:
        make(models.conv_net(), convolutions)
    assert raised.value.detail.startswith("by_sensitivity of the mixed recipe: weight_only finds nothing")


def test_what_took_its_scale_from_a_node_now_in_float_gets_a_range_of_its_own(make: Maker) -> None:
    """Pooling hands on integers as they are; behind a convolution in float it is float, and read by one in integers."""
    uneven = np.random.default_rng(5).standard_normal((8, 3, 3, 3))
    uneven[0, 0, 0, 0] = 60.0  # takes the scale from all the others
    even = 0.1 * np.sign(np.random.default_rng(6).standard_normal((4, 8, 3, 3)))  # which rounding does nothing to
    model = models.model(
        [
            helper.make_node("Conv", ["x", "w_uneven"], ["a"], name="uneven"),
            helper.make_node("MaxPool", ["a"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["p", "w_even"], ["y"], name="even"),
        ],
        [models.value("x", ["batch", 3, 14, 14])],
        [models.value("y", None)],
        [models.tensor("w_uneven", uneven), models.tensor("w_even", even)],
    )
    coarse = STATIC.model_copy(update={"per_channel": False})
    made = make(model, Mixed(rest=coarse, by_sensitivity=BySensitivity(layers=1)))
    assert any("Found by sensitivity: uneven;" in note for note in made.produced.notes)
    assert technique_of(made, "w_even") == "static_int8"
    by_hand = make(model, Mixed(parts=(Part(nodes=("uneven",), recipe=None),), rest=coarse))
    assert made.sqnr_db == pytest.approx(by_hand.sqnr_db, abs=0.01)


def test_a_rest_without_nodes_is_told(make: Maker) -> None:
    everything = Part(nodes=("*",), recipe=DYNAMIC)
    with pytest.raises(StepError) as raised:
        make(chain(), Mixed(parts=(everything,), rest=STATIC, by_sensitivity=BySensitivity(layers=1)))
    assert raised.value.code == "nothing_to_quantize"
    assert "by_sensitivity" in raised.value.detail
    without = make(chain(), Mixed(parts=(everything,), rest=STATIC))
    assert {technique_of(without, f"w_{name}") for name in NAMES} == {"dynamic_int8"}


def test_the_rest_s_recipe_may_be_a_part_s_too(make: Maker) -> None:
    same = Part(nodes=("a", "b", "c", "d", "e", "f"), recipe=STATIC)
    made = make(chain(), Mixed(parts=(same,), rest=STATIC, by_sensitivity=BySensitivity(layers=2)))
    assert sorted(technique_of(made, f"w_{name}") for name in NAMES) == ["float"] * 2 + ["static_int8"] * 4


@pytest.mark.parametrize(
    "options",
    [
        {"rest": {"technique": "static_int8"}, "by_sensitivity": {}},
        {"rest": {"technique": "weight_only"}, "by_sensitivity": {"layers": 1}},
        {"by_sensitivity": {"layers": 1}},
        {
            "rest": {"technique": "static_int8"},
            "by_sensitivity": {"layers": 1, "recipe": {"technique": "static_int16"}},
        },
    ],
)
def test_what_cannot_be_found_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mixed.model_validate(options)
