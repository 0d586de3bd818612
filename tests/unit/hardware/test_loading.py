"""What runs here is what was seen to."""

import importlib.util
import sys
from importlib.metadata import version

import onnxruntime
import pytest

from workers.hardware import loading
from workers.hardware.loading import MODULES, installed, providers
from workers.hardware.versions import FURTHER


def test_every_provider_that_is_listed_is_tried() -> None:
    found = {provider.name: provider for provider in providers()}
    assert list(found) == onnxruntime.get_available_providers()
    assert found["CPUExecutionProvider"].loads
    for provider in found.values():
        assert provider.loads == (provider.reason is None)


@pytest.mark.skipif(
    "AzureExecutionProvider" not in onnxruntime.get_available_providers(), reason="this onnxruntime lists no other one"
)
def test_a_provider_that_would_fall_back_does_not_load() -> None:
    """onnxruntime lists Azure everywhere; without fallback it takes no node."""
    azure = next(provider for provider in providers() if provider.name == "AzureExecutionProvider")
    assert not azure.loads
    assert azure.reason


def test_further_runtimes() -> None:
    found = {each.name: each for each in installed(lambda: True)}
    assert {*MODULES} == {*FURTHER}
    for name, distribution in FURTHER.items():
        module = MODULES[name]
        there = importlib.util.find_spec(module.partition(".")[0]) is not None
        assert (name in found) == there
        if there:
            assert found[name].version == version(distribution)
            assert found[name].imports is (None if name == "torch" else True)


def test_nothing_is_imported_when_time_is_up() -> None:
    before = set(sys.modules)
    assert all(each.imports is None and each.reason for each in installed(lambda: False))
    assert not {"openvino", "torch", "ai_edge_litert"} & (set(sys.modules) - before)


def test_a_package_that_breaks_as_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FURTHER, "broken", "numpy")
    monkeypatch.setitem(MODULES, "broken", "numpy.no_such_part")
    (found,) = loading.installed(lambda: True, ["broken"])
    assert found.imports is False
    assert found.reason is not None
    assert "no_such_part" in found.reason
