"""The recipe is the contract: one type of options, one file, one function, for every technique."""

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from app.domain.recipe import (
    NEEDS_CALIBRATION,
    TECHNIQUES,
    AnyRecipe,
    DynamicInt8,
    Mixed,
    Plain,
    Recipe,
    technique_catalogue,
)
from tests.parts import models
from workers.quantization import techniques
from workers.quantization.technique import Context, Produced, quantize, resolve

UNION = get_args(get_args(Recipe)[0])


def test_the_union_and_the_table_name_the_same_types() -> None:
    assert {options.model_fields["technique"].default: options for options in UNION} == TECHNIQUES
    assert set(get_args(AnyRecipe)) == set(UNION)
    assert set(get_args(Plain)) == set(UNION) - {Mixed}


def test_every_technique_has_a_file_and_every_file_is_a_technique() -> None:
    files = {found.name for found in pkgutil.iter_modules(techniques.__path__)}

    assert files == set(TECHNIQUES)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_its_function_takes_its_options(name: str) -> None:
    module = importlib.import_module(f"{techniques.__name__}.{name}")
    hints = get_type_hints(module.quantize)

    assert list(inspect.signature(module.quantize).parameters) == ["model_path", "out_path", "options", "context"]
    assert hints == {
        "model_path": Path,
        "out_path": Path,
        "options": TECHNIQUES[name],
        "context": Context,
        "return": Produced,
    }


@pytest.mark.parametrize("name", TECHNIQUES)
def test_its_module_and_function_say_what_they_are_for(name: str) -> None:
    module = importlib.import_module(f"{techniques.__name__}.{name}")

    assert module.__doc__
    assert "Raises StepError" in (module.quantize.__doc__ or "")


@pytest.mark.parametrize("entry", technique_catalogue(), ids=lambda entry: entry["id"])
def test_every_option_has_a_meaning_and_a_default(entry: dict[str, Any]) -> None:
    schema = entry["schema"]
    for part in (schema, *schema.get("$defs", {}).values()):
        if part["title"] in ("OperatorType", "Part"):  # not an option but a value of one
            continue
        assert "required" not in part
        for name, field in part["properties"].items():
            assert name == "technique" or field.get("description"), name


DEFAULTS: list[AnyRecipe] = [
    *(TECHNIQUES[name]() for name in sorted(set(TECHNIQUES) - NEEDS_CALIBRATION - {"mixed"})),
    # Which technique is for which nodes has no default.
    Mixed(rest=DynamicInt8()),
]


@pytest.mark.parametrize("recipe", DEFAULTS, ids=lambda recipe: recipe.technique)
def test_defaults_work_without_calibration(recipe: AnyRecipe, tmp_path: Path) -> None:
    path = models.save(models.mlp(), tmp_path / "model.onnx")
    recipe = resolve(recipe, frozenset({"avx2"}))

    made = quantize(path, tmp_path / "out.onnx", recipe, Context(work=tmp_path))

    assert made.file == tmp_path / "out.onnx"
    assert made.file.stat().st_size > 0
    assert "auto" not in recipe.model_dump().values()
