"""Does a dataset fit a model? Every misfit has its code, and all are told at once."""

import pytest

from app.domain.fit import fit
from app.domain.metric import MetricChoice
from app.domain.model import Dimension, TensorSpec


def spec(name: str, shape: tuple[Dimension, ...] | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


IMAGE = spec("image", ("batch", 3, 224, 224))
LOGITS = spec("logits", ("batch", 1000))
LABELS = spec("labels", (), "int64")
ROWS = spec("image", (3, 224, 224))


TOP1 = MetricChoice(name="top1")


def codes(*arguments: object, **options: object) -> list[str]:
    inputs, fields, label_range, outputs = arguments
    ranges = {"labels": label_range} if label_range else {}
    return [problem.code for problem in fit(inputs, fields, ranges, outputs, **options).problems]  # type: ignore[arg-type]


def test_a_dataset_that_fits() -> None:
    found = fit([IMAGE], [ROWS, LABELS], {"labels": (0, 999)}, [LOGITS], needs_labels=True)
    assert (found.problems, found.notes) == ((), ())


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        (("batch", 3, 224, 224), (3, 224, 224)),
        ((None, 3, 224, 224), (3, 224, 224)),
        ((1, 3, 224, 224), (3, 224, 224)),
        (("batch", 3, "height", None), (3, 17, 9000)),
        (("batch",), ()),
        ((1,), ()),
        (None, (5, 6)),
    ],
)
def test_dynamic_axes_fit_anything(model: tuple[Dimension, ...] | None, rows: tuple[int, ...]) -> None:
    assert codes([spec("x", model)], [spec("x", rows)], None, [LOGITS]) == []


@pytest.mark.parametrize(
    ("model", "rows", "words"),
    [
        (("batch", 3, 224, 224), (224, 224, 3), "transpose"),
        (("batch", 3, 224, 224), (1, 3, 224, 224), "one axis too many"),
        ((1, 3, 224, 224), (1, 3, 224, 224), "one axis too many"),
        (("batch", 3, 224, 224), (3, 225, 224), "[3, 225, 224]; the model takes [3, 224, 224]"),
        (("batch", 3, "height", 224), (3, 224), "[rows, 3, any, 224]"),
        (("batch", 1), (), "[rows, 1]"),
        ((8, 3, 224, 224), (3, 224, 224), "fixed at 8"),
        ((), (), "batch axis"),
    ],
)
def test_shapes_that_do_not_fit(model: tuple[Dimension, ...], rows: tuple[int, ...], words: str) -> None:
    (problem,) = fit([spec("x", model)], [spec("x", rows)], {}, [LOGITS], pointer="/datasets/calibration").problems
    assert problem.code == "dataset_shape_mismatch"
    assert problem.pointer == "/datasets/calibration"
    assert words in problem.detail


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([spec("imgae", (3, 224, 224)), spec("id", ())], "Did you mean 'imgae'? Rename it to 'image'"),
        ([spec("x", (3, 224, 224)), LABELS], "Did you mean 'x'?"),
        ([LABELS], "Add it"),
        ([spec("one", ()), spec("two", ())], "Add it"),
    ],
)
def test_an_input_that_is_missing(fields: list[TensorSpec], words: str) -> None:
    (problem,) = fit([IMAGE], fields, {}, [LOGITS]).problems
    assert problem.code == "dataset_input_missing"
    assert "'image'" in problem.detail
    assert words in problem.detail


def test_another_dtype() -> None:
    (problem,) = fit([IMAGE], [spec("image", (3, 224, 224), "float64")], {}, [LOGITS]).problems
    assert problem.code == "dataset_dtype_mismatch"
    assert ".astype('float32')" in problem.detail


def test_text_cannot_be_brought() -> None:
    (problem,) = fit([spec("words", ("n",), "string")], [spec("words", (), "int64")], {}, [LOGITS]).problems
    assert "cannot hold text" in problem.detail


def test_labels_that_are_missing() -> None:
    assert codes([IMAGE], [ROWS], None, [LOGITS]) == []
    assert codes([IMAGE], [ROWS], None, [LOGITS], needs_labels=True) == ["dataset_labels_missing"]


