"""The catalogue of recovery steps: those that there are, and where they cannot be taken."""

import inspect
from importlib import import_module
from typing import get_args

import pytest

from app.domain.recipe import RecoveryStep
from app.domain.recovery import NEEDS_TORCH, SUMMARIES, recovery_catalogue
from workers.quantization.qdq.plan import Plan
from workers.quantization.recovery.material import Material

WITH, WITHOUT = {"versions": {"torch": "2.13.0"}}, {"versions": {"onnxruntime": "1.32.0"}}


def test_every_step_of_the_recipe_is_described() -> None:
    assert tuple(SUMMARIES) == get_args(RecoveryStep)


@pytest.mark.parametrize("step", SUMMARIES)
def test_every_step_is_a_function_in_a_file_of_its_name(step: str) -> None:
    module = import_module(f"workers.quantization.recovery.{step}")
    hints = inspect.get_annotations(getattr(module, step), eval_str=True)
    assert (hints["plan"], hints["material"], hints["return"]) == (Plan, Material, Plan)
    assert ("require_torch(" in inspect.getsource(module)) == (step in NEEDS_TORCH)


def test_what_needs_torch_is_absent_where_there_is_none_and_says_what_to_install() -> None:
    listed = {entry["id"]: entry for entry in recovery_catalogue({"gpu": WITH, "small": WITHOUT, "old": {}})}
    for step, entry in listed.items():
        absent = {found["target"]: found["reason"] for found in entry["absent_on"]}
        assert set(absent) == ({"small", "old"} if step in NEEDS_TORCH else set())
        assert all("pip install 'bitpress-service[train]'" in reason for reason in absent.values())
