"""Artifacts as files: the same bytes each time, and weights beside the model where one file is too small."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.domain.recipe import AnyRecipe, DynamicInt8, Float16, StaticInt8
from tests.parts import models
from tests.unit.quantization.conftest import Maker
from workers.quantization import graph

_HASHES = """
import hashlib, sys
from pathlib import Path
import numpy as np
from app.domain.recipe import RECIPE
from tests.unit.quantization.conftest import observe
from workers.quantization.technique import Context, quantize

model, folder = Path(sys.argv[1]), Path(sys.argv[2])
rows = [{"image": np.random.default_rng(seed).standard_normal((1, 3, 12, 12)).astype(np.float32)} for seed in range(8)]
seen = folder / "statistics.npz"
for recipe in map(RECIPE.validate_json, sys.argv[3:]):
    if recipe.technique == "static_int8":
        observe(model, recipe, rows, folder).write(seen)
        print(hashlib.sha256(seen.read_bytes()).hexdigest())
    feeds = lambda: ((row, 1) for row in rows)
    quantize(model, folder / "out.onnx", recipe, Context(work=folder, statistics=seen, feeds=feeds))
    print(hashlib.sha256((folder / "out.onnx").read_bytes()).hexdigest())
"""


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    path = models.save(models.conv_net(), tmp_path / "model.onnx")
    recipes = (DynamicInt8(reduce_range=False), StaticInt8(reduce_range=False), Float16())
    printed = []
    # Sets of names are ordered by their hashes, which differ from process to process.
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        command = [sys.executable, "-c", _HASHES, str(path), str(tmp_path / seed)]
        command += [recipe.model_dump_json() for recipe in recipes]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        printed.append(done.stdout.split())

    assert printed[0] == printed[1]
    assert len(set(printed[0])) == 4


@pytest.mark.parametrize(
    "recipe", [DynamicInt8(reduce_range=True, smoothing=False), StaticInt8(reduce_range=True), Float16()]
)
def test_weights_beyond_the_limit_of_one_file_lie_beside_it(
    make: Maker, monkeypatch: pytest.MonkeyPatch, recipe: AnyRecipe
) -> None:
    monkeypatch.setattr(graph, "PROTOBUF_LIMIT", 100)
    # Tensors under 1024 bytes stay inside in any case.
    model = models.gemm(inputs=64, outputs=32)

    made = make(model, recipe)

    assert made.produced.file.with_name("model.onnx.data").stat().st_size >= 64 * 32
    assert made.produced.file.stat().st_size < 64 * 32
    assert made.sqnr_db > 25


def test_writing_again_replaces_the_data(tmp_path: Path) -> None:
    model = models.gemm(inputs=64, outputs=32)
    hashes = []
    for _ in range(2):
        assert graph.save(onnx.ModelProto.FromString(model.SerializeToString()), tmp_path / "m.onnx", external=True)
        hashes.append(hashlib.sha256((tmp_path / "m.onnx.data").read_bytes()).hexdigest())

    assert hashes[0] == hashes[1]


def test_weights_set_aside_come_back() -> None:
    model = models.conv_net()
    model.graph.initializer.append(models.weights("big", 64, 64))
    before = model.SerializeToString()

    aside = graph.set_weights_aside(model)
    small, taken = model.ByteSize(), len(aside)
    graph.put_weights_back(model, aside)

    assert (taken, len(aside)) == (1, 0)
    assert small < len(before) - 64 * 64 * 4 + 200
    assert model.SerializeToString() == before


def test_nodes_are_sorted_after_what_their_bodies_capture() -> None:
    model = models.branches()
    nodes = list(model.graph.node)
    shuffled = [nodes[4], nodes[3], nodes[2], nodes[1], nodes[0]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in shuffled]
    del model.graph.node[:]
    model.graph.node.extend(copies)

    graph.sort_nodes(model.graph)

    names = [node.name for node in model.graph.node]
    assert names.index("first/Relu") < names.index("choice")
    onnx.checker.check_model(model)


def test_a_cycle_is_an_error() -> None:
    model = models.mlp()
    model.graph.node[0].input[0] = "y"

    with pytest.raises(ValueError, match="cycle"):
        graph.sort_nodes(model.graph)


def test_float_data_fields_are_set_aside_too() -> None:
    values = np.arange(2000, dtype=np.float32)
    model = models.gemm()
    model.graph.initializer.append(onnx.helper.make_tensor("typed", onnx.TensorProto.FLOAT, [2000], values))
    assert len(model.graph.initializer[-1].float_data) == 2000

    aside = graph.set_weights_aside(model)
    graph.put_weights_back(model, aside)

    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[-1]), values)