@pytest.mark.parametrize(
    ("label_range", "words"), [((1, 1000), "subtract 1"), ((-1, 5), "-1 to 5"), ((0, 1000), "1000 classes, 0 to 999")]
)
def test_labels_out_of_range(label_range: tuple[int, int], words: str) -> None:
    (problem,) = fit([IMAGE], [ROWS, LABELS], {"labels": label_range}, [LOGITS]).problems
    assert problem.code == "labels_out_of_range"
    assert words in problem.detail


@pytest.mark.parametrize(
    ("output", "labels", "label_range"),
    [
        (spec("score", ("batch", 1)), LABELS, (0, 5000)),
        (spec("logits", ("batch", "classes")), LABELS, (0, 5000)),
        (spec("logits", None), LABELS, (0, 5000)),
        (spec("logits", ("batch", 10)), spec("labels", (), "float32"), None),
        (spec("mask", ("batch", 21, 64, 64)), spec("labels", (64, 64), "int64"), (0, 99)),
        (spec("logits", ("batch", 10)), spec("labels", (4,), "int64"), (0, 99)),
        (spec("value", ("batch",)), LABELS, (0, 5000)),
    ],
)
def test_labels_that_no_output_says_the_range_of(
    output: TensorSpec, labels: TensorSpec, label_range: tuple[int, int] | None
) -> None:
    assert codes([IMAGE], [ROWS, labels], label_range, [output]) == []


