"""Models whose outputs are no float32 numbers: what they are judged by, and that everything runs on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from app.domain.recipe import BySensitivity, Mixed, StaticInt8, StaticInt16
from tests.parts import models
from tests.unit.quantization.conftest import Maker
from tests.unit.quantization.plans import Feeds, planned, relative, run_float, run_plan
from workers.quantization.emulation.prediction import Prediction, predict
from workers.quantization.judged import Judged, judged_tensors
from workers.quantization.qdq.insertion import insert
from workers.quantization.recovery.ladder import judge_for
from workers.quantization.recovery.learned_rounding import learned_rounding
from workers.quantization.recovery.material import Step
from workers.quantization.recovery.measuring import observed_session
from workers.quantization.recovery.range_tuning import range_tuning
from workers.quantization.sensitivity.analysis import analyse
from workers.steps.numerics import note_of

Ending = tuple[list[NodeProto], list[ValueInfoProto]]


def cast(kind: int, name: str = "y") -> Ending:
    return [helper.make_node("Cast", ["c2"], [name], name=name, to=kind)], [models.value(name, None, kind)]


ENDINGS: dict[str, Ending] = {
    "float16": cast(TensorProto.FLOAT16),
    "float64": cast(TensorProto.DOUBLE),
    "class": (
        [helper.make_node("ArgMax", ["c2"], ["y"], name="y", axis=1)],
        [models.value("y", None, TensorProto.INT64)],
    ),
    "class, a while later": (
        [
            helper.make_node("ArgMax", ["c2"], ["class"], name="class", axis=1, keepdims=0),
            helper.make_node("Shape", ["r"], ["size"], name="size"),
            helper.make_node("Slice", ["size", "zero", "one"], ["batch"], name="batch"),
            helper.make_node("Concat", ["batch", "rest"], ["flat"], name="flat", axis=0),
            helper.make_node("Reshape", ["class", "flat"], ["y"], name="y"),
        ],
        [models.value("y", None, TensorProto.INT64)],
    ),
    "class by a branch": (
        [
            helper.make_node(
                "If",
                ["yes"],
                ["y"],
                name="y",
                then_branch=helper.make_graph(
                    [helper.make_node("ArgMax", ["c2"], ["highest"], axis=1)],
                    "then",
                    [],
                    [models.value("highest", None, TensorProto.INT64)],
                ),
                else_branch=helper.make_graph(
                    [helper.make_node("ArgMin", ["c2"], ["lowest"], axis=1)],
                    "else",
                    [],
                    [models.value("lowest", None, TensorProto.INT64)],
                ),
            )
        ],
        [models.value("y", None, TensorProto.INT64)],
    ),
}


def two_convolutions(ending: Ending) -> ModelProto:
    """x → c1 → r → c2, and what follows."""
    rng = np.random.default_rng(4)
    made: ModelProto = models.model(
        [
            helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="c1"),
            helper.make_node("Relu", ["c1"], ["r"], name="r"),
            helper.make_node("Conv", ["r", "w2"], ["c2"], name="c2"),
            *ending[0],
        ],
        [models.value("x", [1, 4, 8, 8])],
        ending[1],
        [
            models.tensor("w1", rng.standard_normal((6, 4, 3, 3)) / 6),
            models.tensor("b1", rng.standard_normal(6)),
            models.tensor("w2", rng.standard_normal((4, 6, 3, 3)) / 7),
            models.tensor("yes", True, np.bool_),
            models.tensor("zero", [0], np.int64),
            models.tensor("one", [1], np.int64),
            models.tensor("rest", [-1], np.int64),
        ],
    )
    return made


def pictures(count: int = 8) -> list[Feeds]:
    return [{"x": np.random.default_rng(row).standard_normal((1, 4, 8, 8)).astype(np.float32)} for row in range(count)]


PLAIN: Ending = ([helper.make_node("Identity", ["c2"], ["y"], name="y")], [models.value("y", None)])


WITH_CLASS: Ending = (
    [*PLAIN[0], helper.make_node("ArgMax", ["c2"], ["class"], name="class", axis=1)],
    [*PLAIN[1], models.value("class", None, TensorProto.INT64)],
)


@pytest.mark.parametrize("name", [name for name in ENDINGS if name != "class by a branch"])
def test_they_are_judged_as_if_they_put_out_what_they_are_made_of(tmp_path: Path, name: str) -> None:
    rows = pictures()
    (tmp_path / "plain").mkdir()
    plan, material = planned(two_convolutions(ENDINGS[name]), rows, tmp_path)
    plain, same = planned(two_convolutions(PLAIN), rows, tmp_path / "plain")
    found, wanted = judge_for(plan, material).fidelity(plan), judge_for(plain, same).fidelity(plain)
    # Half precision rounds what both put out.
    assert found.output_db == pytest.approx(wanted.output_db, abs=0.1)
    assert 20 < found.output_db < 60

    found, wanted = analyse(plan, rows, tmp_path), analyse(plain, rows, tmp_path / "plain")
    assert found.total.sqnr_db == pytest.approx(wanted.total.sqnr_db, abs=0.1)
    alone, other = ({layer.node: layer.alone.sqnr_db for layer in each.layers} for each in (found, wanted))
    assert alone == pytest.approx(other, abs=0.1)
    assert found.floor_db > 60


def test_what_a_branch_takes_from_outside_is_what_it_finds_there(tmp_path: Path) -> None:
    rows = pictures()
    plan, material = planned(two_convolutions(ENDINGS["class by a branch"]), rows, tmp_path)
    sessions = [
        observed_session(model, ["c2"], tmp_path / "c2.onnx", threads=1) for model in (plan.model, insert(plan).model)
    ]
    exact, rounded = ([session.run(row) for row in rows] for session in sessions)

    expected = -10 * np.log10(relative(rounded, exact))

    assert judge_for(plan, material).fidelity(plan).output_db == pytest.approx(expected, abs=1e-3)
    assert analyse(plan, rows, tmp_path).total.sqnr_db == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("recipe", [StaticInt8(sensitivity=True), StaticInt16()], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("name", ENDINGS)
def test_static_recipes_choose_steps_for_them(make: Maker, name: str, recipe: Any) -> None:
    made = make(two_convolutions(ENDINGS[name]), recipe, feeds=pictures())

    tried = [rung for rung in made.produced.recovery if rung.after_db is not None]
    assert tried
    assert all(20 < rung.before_db < 150 for rung in tried)
    assert not recipe.sensitivity or made.produced.sensitivity is not None


def test_layers_are_chosen_by_sensitivity_where_a_class_is_put_out(make: Maker) -> None:
    recipe = Mixed(rest=StaticInt8(), by_sensitivity=BySensitivity(layers=1))

    made = make(two_convolutions(ENDINGS["class"]), recipe, feeds=pictures())

    assert any(note.startswith("Found by sensitivity") for note in made.produced.notes)


def test_a_half_precision_output_counts_beside_a_float32_one(tmp_path: Path) -> None:
    nodes, outputs = cast(TensorProto.FLOAT16)
    beside = helper.make_node("ReduceMean", ["x"], ["untouched"], name="untouched")
    ending = ([*nodes, beside], [*outputs, models.value("untouched", None)])
    rows = pictures()
    plan, material = planned(two_convolutions(ending), rows, tmp_path)

    found = judge_for(plan, material).fidelity(plan)

    own = [[row[0]] for row in run_plan(plan, rows, tmp_path)], [[row[0]] for row in run_float(plan, rows, tmp_path)]
    main_db = -10 * np.log10(relative(*own))
    assert found.outputs_db["untouched"] == 200
    assert main_db < 40
    assert found.output_db == pytest.approx((main_db + 40) / 2, abs=0.01)


def test_where_floats_are_put_out_indices_are_no_matter(tmp_path: Path) -> None:
    plan, _ = planned(two_convolutions(WITH_CLASS), pictures(), tmp_path)

    assert judged_tensors(plan.model) == [Judged("y")]


def test_where_no_number_reaches_an_output_nothing_is_gained(make: Maker) -> None:
    size = [helper.make_node("Shape", ["c2"], ["y"], name="y")], [models.value("y", None, TensorProto.INT64)]

    made = make(two_convolutions(size), StaticInt8(sensitivity=True), feeds=pictures())

    assert made.produced.recovery
    assert not any(rung.kept for rung in made.produced.recovery)
    assert made.produced.sensitivity is None
    assert any("No output hangs on floating numbers" in note for note in made.produced.notes)


def labelled(ending: str) -> Ending:
    """Text for the highest channel, alone or as a sequence."""
    text = helper.make_node(
        "LabelEncoder", ["class"], ["text"], name="text", domain="ai.onnx.ml", keys_int64s=[0, 1, 2, 3],
        values_strings=["a", "b", "c", "d"],
    )  # fmt: skip
    highest = helper.make_node("ArgMax", ["c2"], ["class"], name="class", axis=1, keepdims=0)
    if ending == "text":
        return [highest, text], [models.value("text", None, TensorProto.STRING)]
    sequence = helper.make_node("SequenceConstruct", ["class"], ["all"], name="all")
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.INT64, None))
    return [highest, sequence], [helper.make_value_info("all", kind)]


def with_ml(ending: Ending) -> ModelProto:
    made = two_convolutions(ending)
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return made


def predicted(make: Maker, model: ModelProto, folder: Path) -> Prediction:
    path = models.save(model, folder / "float.onnx")
    recipe = StaticInt8(recovery=(), reduce_range=False)
    # The largest weights and inputs saturate.
    rows = [{"x": np.sign(row["x"]) * 3} for row in pictures(2)]
    made = make(model, recipe, feeds=rows)
    return predict(made.produced.file, path, rows, session_options=made.produced.session_options)


@pytest.mark.parametrize("ending", ["text", "sequence"])
def test_text_and_sequences_are_not_compared_by_emulation(make: Maker, tmp_path: Path, ending: str) -> None:
    found = predicted(make, with_ml(labelled(ending)), tmp_path)

    assert found.outputs == ()
    assert {layer.name for layer in found.layers} >= {"c1", "c2"}
    assert any(layer.saturated for layer in found.layers)
    assert "none of them is of a floating type" in note_of(found)


def test_labels_have_no_noise(make: Maker, tmp_path: Path) -> None:
    found = predicted(make, two_convolutions(WITH_CLASS), tmp_path)

    assert [output.name for output in found.outputs] == ["y"]
    assert "of 'y' is" in note_of(found)


@pytest.mark.parametrize("step", [range_tuning, learned_rounding])
@pytest.mark.parametrize("kind", ["indices", "indices alone", "no numbers", "an index as a float"])
def test_what_is_trained_is_fitted_to_floats_alone(tmp_path: Path, kind: str, step: Step) -> None:
    pytest.importorskip("torch")
    empty = helper.make_node("Slice", ["c2", "zero", "zero", "one"], ["none"], name="none")
    highest = helper.make_node("Cast", ["class"], ["y"], name="y", to=TensorProto.FLOAT)
    ending = {
        "indices": WITH_CLASS,
        "indices alone": ENDINGS["class"],
        "no numbers": ([*PLAIN[0], empty], [*PLAIN[1], models.value("none", None)]),
        "an index as a float": ([WITH_CLASS[0][1], highest], [models.value("y", None)]),
    }[kind]
    rows = pictures()
    plan, material = planned(two_convolutions(ending), rows, tmp_path, bits=4)

    fitted = step(plan, material)

    judge = judge_for(plan, material)  # of the original: what is fitted may have moved biases
    before, after = (judge.fidelity(each).output_db for each in (plan, fitted))
    assert after >= before - 1
    if kind in ("indices", "no numbers"):
        plain, same = planned(two_convolutions(PLAIN), rows, tmp_path, bits=4)
        expected = step(plain, same)
        # As if the other output were not there.
        assert fitted.integers.keys() == expected.integers.keys()
        assert all(np.array_equal(fitted.integers[place], expected.integers[place]) for place in expected.integers)
        assert all(fitted.activations[name] == expected.activations[name] for name in ("x", "r", "c2"))


def pooled(*, indices: str) -> ModelProto:
    """Two convolutions with a pooling between them, whose indices are read by nobody, unpooled by, or put out."""
    ending, outputs = [], []
    if indices == "unpooled by":
        ending = [helper.make_node("MaxUnpool", ["c2", "places"], ["y"], name="y", kernel_shape=[2, 2], strides=[2, 2])]
    else:
        ending = [helper.make_node("Identity", ["c2"], ["y"], name="y")]
    if indices == "put out":
        outputs = [models.value("places", None, TensorProto.INT64)]
    rng = np.random.default_rng(4)
    made: ModelProto = models.model(
        [
            helper.make_node("Conv", ["x", "w1"], ["c1"], name="c1", pads=[1] * 4),
            helper.make_node("MaxPool", ["c1"], ["p", "places"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["p", "w2"], ["c2"], name="c2", pads=[1] * 4),
            *ending,
        ],
        [models.value("x", [1, 4, 8, 8])],
        [models.value("y", None), *outputs],
        [
            models.tensor("w1", rng.standard_normal((6, 4, 3, 3)) / 6),
            models.tensor("w2", rng.standard_normal((6, 6, 3, 3)) / 7),
        ],
    )
    return made


# Seven bits, so that no processor saturates.
@pytest.mark.parametrize("recipe", [StaticInt8(reduce_range=True), StaticInt16()], ids=["7 bits", "16 bits"])
@pytest.mark.parametrize("indices", ["read by nobody", "unpooled by", "put out"])
def test_a_pooling_whose_indices_are_wanted_stays_in_float(make: Maker, indices: str, recipe: Any) -> None:
    made = make(pooled(indices=indices), recipe, feeds=pictures())

    quantized = {node.input[0] for node in made.proto.graph.node if node.op_type == "QuantizeLinear"}
    assert not any("places" in name for name in quantized)
    # The second convolution reads integers all the same.
    nodes = {name: node for node in made.proto.graph.node for name in node.output}
    (second,) = (node for node in made.proto.graph.node if node.name == "c2")
    assert nodes[second.input[0]].op_type == "DequantizeLinear"
    results = [[row[0] for row in rows] for rows in (made.artifact, made.original)]
    if indices != "unpooled by":  # where two neighbours round to the same, another place may be taken
        assert relative([results[0]], [results[1]]) < 2e-3
