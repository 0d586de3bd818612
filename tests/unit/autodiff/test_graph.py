"""The graph as a module: parts of it, gradients through it, and its check against the runtime."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from app.errors import StepError
from tests.parts import models
from tests.unit.quantization.bad_models import texts
from workers.autodiff import extra
from workers.autodiff.extra import require_torch
from workers.runtimes.session import load

pytest.importorskip("torch")

import torch

from workers.autodiff.graph import Graph, as_tensor
from workers.autodiff.parity import check_parity, relative_error

EXAMPLES = Path(__file__).parents[3] / "examples"


def pair(scale: float = 0.1, zero_point: int = 128) -> ModelProto:
    """A tensor that is quantized to uint8 and back; the scale is an initializer."""
    return models.model(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="to"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="back"),
        ],
        [models.value("x", ["n"])],
        [models.value("y", ["n"])],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [zero_point]),
        ],
    )


def split() -> ModelProto:
    """Two products one after the other, a name with dots among the weights."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "layer.0.weight"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
        ],
        [models.value("x", ["n", 4])],
        [models.value("y", ["n", 2])],
        [models.weights("layer.0.weight", 4, 3), models.weights("w2", 3, 2, seed=2)],
    )


def test_float_initializers_are_parameters_and_gradients_reach_them():
    graph = Graph(split())
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    graph({"x": x})["y"].square().sum().backward()
    weights = [graph.stored(name) for name in ("layer.0.weight", "w2")]
    assert set(weights) == set(graph.parameters())
    expected = [parameter.detach().clone().requires_grad_() for parameter in weights]
    (torch.relu(x @ expected[0]) @ expected[1]).square().sum().backward()
    for found, other in zip(weights, expected, strict=True):
        torch.testing.assert_close(found.grad, other.grad)


def test_a_part_runs_from_any_tensors_to_any():
    graph = Graph(split())
    h = torch.tensor([[1.0, -1.0, 2.0]])
    (y,) = graph.run({"h": h}, ["y"])
    torch.testing.assert_close(y, torch.relu(h) @ graph.stored("w2"))
    other = torch.ones(3, 2)
    y, r = graph.run({"h": h, "w2": other}, ["y", "r"])
    torch.testing.assert_close(y, torch.relu(h) @ other)
    torch.testing.assert_close(r, torch.relu(h))


def test_a_missing_input_is_told():
    with pytest.raises(ValueError, match="'x'"):
        Graph(split()).run({}, ["y"])


def test_the_gradient_passes_through_rounding_and_stops_at_the_ends():
    x = torch.tensor([-100.0, -0.33, 0.0, 0.27, 100.0], requires_grad=True)
    (y,) = Graph(pair()).run({"x": x}, ["y"])
    torch.testing.assert_close(y.detach(), torch.tensor([-12.8, -0.3, 0.0, 0.3, 12.7]))
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_a_scale_has_the_gradient_of_learned_step_sizes():
    """Esser et al. 2020, eq. 3: round(v) - v inside the range, its ends outside."""
    x = torch.tensor([-100.0, -0.33, 0.0, 0.27, 100.0])
    for place, value in enumerate(x.tolist()):
        graph = Graph(pair())
        graph.run({"x": x[place : place + 1]}, ["y"])[0].sum().backward()
        v = value / 0.1
        expected = -128 if v < -128 else 127 if v > 127 else round(v) - v
        assert graph.stored("scale").grad.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT16, TensorProto.BOOL])
def test_types_that_torch_has_are_read(kind):
    found = as_tensor(helper.make_tensor("t", kind, [2], [1, 0]))
    assert found.to(torch.float32).tolist() == [1.0, 0.0]


def test_a_type_that_torch_has_not_is_told():
    with pytest.raises(StepError, match="'t' is of type INT4") as caught:
        as_tensor(helper.make_tensor("t", TensorProto.INT4, [2], [1, 0]))
    assert caught.value.code == "operator_not_differentiable"


@pytest.mark.parametrize("name", ["fashion_mobilenet", "fashion_dense"])
def test_the_examples_compute_the_same_in_torch(name):
    path = EXAMPLES / f"{name}.onnx"
    with np.load(EXAMPLES / "calibration.npz") as data:
        rows = [{"image": data["image"][place : place + 4]} for place in (0, 4)]
    assert max(check_parity(Graph(onnx.load(path)), load(path), rows).values()) < 2e-6


def test_an_architecture_with_attention_computes_the_same_in_torch(tmp_path):
    model = models.transformer()
    models.save(model, tmp_path / "model.onnx")
    session = load(tmp_path / "model.onnx")
    rows = [{"input_ids": np.array([[3, 1, 7, 0]]), "attention_mask": np.array([[1, 1, 1, 0]])}]
    assert max(check_parity(Graph(model), session, rows).values()) < 2e-6


def test_a_graph_that_computes_something_else_is_not_trusted(tmp_path):
    models.save(split(), tmp_path / "model.onnx")
    graph = Graph(split())
    with torch.no_grad():
        graph.stored("w2").mul_(1.01)
    with pytest.raises(StepError, match="'y'") as caught:
        check_parity(graph, load(tmp_path / "model.onnx"), [{"x": np.ones((2, 4), np.float32)}])
    assert caught.value.code == "graph_parity"


def test_what_torch_says_against_an_input_or_a_node_is_told_as_a_step_says_it(tmp_path):
    models.save(texts(), tmp_path / "texts.onnx")
    row = {"x": np.ones((2, 8), np.float32), "text": np.array(["a"], dtype=object)}
    with pytest.raises(StepError, match="'text' is of type object") as caught:
        check_parity(Graph(texts()), load(tmp_path / "texts.onnx"), [row])
    assert caught.value.code == "operator_not_differentiable"

    with pytest.raises(StepError, match=r"'first' \(MatMul\) does not run in torch") as caught:
        Graph(split())({"x": torch.ones(2, 3)})
    assert caught.value.code == "operator_not_differentiable"


def test_infinities_must_stand_at_the_same_places():
    reference = np.array([1.0, np.inf, np.nan])
    assert relative_error(reference.copy(), reference) == 0.0
    assert relative_error(np.array([1.0, 2.0, np.nan]), reference) == float("inf")
    assert relative_error(np.array([np.nan, np.inf, np.nan]), reference) == float("inf")
    assert relative_error(np.ones(2), np.ones(3)) == float("inf")
    assert relative_error(np.array([3.0, 4.1]), np.array([3.0, 4.0])) == pytest.approx(0.02)


def test_without_torch_the_line_to_type_is_given(monkeypatch):
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(StepError, match=r"pip install 'bitpress-service\[train\]'") as caught:
        require_torch("learned_rounding")
    assert caught.value.code == "needs_torch"