@pytest.mark.parametrize(("shape", "labels"), [(("n", 10), ()), (("n", 10), (1,)), (("n", "s", 10), (7,))])
def test_labels_for_every_vector_of_classes(shape: tuple[Dimension, ...], labels: tuple[int, ...]) -> None:
    fields = [ROWS, spec("labels", labels, "int64")]
    assert codes([IMAGE], fields, (0, 9), [spec("y", shape)]) == []
    assert codes([IMAGE], fields, (0, 10), [spec("y", shape)]) == ["labels_out_of_range"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_that_are_no_whole_numbers(dtype: str) -> None:
    """Compared with, they would be right in no row; where nothing asks for them, that is worth knowing."""
    fields = [ROWS, spec("labels", (), dtype)]
    found = fit([IMAGE], fields, {}, [LOGITS], metrics=[TOP1], needs_labels=True, pointer="/datasets/evaluation")
    assert [(problem.pointer, problem.code) for problem in found.problems] == [
        ("/datasets/evaluation", "dataset_labels_not_integers")
    ]
    assert dtype in found.problems[0].detail
    unasked = fit([IMAGE], fields, {}, [LOGITS])
    assert unasked.problems == ()
    assert [note for note in unasked.notes if dtype in note and "whole numbers" in note] == list(unasked.notes)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int64"])
def test_whole_numbers_are_labels(dtype: str) -> None:
    assert codes([IMAGE], [ROWS, spec("labels", (), dtype)], None, [LOGITS], metrics=[TOP1], needs_labels=True) == []


def test_labels_are_compared_with_the_output_that_a_metric_names() -> None:
    outputs = [LOGITS, spec("species", ("batch", 3))]
    fields = [ROWS, LABELS]
    named = MetricChoice(name="top1", output="species")
    assert codes([IMAGE], fields, (0, 999), outputs, metrics=[TOP1]) == []
    assert codes([IMAGE], fields, (0, 999), outputs, metrics=[named]) == ["labels_out_of_range"]
    assert codes([IMAGE], fields, (0, 2), list(reversed(outputs)), metrics=[TOP1, named]) == []
    both = fit([IMAGE], fields, {"labels": (0, 999)}, outputs, metrics=[TOP1, named])
    assert ["'species' has 3 classes" in problem.detail for problem in both.problems] == [True]


def test_labels_are_compared_with_the_first_output_of_floats() -> None:
    assert codes([IMAGE], [ROWS, LABELS], (0, 999), [spec("ids", ("batch", 2), "int64"), LOGITS]) == []


def test_labels_of_another_name() -> None:
    named = MetricChoice(name="top1", output="species", labels="kind")
    outputs = [LOGITS, spec("species", ("batch", 3))]
    fields = [ROWS, spec("kind", (), "int64"), spec("id", ())]
    fine = fit([IMAGE], fields, {"kind": (0, 2)}, outputs, metrics=[named], needs_labels=True)
    assert (fine.problems, fine.notes) == ((), ("Not inputs of the model, so not used: id.",))
    beyond = fit([IMAGE], fields, {"kind": (0, 3)}, outputs, metrics=[named], needs_labels=True)
    assert [problem.code for problem in beyond.problems] == ["labels_out_of_range"]
    missing = fit([IMAGE], [ROWS, LABELS], {}, outputs, metrics=[named], needs_labels=True)
    assert [problem.code for problem in missing.problems] == ["dataset_labels_missing"]
    assert "'kind'" in missing.problems[0].detail


def test_labels_that_are_an_input_of_the_model() -> None:
    inputs = [IMAGE, spec("labels", ("batch",), "int64")]
    assert codes(inputs, [ROWS, LABELS], (0, 5000), [LOGITS]) == []
    assert codes(inputs, [ROWS, LABELS], (0, 5000), [LOGITS], needs_labels=True) == ["dataset_labels_missing"]


def test_extra_arrays_are_noted_and_not_refused() -> None:
    found = fit([IMAGE], [ROWS, spec("id", ()), spec("weight", ())], {}, [LOGITS])
    assert found.problems == ()
    assert found.notes == ("Not inputs of the model, so not used: id, weight.",)


def test_everything_is_told_at_once() -> None:
    inputs = [spec("a", ("n", 2)), spec("b", ("n", 2)), spec("c", ("n", 2))]
    fields = [spec("a", (3,), "float64"), spec("b", (2,), "int8"), LABELS]
    assert codes(inputs, fields, (0, 7), [spec("y", ("n", 5))]) == [
        "dataset_dtype_mismatch",
        "dataset_shape_mismatch",
        "dataset_dtype_mismatch",
        "dataset_input_missing",
        "labels_out_of_range",
    ]


FLOATS = spec("labels", (), "float32")


@pytest.mark.parametrize(
    ("metric", "labels", "expected"),
    [
        ("mae", FLOATS, []),
        ("spearman", FLOATS, []),
        ("mae", LABELS, []),
        ("f1", FLOATS, ["dataset_labels_not_integers"]),
        ("perplexity", FLOATS, ["dataset_labels_not_integers"]),
        ("retrieval_recall", FLOATS, ["dataset_labels_not_integers"]),
        ("f1", LABELS, ["labels_out_of_range"]),
        ("token_accuracy", LABELS, []),  # it has labels that are ignored, and says itself which are not there
        ("retrieval_recall", LABELS, []),
        ("coco_map", spec("labels", (7, 5)), []),
    ],
)
def test_each_metric_takes_labels_of_its_kind(metric: str, labels: TensorSpec, expected: list[str]) -> None:
    choice = MetricChoice(name=metric)
    found = codes([IMAGE], [ROWS, labels], (-100, 5000), [LOGITS], metrics=[choice], needs_labels=True)
    assert found == expected


@pytest.mark.parametrize("dtype", ["int64", "uint8", "<U12"])
@pytest.mark.parametrize("name", ["groups", "slices"])
def test_groups_and_slices_are_neither_inputs_nor_unused(name: str, dtype: str) -> None:
    found = fit([IMAGE], [ROWS, LABELS, spec(name, (), dtype)], {}, [LOGITS])
    assert (found.problems, found.notes) == ((), ())


@pytest.mark.parametrize(("shape", "dtype"), [((3,), "int64"), ((), "float32")])
def test_groups_are_one_number_or_text_a_row(shape: tuple[int, ...], dtype: str) -> None:
    assert codes([IMAGE], [ROWS, spec("groups", shape, dtype)], None, [LOGITS]) == ["dataset_groups_not_by_row"]


def test_an_input_may_be_called_groups() -> None:
    inputs = [IMAGE, spec("groups", ("batch", 3))]
    assert codes(inputs, [ROWS, spec("groups", (3,))], None, [LOGITS]) == []
