"""What a job's specification may say: every mistake of a request at once, each at its place."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.db.tables import Job, JobDataset
from app.domain.dataset import Split
from app.domain.job import JobSpec
from app.errors import Conflict, InvalidRequest, RejectedInput
from app.services.field_errors import _PATTERNS
from app.services.specification import Checked
from tests.parts.deployment import DATASET, MODEL, RECIPE, Deployment

NOBODY = "mdl_" + "0" * 26


def validate(deployment: Deployment, body: Any) -> Checked:
    return deployment.services.jobs.validate(body)


def wrong(deployment: Deployment, body: Any) -> list[tuple[str, str]]:
    """Pointer and code of every error; submitting says the same and creates nothing."""
    checked = validate(deployment, body)
    found = [(error.pointer, error.code) for error in checked.errors]
    before = deployment.count(Job)
    if found:
        with pytest.raises(InvalidRequest) as refused:
            deployment.services.jobs.submit(body, idempotency_key=None)
        assert [(error.pointer, error.code) for error in refused.value.errors] == found
        assert refused.value.code == found[0][1]
        for error in checked.errors:
            assert len(error.detail) > 10
            assert resolves(body, error.pointer), error
    assert (deployment.count(Job), deployment.count(JobDataset)) == (before, 0)
    return found


def resolves(body: Any, pointer: str) -> bool:
    """Whether a pointer leads to something in the body, or to where something is missing."""
    here = body
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for number, part in enumerate(parts):
        if isinstance(here, dict) and part in here:
            here = here[part]
        elif isinstance(here, list) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        elif number == len(parts) - 1 and isinstance(here, dict):
            return True
        else:
            # Within a part that was left out, as `datasets.calibration` of a body without `datasets`.
            return isinstance(here, dict) and part in JobSpec.model_fields
    return True


def test_a_good_one_is_given_back_with_every_default(deployment: Deployment) -> None:
    model, data = deployment.model(), deployment.dataset()
    checked = validate(deployment, {"model": model.id, "recipe": RECIPE, "datasets": {"evaluation": data.id}})
    assert checked.errors == []
    assert checked.spec is not None
    spec = checked.spec.model_dump(mode="json")
    assert spec["recipe"]["per_channel"] is True
    assert spec["limits"] == {"queue_seconds": 86_400, "run_seconds": 3_600}
    assert JobSpec.model_validate(spec) == checked.spec


MISTAKES: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({"recipe": {"technique": "dynamic_int8", "per_chanel": True}}, [("/recipe/per_chanel", "unknown_field")]),
    ({"recipe": {"technique": "float16", "float16": 1}}, [("/recipe/float16", "unknown_field")]),
    (
        {"recipe": {"technique": "static_int8", "activation_type": "int8", "weight_type": "uint8"}},
        [("/recipe/weight_type", "contradiction"), ("/datasets/calibration", "calibration_missing")],
    ),
    ({"float16": 1}, [("/float16", "unknown_field")]),
    ({"a/b~c": 1}, [("/a~1b~0c", "unknown_field")]),
    ({"recipe": {"technique": "int4"}}, [("/recipe/technique", "unknown_technique")]),
    ({"recipe": {}}, [("/recipe/technique", "technique_missing")]),
    ({"recipe": 5}, [("/recipe", "invalid_value")]),
    ({"recipe": None}, [("/recipe", "recipe_required")]),
    (
        {"recipe": {"technique": "dynamic_int8", "reduce_range": "maybe"}},
        [("/recipe/reduce_range", "invalid_value")],
    ),
    (
        {"recipe": {"technique": "float16", "keep_float": ["ok", 5, {"op": "Softmax"}]}},
        [
            ("/recipe/keep_float/1", "invalid_value"),
            ("/recipe/keep_float/2/op_type", "field_missing"),
            ("/recipe/keep_float/2/op", "unknown_field"),
        ],
    ),
    ({"recipe": {"technique": "static_int8"}}, [("/datasets/calibration", "calibration_missing")]),
    (
        {"recipe": {"technique": "mixed", "rest": {"technique": "static_int16"}}},
        [("/datasets/calibration", "calibration_missing")],
    ),
    ({"recipe": {"technique": "weight_only", "algorithm": "gptq"}}, [("/datasets/calibration", "calibration_missing")]),
    (
        {"recipe": {"technique": "mixed", "rest": {"technique": "weight_only", "algorithm": "awq"}}},
        [("/datasets/calibration", "calibration_missing")],
    ),
    ({"recipe": {"technique": "weight_only", "bits": 3}}, [("/recipe/bits", "bits_not_supported")]),
    (
        {
            "recipe": {
                "technique": "mixed",
                "parts": [
                    {"nodes": ["a"], "recipe": None},
                    {"nodes": ["b"], "recipe": {"technique": "weight_only", "bits": 3, "form": "qdq"}},
                ],
                "rest": {"technique": "static_int8"},
                "by_sensitivity": {"layers": 1, "recipe": {"technique": "weight_only", "bits": 3}},
            }
        },
        [
            ("/recipe/parts/1/recipe/bits", "bits_not_supported"),
            ("/recipe/by_sensitivity/recipe/bits", "bits_not_supported"),
            ("/datasets/calibration", "calibration_missing"),
        ],
    ),
    (
        {"recipe": {"technique": "mixed", "rest": {"technique": "weight_only", "bits": 3}}},
        [("/recipe/rest/bits", "bits_not_supported")],
    ),
    ({"recipe": {"technique": "mixed"}}, [("/recipe", "contradiction")]),
    (
        {"recipe": {"technique": "mixed", "parts": [{"nodes": [], "recipe": {"technique": "mixed"}}]}},
        [("/recipe/parts/0/nodes", "invalid_value"), ("/recipe/parts/0/recipe/technique", "unknown_technique")],
    ),
    (
        {"recipe": {"technique": "static_int8"}, "datasets": {"calibration": 5}},
        [("/datasets/calibration", "invalid_value")],
    ),
    ({"goal": {"minimize": "speed"}}, [("/goal/minimize", "not_allowed")]),
    (
        {"goal": {"minimize": {"latency": 0}}},
        [("/goal/minimize/latency", "invalid_value")],
    ),
    (
        {"goal": {"constraints": [{"metric": "artifact_bytes", "max_drop": 0.1, "min": 1}]}},
        [("/goal/constraints/0", "contradiction")],
    ),
    (
        {"goal": {"constraints": [{"metric": "size", "min": 2, "max": 1}]}},
        [("/goal/constraints/0", "contradiction")],
    ),
    ({"goal": {"constraints": [{"metric": "size"}]}}, [("/goal/constraints/0", "contradiction")]),
    (
        {"goal": {"constraints": [{"metric": "size", "min": 2}, {"metric": "artifact_bytes", "max": 1}]}},
        [("/goal/constraints/1", "contradiction")],
    ),
    ({"goal": {"constraints": [{"metric": "tpo1", "min": 1}]}}, [("/goal/constraints/0/metric", "unknown_metric")]),
    (
        {"goal": {"constraints": [{"metric": "size", "max": float("inf")}]}},
        [("/goal/constraints/0/max", "invalid_value")],
    ),
    (
        {"goal": {"constraints": [{"metric": "size", "max": float("nan")}]}},
        [("/goal/constraints/0/max", "invalid_value")],
    ),
    ({"metrics": ["top1"]}, [("/metrics/0", "dataset_labels_missing")]),
    ({"metrics": ["agreement", "topl"]}, [("/metrics/1", "unknown_metric")]),
    ({"measure": {"threads": 0}}, [("/measure/threads", "invalid_value")]),
    ({"measure": {"threads": [0]}}, [("/measure/threads/0", "invalid_value")]),
    ({"measure": {"threads": []}}, [("/measure/threads", "invalid_value")]),
    ({"measure": {"shapes": {"X": [1, 4]}}}, [("/measure/shapes/X", "shapes_do_not_fit")]),
    ({"measure": {"shapes": {"x": [1, 5]}}}, [("/measure/shapes/x", "shapes_do_not_fit")]),
    ({"measure": {"shapes": {"x": [4]}}}, [("/measure/shapes/x", "shapes_do_not_fit")]),
    ({"measure": {"shapes": {"x": [1, 0]}}}, [("/measure/shapes/x/1", "invalid_value")]),
    (
        {
            "goal": {
                "constraints": [
                    {"metric": "top2", "max_drop": 0.1, "max": 3},
                    {"metric": "nope", "min": 1},
                    {"metric": 5, "min": 1},
                    {"metric": "size", "min": 2},
                    {"metric": "artifact_bytes", "max": 1},
                ]
            },
            "metrics": ["topl", 5, "agreement", "kll"],
        },
        [
            ("/goal/constraints/0", "contradiction"),
            ("/goal/constraints/2/metric", "invalid_value"),
            ("/metrics/1", "invalid_value"),
            ("/metrics/0", "unknown_metric"),
            ("/metrics/3", "unknown_metric"),
            ("/goal/constraints/1/metric", "unknown_metric"),
            ("/goal/constraints/4", "contradiction"),
        ],
    ),
    (
        {"goal": {"constraints": [{"min": 1}, {"metric": "nope", "min": 1}], "confidence": 2}},
        [
            ("/goal/constraints/0/metric", "field_missing"),
            ("/goal/confidence", "invalid_value"),
            ("/goal/constraints/1/metric", "unknown_metric"),
        ],
    ),
    ({"labels": {"a/b": 5}}, [("/labels/a~1b", "invalid_value")]),
    ({"labels": {"k" * 64: "v"}}, [("/labels/" + "k" * 64, "too_large")]),
    ({"model": "mdl_nonsense"}, [("/model", "invalid_value")]),
    ({"model": NOBODY}, [("/model", "model_not_found")]),
    ({"model": 5}, [("/model", "invalid_value")]),
    ({"datasets": {"evaluation": "dst_" + "0" * 26}}, [("/datasets/evaluation", "dataset_not_found")]),
    (
        {"datasets": {"testing": "dst_" + "0" * 26}},
        [("/datasets/testing", "unknown_field")],
    ),
    ({"datasets": {"a/\0": "\0"}}, [("/datasets/a~1\0", "unknown_field")]),
    ({"target": "local", "if_no_worker": "refuse"}, [("/target", "no_worker")]),
    ({"kind": "evaluate"}, [("/recipe", "recipe_not_used")]),
    ({"kind": 5}, [("/kind", "not_allowed")]),
    ({"measure": {"threads": [1, 2, 3, 4, 5], "batch": [1, 2, 3, 4]}}, [("/measure", "too_large")]),
    ({"metrics": [{"name": "topl"}]}, [("/metrics/0/name", "unknown_metric")]),
    ({"metrics": ["kl", {"name": "kl", "output": "z"}]}, [("/metrics/1/output", "output_unknown")]),
    ({"metrics": [{"name": "kl", "labels": "kind"}]}, [("/metrics/0/labels", "labels_not_used")]),
    ({"metrics": [{"name": "top1", "labels": "kind"}]}, [("/metrics/0/labels", "dataset_labels_missing")]),
    ({"metrics": [{"name": "kl", "options": {"k": 5}}]}, [("/metrics/0/options/k", "unknown_field")]),
    ({"metrics": ["kl", {"name": "ece", "options": {"bins": 0}}]}, [("/metrics/1/options/bins", "invalid_value")]),
    ({"metrics": [{"name": "f1", "options": {"average": "mean"}}]}, [("/metrics/0/options/average", "not_allowed")]),
    ({"metrics": [{"name": "wer"}]}, [("/metrics/0/options", "metric_options_missing")]),
    ({"metrics": ["wer"]}, [("/metrics/0", "metric_options_missing")]),
    ({"metrics": [{"name": "wer", "options": {"ignore": 1}}]}, [("/metrics/0/options/separator", "field_missing")]),
    (
        {"metrics": [{"name": "pearson", "options": {"against": "z"}}]},
        [("/metrics/0/options/against", "output_unknown")],
    ),
    (
        {"goal": {"constraints": [{"metric": "wer", "max_drop": 0.1}]}},
        [("/goal/constraints/0/metric", "metric_options_missing")],
    ),
    ({"metrics": [{"name": "kl", "outptu": "y"}]}, [("/metrics/0/outptu", "unknown_field")]),
    ({"metrics": [5]}, [("/metrics/0", "invalid_value")]),
]


def test_one_mistake_is_one_error_at_its_place(deployment: Deployment) -> None:
    good = {"model": deployment.model().id, "recipe": RECIPE}
    for change, expected in MISTAKES:
        assert wrong(deployment, good | change) == expected, change


def test_a_specification_is_an_object_with_a_model_and_a_recipe(deployment: Deployment) -> None:
    for body in (None, [], "text", 5, True):
        assert wrong(deployment, body) == [("", "invalid_json")]
    assert wrong(deployment, {}) == [("/recipe", "recipe_required"), ("/model", "field_missing")]


def test_all_mistakes_come_at_once(deployment: Deployment) -> None:
    """Those of form and those that only a look at what is there finds."""
    model = deployment.model()
    narrow = deployment.dataset(inspection={**DATASET, "fields": [{"name": "x", "dtype": "float64", "shape": [5]}]})
    body = {
        "model": model.id,
        "recipe": {"technique": "static_int8", "per_chanel": True},
        "datasets": {"evaluation": narrow.id, "tuning": "dst_nonsense"},
        "goal": {"constraints": [{"metric": "size", "min": 2}, {"metric": "size", "max": 1}]},
        "metrics": ["top1", "nonsense"],
        "measure": {"threads": []},
        "colour": "blue",
    }
    assert set(wrong(deployment, body)) == {
        ("/recipe/per_chanel", "unknown_field"),
        ("/datasets/tuning", "invalid_value"),
        ("/datasets/calibration", "calibration_missing"),
        ("/datasets/evaluation", "dataset_dtype_mismatch"),
        ("/datasets/evaluation", "dataset_shape_mismatch"),
        ("/goal/constraints/1", "contradiction"),
        ("/metrics/0", "dataset_labels_missing"),
        ("/metrics/1", "unknown_metric"),
        ("/measure/threads", "invalid_value"),
        ("/colour", "unknown_field"),
    }


@pytest.mark.parametrize("algorithm", ["rtn", "mse", "hqq", "gptq", "awq"])
def test_weights_are_fitted_to_rows_only_where_the_algorithm_asks_for_them(
    deployment: Deployment, algorithm: str
) -> None:
    model, rows, held_out = deployment.model(), deployment.dataset(), deployment.dataset()
    recipe = {"technique": "weight_only", "algorithm": algorithm}
    body = {"model": model.id, "recipe": recipe, "datasets": {"evaluation": held_out.id}}

    without = wrong(deployment, body)

    assert without == [("/datasets/calibration", "calibration_missing")] * (algorithm in ("gptq", "awq"))
    if without:
        (error,) = validate(deployment, body).errors
        assert algorithm in error.detail
        assert "mse" in error.detail
    assert wrong(deployment, {**body, "datasets": {"evaluation": held_out.id, "calibration": rows.id}}) == []


def test_missing_labels_are_said_once_where_they_are_asked_for(deployment: Deployment) -> None:
    bare = deployment.dataset(inspection={**DATASET, "fields": DATASET["fields"][:1]})
    body = {
        "model": deployment.model().id,
        "recipe": RECIPE,
        "datasets": {"evaluation": bare.id},
        "goal": {"constraints": [{"metric": "top1", "max_drop": 0.01}]},
    }
    assert wrong(deployment, body) == [("/goal/constraints/0/metric", "dataset_labels_missing")]


def test_a_quantized_model_is_not_quantized_again(deployment: Deployment) -> None:
    model = deployment.model(inspection={**MODEL, "quantized": True})
    assert wrong(deployment, {"model": model.id, "recipe": RECIPE}) == [("/model", "already_quantized")]
    assert wrong(deployment, {"model": model.id, "metrics": ["nope"]}) == [
        ("/recipe", "recipe_required"),
        ("/model", "already_quantized"),
        ("/metrics/0", "unknown_metric"),
    ]
    for asked, expected in ((True, []), (False, [("/model", "already_quantized")])):
        assert wrong(deployment, {"model": model.id, "recipe": {**RECIPE, "requantize": asked}}) == expected


def test_shapes_are_those_of_the_model_s_inputs(deployment: Deployment) -> None:
    model = deployment.model(
        inspection={
            **MODEL,
            "inputs": [
                {"name": "image", "dtype": "float32", "shape": ["batch", 3, "height", None]},
                {"name": "mask", "dtype": "bool", "shape": None},
            ],
        }
    )
    body = {"model": model.id, "recipe": RECIPE}
    assert wrong(deployment, body | {"measure": {"shapes": {"image": [8, 3, 50, 60], "mask": [1]}}}) == []
    body |= {"measure": {"shapes": {"imgae": [1, 3, 50, 60], "image": [1, 4, 50, 60], "zzz": [1]}}}
    details = {error.pointer: error.detail for error in validate(deployment, body).errors}
    assert set(details) == {"/measure/shapes/imgae", "/measure/shapes/image", "/measure/shapes/zzz"}
    assert "Did you mean 'image'?" in details["/measure/shapes/imgae"]
    assert "[?, 3, height, ?]" in details["/measure/shapes/image"] or "[batch, 3," in details["/measure/shapes/image"]
    assert "'image', 'mask'" in details["/measure/shapes/zzz"]


SENTENCES: list[tuple[dict[str, Any], str]] = [
    (
        {"model": "lite0"},
        "This must be the id of an uploaded model, as POST /v1/models returned it, or of an artifact.",
    ),
    ({"datasets": {"tuning": "t"}}, "This must be the id of an uploaded dataset, as POST /v1/datasets returned it."),
    ({"goal": {"minimize": "speed"}}, "This must be 'latency', 'size' or 'memory', or an object."),
    ({"goal": {"minimize": {"speed": 1}}}, "This name must be 'latency', 'size' or 'memory'."),
    ({"measure": {"threads": [0]}}, "This must be a number of 1 or more."),
    ({"measure": {"threads": [1.5]}}, "This must be a whole number."),
    ({"measure": {"threads": []}}, "This must not be empty."),
    ({"measure": {"threads": [1] * 9}}, "This has too many entries: give at most 8."),
    ({"measure": {"threads": "1"}}, "This must be a list."),
    ({"measure": 1}, "This must be an object."),
    ({"priority": "high"}, "This must be a whole number."),
    ({"priority": 10}, "This must be a number of 9 or less."),
    ({"limits": {"queue_seconds": 0}}, "This must be a number above 0."),
    ({"limits": {"queue_seconds": 1e9}}, "This must be a number of 2592000 or less."),
    ({"limits": {"queue_seconds": "long"}}, "This must be a number."),
    ({"goal": {"confidence": 1}}, "This must be a number below 1."),
    ({"goal": {"confidence": float("nan")}}, "This must be a finite number."),
    ({"name": 5}, "This must be a text."),
    ({"name": "n" * 201}, "This is too long: give at most 200 characters."),
    ({"target": ""}, "This must not be empty."),
    ({"labels": {"k" * 64: ""}}, "This name is too long: give at most 63 characters."),
    ({"colour": "blue"}, "There is no option 'colour' here: leave it out."),
    ({"recipe": {"technique": "dynamic_int8", "per_channel": "y?"}}, "This must be true or false."),
    ({"recipe": {"technique": "dynamic_int8", "reduce_range": 7}}, "This must be true or false, or 'auto'."),
]


@pytest.mark.parametrize(("change", "sentence"), SENTENCES, ids=range(len(SENTENCES)))
def test_a_stranger_is_told_what_to_write(deployment: Deployment, change: dict[str, Any], sentence: str) -> None:
    errors = validate(deployment, {"model": NOBODY, "recipe": {"technique": "float16"}} | change).errors
    assert [error.detail for error in errors if error.code != "model_not_found"] == [sentence]


def test_no_body_makes_more_errors_than_anybody_reads(deployment: Deployment) -> None:
    body = {"model": NOBODY, "recipe": {"technique": "float16", "keep_float": [5] * 5_000, "colour": 1}}
    errors = validate(deployment, body).errors
    assert len(errors) < 210
    assert any(error.code == "more_errors" and "more things are wrong" in error.detail for error in errors)


def test_every_pattern_has_a_sentence() -> None:
    patterns = set(re.findall(r'"pattern": "([^"]*)"', json.dumps(JobSpec.model_json_schema())))
    assert patterns
    assert patterns <= set(_PATTERNS)


def test_what_is_not_known_yet_is_not_called_wrong(deployment: Deployment) -> None:
    """An evaluation set that is still being inspected may well have labels."""
    model = deployment.model()
    data = deployment.services.datasets.record(deployment.receive(b"data"), "d.npz", None, {})
    body = {"model": model.id, "recipe": RECIPE, "datasets": {"evaluation": data.id}, "metrics": ["top1"]}
    assert wrong(deployment, body) == [("/datasets/evaluation", "dataset_not_ready")]
    body = {"model": model.id, "recipe": RECIPE, "datasets": {"evaluation": 5}, "metrics": ["top1"]}
    assert wrong(deployment, body) == [("/datasets/evaluation", "invalid_value")]


def test_what_is_not_ready_or_rejected_cannot_be_used(deployment: Deployment) -> None:
    services = deployment.services
    model = services.models.record(deployment.receive(b"model"), "m.onnx", None, {})
    body = {"model": model.id, "recipe": RECIPE}
    assert wrong(deployment, body) == [("/model", "model_not_ready")]
    upload = services.work.claim_upload("inspector")
    assert upload is not None
    services.work.end_upload(upload, error=RejectedInput("It is a cake.", code="not_onnx"))
    assert wrong(deployment, body) == [("/model", "model_rejected")]
    assert "It is a cake." in validate(deployment, body).errors[0].detail


def test_no_row_judges_what_it_helped_to_make(deployment: Deployment) -> None:
    model, data = deployment.model(), deployment.dataset()
    body = {"model": model.id, "recipe": RECIPE, "datasets": {"calibration": data.id, "evaluation": data.id}}
    assert wrong(deployment, body) == [("/datasets/evaluation", "datasets_overlap")]


@pytest.mark.parametrize(
    ("fields", "label_range", "codes"),
    [
        ([{"name": "y", "dtype": "float32", "shape": [4]}], None, {"dataset_input_missing"}),
        ([{"name": "x", "dtype": "int8", "shape": [4]}], None, {"dataset_dtype_mismatch"}),
        ([{"name": "x", "dtype": "float32", "shape": [4, 1]}], None, {"dataset_shape_mismatch"}),
        ([{"name": "x", "dtype": "int8", "shape": [3]}], None, {"dataset_dtype_mismatch", "dataset_shape_mismatch"}),
        (DATASET["fields"], [0, 3], {"labels_out_of_range"}),
        (DATASET["fields"], [-1, 2], {"labels_out_of_range"}),
        (DATASET["fields"], [0, 2], set()),
    ],
)
def test_a_dataset_must_fit_the_model(
    deployment: Deployment, fields: list[Any], label_range: list[int] | None, codes: set[str]
) -> None:
    data = deployment.dataset(inspection={**DATASET, "fields": fields, "label_range": label_range})
    body = {"model": deployment.model().id, "recipe": RECIPE, "datasets": {"tuning": data.id}}
    assert set(wrong(deployment, body)) == {("/datasets/tuning", code) for code in codes}


def test_conditions_that_are_not_what_they_seem_are_doubted(deployment: Deployment) -> None:
    deployment.services.targets.register("w1", "jobs.kiosk", "kiosk", {"features": [], "cores": 4}, {"strong": True})

    def doubts(**measure: Any) -> list[str]:
        body = {"kind": "evaluate", "model": deployment.model().id, "target": "kiosk", "measure": measure}
        checked = validate(deployment, body)
        assert checked.errors == []
        return [doubt for doubt in checked.doubts if "measure." in doubt]

    [doubt] = doubts(threads=[1, 8])
    assert "8 threads" in doubt
    assert "4 cores" in doubt
    assert doubts(threads=[4]) == []
    [doubt] = doubts(shapes={"x": [2, 4]})
    assert "2 rows" in doubt
    assert doubts(shapes={"x": [2, 4]}, batch=[1, 2]) == []


def test_a_job_that_only_measures_needs_no_recipe(deployment: Deployment) -> None:
    checked = validate(deployment, {"kind": "evaluate", "model": deployment.model().id})
    assert checked.errors == []
    assert checked.spec is not None
    assert "calibrate" not in checked.spec.stages


def test_an_unknown_kind_is_told_the_known_ones_and_of_no_recipe(deployment: Deployment) -> None:
    [found] = validate(deployment, {"kind": "compress", "model": deployment.model().id}).errors
    assert (found.pointer, found.code) == ("/kind", "not_allowed")
    assert "'optimize' or 'evaluate'" in found.detail


EVALUATE_MISTAKES: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({"recipe": RECIPE}, [("/recipe", "recipe_not_used")]),
    ({"metrics": ["sqnr_db"]}, [("/metrics/0", "nothing_to_compare")]),
    ({"metrics": [{"name": "kl"}]}, [("/metrics/0/name", "nothing_to_compare")]),
    (
        {
            "goal": {
                "constraints": [{"metric": "artifact_bytes", "max": 9}, {"metric": "artifact_bytes", "max_drop": 0}]
            }
        },
        [("/goal/constraints/1", "nothing_to_compare")],
    ),
    (
        {"goal": {"constraints": [{"metric": "cosine", "min": 0.9}]}},
        [("/goal/constraints/0/metric", "nothing_to_compare")],
    ),
    ({"measure": {"cases": {"long": {"x": [1, 5]}}}}, [("/measure/cases/long/x", "shapes_do_not_fit")]),
    ({"measure": {"cases": {"none": {"x": [0, 4]}}}}, [("/measure/cases/none/x", "invalid_value")]),
    ({"measure": {"cases": {"A b": {"x": [1, 4]}}}}, [("/measure/cases/A b", "invalid_value")]),
    ({"measure": {"load": {"callers": [0]}}}, [("/measure/load/callers/0", "invalid_value")]),
    ({"measure": {"load": {"rates": [-1]}}}, [("/measure/load/rates/0", "invalid_value")]),
    ({"measure": {"width": 0}}, [("/measure/width", "invalid_value")]),
    ({"model": "art_" + "0" * 26}, [("/model", "artifact_not_found")]),
]


@pytest.mark.parametrize(("change", "expected"), EVALUATE_MISTAKES, ids=range(len(EVALUATE_MISTAKES)))
def test_what_a_measuring_job_has_no_use_for_is_refused(
    deployment: Deployment, change: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert wrong(deployment, {"kind": "evaluate", "model": deployment.model().id} | change) == expected


def test_a_measuring_job_uses_evaluation_rows_alone(deployment: Deployment) -> None:
    body = {"kind": "evaluate", "model": deployment.model().id, "datasets": {"calibration": deployment.dataset().id}}
    assert wrong(deployment, body) == [("/datasets/calibration", "dataset_not_used")]


def test_metrics_are_echoed_as_they_were_asked_for(deployment: Deployment) -> None:
    metrics = ["kl", {"name": "top1", "output": "y"}, {"name": "kl", "output": "y"}]
    data = deployment.dataset()
    body = {"model": deployment.model().id, "recipe": RECIPE, "metrics": metrics, "datasets": {"evaluation": data.id}}
    checked = validate(deployment, body)
    assert checked.errors == []
    assert checked.spec is not None
    assert checked.spec.model_dump(mode="json")["metrics"] == [
        "kl",
        {"name": "top1", "output": "y", "labels": "labels", "options": {}},
        {"name": "kl", "output": "y", "labels": "labels", "options": {}},
    ]
    again = body | checked.spec.model_dump(mode="json")
    assert validate(deployment, again).spec == checked.spec


NOT_WHOLE = [*DATASET["fields"][:1], {"name": "labels", "dtype": "float32", "shape": []}]  # type: ignore[index]


@pytest.mark.parametrize(
    "asked", [{"metrics": ["top1"]}, {"goal": {"constraints": [{"metric": "top1", "max_drop": 0.1}]}}]
)
def test_labels_that_are_no_whole_numbers(deployment: Deployment, asked: dict[str, Any]) -> None:
    data = deployment.dataset(inspection={**DATASET, "fields": NOT_WHOLE, "label_range": None})
    body = {"model": deployment.model().id, "recipe": RECIPE, "datasets": {"evaluation": data.id}}
    assert wrong(deployment, body | asked) == [("/datasets/evaluation", "dataset_labels_not_integers")]
    checked = validate(deployment, body)
    assert checked.errors == []
    assert any("whole numbers" in doubt for doubt in checked.doubts)


def test_labels_that_are_an_input_are_no_labels(deployment: Deployment) -> None:
    inputs = [*MODEL["inputs"], {"name": "labels", "dtype": "int64", "shape": ["batch"]}]
    model = deployment.model(inspection={**MODEL, "inputs": inputs})
    body = {"model": model.id, "recipe": RECIPE, "datasets": {"evaluation": deployment.dataset().id}}
    assert wrong(deployment, {**body, "metrics": ["top1"]}) == [("/metrics/0", "dataset_labels_missing")]


@pytest.mark.parametrize("metric", ["top1", "agreement", "kl"])
@pytest.mark.parametrize(
    ("outputs", "sure"),
    [
        ([["batch", 1]], True),
        ([[]], True),
        ([["batch", 1], ["batch", 7, 1]], True),
        ([["batch", 1], ["batch", 3]], False),
        ([["batch"]], False),
        ([None], False),
    ],
)
def test_a_constraint_that_wants_classes_where_there_are_none(
    deployment: Deployment, metric: str, outputs: list[Any], sure: bool
) -> None:
    named = [{"name": f"y{place}", "dtype": "float32", "shape": shape} for place, shape in enumerate(outputs)]
    model = deployment.model(inspection={**MODEL, "outputs": named})
    body = {
        "model": model.id,
        "recipe": RECIPE,
        "datasets": {"evaluation": deployment.dataset().id},
        "goal": {"constraints": [{"metric": metric, "max_drop": 0.1}, {"metric": "sqnr_db", "min": 20}]},
    }
    expected = [("/goal/constraints/0/metric", "no_class_axis")] if sure else []
    assert wrong(deployment, body) == expected
    # What it is said to look at has none for sure.
    looking = {**body, "metrics": [{"name": metric, "output": "y0"}]}
    assert bool(wrong(deployment, looking)) == (outputs[0] in ([], ["batch", 1]))


def test_metrics_compare_outputs_of_floats(deployment: Deployment) -> None:
    outputs = [{"name": "ids", "dtype": "int64", "shape": ["batch", 3]}, *MODEL["outputs"]]
    model = deployment.model(inspection={**MODEL, "outputs": outputs})
    body = {"model": model.id, "recipe": RECIPE, "metrics": [{"name": "cosine", "output": "ids"}]}
    assert wrong(deployment, body) == [("/metrics/0/output", "output_not_float")]


def test_too_few_rows_are_said_beforehand(deployment: Deployment) -> None:
    """Before anything is run: what is usual is assumed, and said."""
    model, data = deployment.model(), deployment.dataset(inspection={**DATASET, "rows": 300})
    body = {"model": model.id, "recipe": RECIPE, "datasets": {"evaluation": data.id}}

    def doubts(**constraint: Any) -> list[str]:
        checked = validate(deployment, body | {"goal": {"constraints": [constraint]}})
        assert not checked.errors
        return [doubt for doubt in checked.doubts if "cannot show" in doubt]

    [doubt] = doubts(metric="top1", max_drop=0.005)
    assert doubt.startswith("300 rows cannot show 0.5 points of top1: about 4,9")
    assert "if 2 % of the rows come out differently" in doubt
    assert doubts(metric="top1", max_drop=0.05) == []
    assert len(doubts(metric="agreement", max_drop=0.005)) == 1
    assert doubts(metric="agreement", max_drop=0.02) == []
    assert doubts(metric="top1", min=0.5) == []
    assert doubts(metric="sqnr_db", max_drop=0.005) == []


def test_targets(deployment: Deployment) -> None:
    model = deployment.model()
    register = deployment.services.targets.register
    register("w1", "jobs.kiosk", "kiosk", {"features": ["avx2"]}, {"strong": True})
    body = {"model": model.id, "recipe": {"technique": "float16"}}
    assert wrong(deployment, {**body, "target": "kiosq"}) == [("/target", "target_unknown")]
    checked = validate(deployment, {**body, "target": "kiosk"})
    assert checked.errors == []
    assert any("half precision" in doubt for doubt in checked.doubts)
    register("w2", "jobs.server", "server", {"features": ["asimdhp"]}, {"strong": True})
    assert wrong(deployment, body) == [("/target", "target_ambiguous")]
    assert not any("half" in doubt for doubt in validate(deployment, {**body, "target": "server"}).doubts)


def test_options_are_suggested(deployment: Deployment) -> None:
    body = {
        "model": deployment.model().id,
        "recipe": {"technique": "static_int8", "calibration": {"metod": "minmax"}},
        "goal": {"budget": {"secconds": 5}},
    }
    details = {error.pointer: error.detail for error in validate(deployment, body).errors}
    assert "'method'" in details["/recipe/calibration/metod"]
    assert "'seconds'" in details["/goal/budget/secconds"]


def divided(deployment: Deployment, rows: int = 1_000, **more: Any) -> dict[str, Any]:
    """A good body with one dataset for all roles."""
    data = deployment.dataset(inspection={**DATASET, "rows": rows})
    return {"model": deployment.model().id, "recipe": RECIPE, "datasets": {"all": data.id}, **more}


def split_of(deployment: Deployment, body: Any) -> Any:
    checked = validate(deployment, body)
    assert checked.errors == []
    assert checked.spec is not None
    return checked.spec.model_dump(mode="json")["split"]


def test_one_dataset_may_be_there_for_all_roles(deployment: Deployment) -> None:
    body = divided(deployment, recipe={"technique": "static_int8"}, metrics=["top1"])
    assert split_of(deployment, body) == {"calibration": 0.2, "tuning": 0.2, "evaluation": 0.6}
    assert validate(deployment, body).doubts == validate(deployment, body | {"metrics": []}).doubts
    assert not any("held out" in doubt for doubt in validate(deployment, body).doubts)
    assert split_of(deployment, body | {"split": {"calibration": 0.1, "evaluation": 0.9}}) == {
        "calibration": 0.1, "tuning": 0.0, "evaluation": 0.9,
    }  # fmt: skip
    measured = {**body, "kind": "evaluate", "recipe": None}
    assert split_of(deployment, measured) == {"calibration": 0.0, "tuning": 0.0, "evaluation": 1.0}
    view, _ = deployment.services.jobs.submit(body, idempotency_key=None)
    assert view.job.spec["split"]["evaluation"] == 0.6
    assert deployment.claimed().datasets.keys() == {"all"}
    with pytest.raises(Conflict) as refused:
        deployment.services.datasets.delete(body["datasets"]["all"])
    assert refused.value.code == "dataset_in_use"


def test_what_is_wrong_with_a_split(deployment: Deployment) -> None:
    other = deployment.dataset().id
    good = divided(deployment)
    evaluated = {"kind": "evaluate", "recipe": None}
    static = {"recipe": {"technique": "static_int8"}}
    alone = good["datasets"]["all"]
    changes: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
        ({}, []),
        ({"datasets": {"all": alone, "evaluation": other}}, [("/datasets/all", "all_not_alone")]),
        ({"datasets": {"all": alone, "calibration": alone}}, [("/datasets/all", "all_not_alone")]),
        ({"datasets": {"all": alone, "training": other}, "split": {"evaluation": 1}},
         [("/datasets/all", "all_not_alone")]),
        ({"datasets": {"all": alone, "tuning": other}, **evaluated},
         [("/datasets/tuning", "dataset_not_used"), ("/datasets/all", "all_not_alone")]),
        ({"datasets": {"all": "dst_" + "0" * 26}, "metrics": ["top1"]}, [("/datasets/all", "dataset_not_found")]),
        ({"datasets": {"all": 5}, "metrics": ["top1"]}, [("/datasets/all", "invalid_value")]),
        ({"datasets": {"evaluation": other}, "split": {"evaluation": 1}}, [("/split", "split_not_used")]),
        ({"split": {"calibration": 0.5, "evaluation": 0.4}}, [("/split", "contradiction")]),
        ({"split": {}}, [("/split", "contradiction")]),
        ({"split": {"evaluation": 1.5}}, [("/split/evaluation", "invalid_value")]),
        ({"split": {"evaluation": 1, "test": 0}}, [("/split/test", "unknown_field")]),
        ({"split": {"evaluation": 1}, **static}, [("/split/calibration", "calibration_missing")]),
        ({"split": {"evaluation": 1}}, []),
        ({"split": {"calibration": 1}}, []),
        ({"split": {"calibration": 1}, **static}, []),
        ({"split": {"calibration": 1}, **static, "metrics": ["top1"]}, [("/metrics/0", "dataset_labels_missing")]),
        ({"split": {"calibration": 1}, **evaluated}, [("/split/evaluation", "evaluation_missing")]),
        ({"datasets": {"all": divided(deployment, 35)["datasets"]["all"]}}, [("/datasets/all", "split_too_small")]),
        ({"datasets": {"all": divided(deployment, 36)["datasets"]["all"]}}, []),
        ({"datasets": {"all": divided(deployment, 2)["datasets"]["all"]}, "split": {"evaluation": 1}}, []),
        ({"datasets": {"all": divided(deployment, 2)["datasets"]["all"]}, **evaluated}, []),
        ({"datasets": {"all": divided(deployment, 19)["datasets"]["all"]}, **evaluated,
          "split": {"tuning": 0.1, "evaluation": 0.9}}, [("/datasets/all", "split_too_small")]),
    ]  # fmt: skip
    for change, expected in changes:
        assert set(wrong(deployment, good | change)) == set(expected), change
    details = {error.code: error.detail for error in validate(deployment, good | changes[1][0]).errors}
    assert "leave evaluation out" in details["all_not_alone"]
    [error] = validate(deployment, good | {"split": {"calibration": 0.5, "evaluation": 0.4}}).errors
    assert "0.9 together, and must be 1" in error.detail


def test_what_is_doubtful_about_a_split(deployment: Deployment) -> None:
    def doubts(rows: int, **more: Any) -> list[str]:
        checked = validate(deployment, divided(deployment, rows, **more))
        assert checked.errors == []
        return [doubt for doubt in checked.doubts if "worker" not in doubt]

    assert doubts(1_000) == []
    [calibration, tuning] = doubts(60)
    assert calibration.startswith("About 12 of 60 rows would go to calibration, which needs 8")
    assert "tuning" in tuning
    assert "split_too_small" in tuning
    [held_out] = doubts(1_000, split={"calibration": 1})
    assert "nothing is held out" in held_out
    drop = {"constraints": [{"metric": "top1", "max_drop": 0.005}]}
    [few] = doubts(1_000, goal=drop)
    assert few.startswith("600 rows cannot show 0.5 points of top1")


def test_a_dataset_for_all_must_fit_the_model(deployment: Deployment) -> None:
    body = divided(deployment)
    bare = deployment.dataset(inspection={"rows": 1_000, "fields": DATASET["fields"][:1]})
    assert wrong(deployment, body | {"datasets": {"all": bare.id}, "metrics": ["top1"]}) == [
        ("/metrics/0", "dataset_labels_missing")
    ]
    assert wrong(deployment, body | {"datasets": {"all": bare.id}}) == []
    narrow = deployment.dataset(inspection={"rows": 1_000, "fields": [{"name": "x", "dtype": "int8", "shape": [4]}]})
    assert wrong(deployment, body | {"datasets": {"all": narrow.id}}) == [("/datasets/all", "dataset_dtype_mismatch")]


def test_an_artifact_is_judged_on_what_was_held_out_when_it_was_made(deployment: Deployment) -> None:
    made = divided(deployment, split={"calibration": 0.3, "evaluation": 0.7})
    deployment.services.jobs.submit(made, idempotency_key=None)
    [artifact] = deployment.succeed(deployment.claimed())
    whole, other = made["datasets"]["all"], deployment.dataset().id
    body = {"kind": "evaluate", "model": artifact}

    def found(datasets: dict[str, str], **more: Any) -> tuple[Any, bool]:
        checked = validate(deployment, {**body, "datasets": datasets, **more})
        assert checked.errors == []
        assert checked.spec is not None
        return checked.spec.split, any("not held out" in doubt for doubt in checked.doubts)

    assert found({"all": whole}) == (Split(calibration=0.3, evaluation=0.7), False)
    assert found({"all": other}) == (Split(evaluation=1), False)
    assert found({"evaluation": other}) == (None, False)
    assert found({"evaluation": whole}) == (None, True)
    assert found({"all": whole}, split={"evaluation": 1.0}) == (Split(evaluation=1), True)
    assert found({"all": whole}, split={"tuning": 0.8, "evaluation": 0.2}) == (Split(tuning=0.8, evaluation=0.2), False)
    assert found({}) == (None, False)


def test_an_artifact_that_is_judged_on_its_calibration_rows_is_doubted(deployment: Deployment) -> None:
    calibration, held_out = deployment.dataset().id, deployment.dataset().id
    deployment.submit(deployment.model(), datasets={"calibration": calibration, "evaluation": held_out})
    [artifact] = deployment.succeed(deployment.claimed())
    for data, doubted in ((calibration, True), (held_out, False)):
        for role in ("all", "evaluation"):
            body = {"kind": "evaluate", "model": artifact, "datasets": {role: data}}
            assert any("as calibration" in doubt for doubt in validate(deployment, body).doubts) == doubted


SHAPED = {
    "model": st.sampled_from([NOBODY, "x"]),
    "recipe": st.fixed_dictionaries(
        {"technique": st.sampled_from(["static_int8", "float16", "x", 5])},
        optional={
            "per_channel": st.booleans() | st.integers(),
            "keep_float": st.lists(st.text(max_size=3), max_size=2),
        },
    ),
    "datasets": st.dictionaries(
        st.sampled_from(["evaluation", "calibration", "all", "other"]), st.text(max_size=4), max_size=2
    ),
    "split": st.dictionaries(st.sampled_from(["evaluation", "calibration", "x"]), st.floats(0, 1), max_size=2),
    "goal": st.fixed_dictionaries(
        {},
        optional={
            "minimize": st.sampled_from(["latency", {"size": 1}, {"size": -1}, 5]),
            "constraints": st.lists(
                st.fixed_dictionaries(
                    {"metric": st.sampled_from(["top1", "size", "x"])},
                    optional={"min": st.floats(), "max": st.floats(), "max_drop": st.floats()},
                ),
                max_size=3,
            ),
        },
    ),
    "metrics": st.lists(st.sampled_from(["top1", "kl", "x"]), max_size=3),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = list(JobSpec.model_fields)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    body=st.fixed_dictionaries({}, optional=SHAPED)
    | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), JSON, max_size=4)
)
def test_any_body_has_errors_whose_pointers_lead_into_it(deployment: Deployment, body: dict[str, Any]) -> None:
    errors = validate(deployment, body).errors
    assert errors
    for error in errors:
        assert resolves(body, error.pointer), error
    assert len({(error.pointer, error.code, error.detail) for error in errors}) == len(errors), "said twice"


def test_what_was_said_of_the_model_is_what_is_compared(deployment: Deployment) -> None:
    """The inspection comes back from either database as it went in."""
    assert deployment.model().inspection == MODEL
    assert json.loads(json.dumps(deployment.dataset().inspection)) == DATASET
