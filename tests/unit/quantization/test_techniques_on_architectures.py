"""The contract of every technique, on a depthwise CNN, a transformer encoder and a decoder with a cache."""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from app.domain.recipe import (
    TECHNIQUES,
    AnyRecipe,
    Bfloat16,
    DynamicInt8,
    Float16,
    KeepFloat,
    Mixed,
    OperatorType,
    Part,
    StaticInt8,
    StaticInt16,
    WeightOnly,
    needs_calibration,
)
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.architectures import ARCHITECTURES, Architecture
from tests.unit.quantization.conftest import observe
from workers.formats.onnx.graph import all_nodes
from workers.quantization.assignment import static_recipe
from workers.quantization.technique import Context, Produced, quantize, resolve

AVX2 = frozenset({"avx2", "fma"})


def recipe_for(name: str, architecture: Architecture, keep_float: KeepFloat = (), *, quick: bool = True) -> AnyRecipe:
    """A technique with its defaults; `quick` ones try no recovery. Few options follow from the architecture."""
    static: StaticInt8 = StaticInt8(recovery=()) if quick else StaticInt8()
    recipes: dict[str, AnyRecipe] = {
        "dynamic_int8": DynamicInt8(op_types=("MatMul", "Gemm", "Conv")),
        "static_int8": static,
        "static_int16": StaticInt16(recovery=()) if quick else StaticInt16(),
        "weight_only": WeightOnly(block_size=16),
        "float16": Float16(),
        "bfloat16": Bfloat16(),
        "mixed": Mixed(parts=(Part(nodes=(architecture.part,), recipe=Bfloat16(least_elements=64)),), rest=static),
    }
    return recipes[name].model_copy(update={"keep_float": keep_float})


LEAST_DB = {
    "dynamic_int8": 25.0,
    "static_int8": 16.0,
    "static_int16": 28.0,
    "weight_only": 9.0,
    "float16": 50.0,
    "bfloat16": 38.0,
    "mixed": 16.0,
}
"""Of the worst output, which up to fifteen quantized layers precede. Weights have 7, 8, 8, 4, 11 and 8 bits; one
bit is 6 dB. A forgotten zero point or a wrong axis makes less than 0, and a scale that is off by a tenth 20 a layer."""


def test_every_technique_is_here() -> None:
    assert set(LEAST_DB) == set(TECHNIQUES)


@dataclass(frozen=True)
class Followed:
    """An artifact, and how it was made."""

    architecture: Architecture
    original: Path
    produced: Produced
    before: str

    @property
    def proto(self) -> ModelProto:
        return onnx.load(self.produced.file)

    def session(self) -> onnxruntime.InferenceSession:
        """Opened as anyone would who reads the manifest: nothing here is of this project."""
        return plain_session(self.produced.file, self.produced.session_options)


def plain_session(path: Path, entries: dict[str, str] | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name, value in (entries or {}).items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()


def follow(architecture: Architecture, recipe: AnyRecipe, folder: Path, *, external: bool = False) -> Followed:
    shutil.rmtree(folder, ignore_errors=True)
    model = ModelProto()
    model.CopyFrom(architecture.model)  # onnx lets go of the weights that it writes beside a model
    original = models.save(model, folder / "original" / "model.onnx", external=external)
    before = digest(original.parent.iterdir())
    work, out = folder / "work", folder / "artifact" / "model.onnx"
    work.mkdir()
    out.parent.mkdir()
    recipe = resolve(recipe, AVX2)
    if needs_calibration(recipe):
        static = static_recipe(original, recipe)
        observe(original, static, architecture.feeds, folder).write(folder / "statistics.npz")
    context = Context(
        work=work,
        features=AVX2,
        statistics=folder / "statistics.npz",
        feeds=lambda: ((row, 1) for row in architecture.feeds),
    )
    return Followed(architecture, original, quantize(original, out, recipe, context), before)


@pytest.fixture(scope="module")
def architectures() -> dict[str, Architecture]:
    return {name: build() for name, build in ARCHITECTURES.items()}


@pytest.fixture(scope="module", params=[(kind, name) for kind in ARCHITECTURES for name in TECHNIQUES], ids="-".join)
def followed(
    request: pytest.FixtureRequest, architectures: dict[str, Architecture], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Followed]:
    """One technique's artifact of one architecture, with its defaults, made once for all tests that look at it."""
    kind, name = request.param
    return name, follow(
        architectures[kind],
        recipe_for(name, architectures[kind], quick=False),
        tmp_path_factory.mktemp(f"{kind}-{name}"),
    )


def test_comes_near_the_original_in_plain_onnxruntime(followed: tuple[str, Followed]) -> None:
    name, made = followed
    original, artifact = plain_session(made.original), made.session()
    signal, noise = 0.0, np.zeros(len(original.get_outputs()))
    power = np.zeros_like(noise)
    for row in made.architecture.feeds:
        for index, (exact, found) in enumerate(zip(original.run(None, row), artifact.run(None, row), strict=True)):
            signal += float((exact.astype(np.float64) ** 2).sum())
            power[index] += (exact.astype(np.float64) ** 2).sum()
            noise[index] += ((exact.astype(np.float64) - found) ** 2).sum()
    worst = float((10 * np.log10(power / np.maximum(noise, 1e-300))).min())

    assert worst > LEAST_DB[name]
    # What rounds nothing would come nearer.
    assert float(10 * np.log10(signal / noise.sum())) < 100


def test_inputs_and_outputs_are_those_of_the_original(followed: tuple[str, Followed]) -> None:
    _, made = followed
    original, artifact = plain_session(made.original), made.session()

    for before, after in (
        (original.get_inputs(), artifact.get_inputs()),
        (original.get_outputs(), artifact.get_outputs()),
    ):
        assert [(port.name, port.type, port.shape) for port in after] == [
            (port.name, port.type, port.shape) for port in before
        ]


def test_the_original_stays_as_it_was(followed: tuple[str, Followed]) -> None:
    _, made = followed

    assert digest(made.original.parent.iterdir()) == made.before


def test_passes_the_checker_and_is_smaller(followed: tuple[str, Followed]) -> None:
    _, made = followed

    onnx.checker.check_model(str(made.produced.file), full_check=True)
    # Of the convolutional net weight_only takes the last layer alone.
    assert float_bytes(made.proto) < 0.98 * float_bytes(onnx.load(made.original))


def test_node_names_are_unique(followed: tuple[str, Followed]) -> None:
    _, made = followed

    names = [node.name for node in all_nodes(made.proto)]
    assert len(set(names)) == len(names)


def float_bytes(model: ModelProto) -> int:
    return sum(
        4 * int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT
    )


# With options that make it quick: what is kept, files, and the same bytes again


each_technique = pytest.mark.parametrize("name", TECHNIQUES)
each_architecture = pytest.mark.parametrize("kind", ARCHITECTURES)


@each_technique
@each_architecture
def test_the_same_model_gives_the_same_bytes(
    kind: str, name: str, architectures: dict[str, Architecture], tmp_path: Path
) -> None:
    first, second = (
        follow(architectures[kind], recipe_for(name, architectures[kind]), tmp_path / place) for place in ("one", "two")
    )

    assert digest(first.produced.file.parent.iterdir()) == digest(second.produced.file.parent.iterdir())


@each_technique
@each_architecture
def test_external_data_stay_external(
    kind: str, name: str, architectures: dict[str, Architecture], tmp_path: Path
) -> None:
    inside = follow(architectures[kind], recipe_for(name, architectures[kind]), tmp_path / "inside")
    outside = follow(architectures[kind], recipe_for(name, architectures[kind]), tmp_path / "outside", external=True)

    assert {path.name for path in outside.produced.file.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert {path.name for path in inside.produced.file.parent.iterdir()} == {"model.onnx"}
    for row in architectures[kind].feeds[:2]:
        for one, other in zip(inside.session().run(None, row), outside.session().run(None, row), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert digest(outside.original.parent.iterdir()) == outside.before


By = Callable[[Architecture], KeepFloat]
WAYS: dict[str, By] = {
    "name": lambda architecture: (architecture.product,),
    "pattern": lambda architecture: (architecture.pattern,),
    "type": lambda architecture: (OperatorType(op_type=architecture.op_type),),
}


@pytest.mark.parametrize("way", WAYS)
@each_technique
@each_architecture
def test_what_is_kept_stays_in_float(
    kind: str, name: str, way: str, architectures: dict[str, Architecture], tmp_path: Path
) -> None:
    architecture = architectures[kind]
    kept = kept_names(architecture, way)

    made = follow(architecture, recipe_for(name, architecture, WAYS[way](architecture)), tmp_path / "made").proto

    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in architecture.model.graph.initializer}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    after = {node.name: node for node in made.graph.node}
    assert kept
    for before in (node for node in architecture.model.graph.node if node.name in kept):
        assert after[before.name].op_type == before.op_type
        for index, weight in enumerate(before.input):
            if weight in weights:
                found = stored[after[before.name].input[index]]
                assert found.dtype == weights[weight].dtype
                np.testing.assert_array_equal(found, weights[weight])
    assert changed_weights(weights, stored)


def kept_names(architecture: Architecture, way: str) -> set[str]:
    names = [node.name for node in architecture.model.graph.node]
    if way == "name":
        return {architecture.product}
    if way == "pattern":
        stem = architecture.pattern.rstrip("*?")
        return {found for found in names if found.startswith(stem)}
    return {node.name for node in architecture.model.graph.node if node.op_type == architecture.op_type}


def changed_weights(before: dict[str, Array], after: dict[str, Array]) -> list[str]:
    """Weights of the original that are not in the artifact as they were."""
    return [
        name
        for name, values in before.items()
        if values.size > 64 and (name not in after or after[name].dtype != values.dtype)
    ]


@each_technique
@each_architecture
def test_a_name_that_matches_nothing_is_refused_with_near_ones(
    kind: str, name: str, architectures: dict[str, Architecture], tmp_path: Path
) -> None:
    architecture = architectures[kind]

    with pytest.raises(StepError) as raised:
        follow(architecture, recipe_for(name, architecture, (architecture.product + "x",)), tmp_path / "made")

    assert raised.value.code == "keep_float_matches_nothing"
    assert architecture.product in raised.value.detail


@each_technique
@each_architecture
def test_an_artifact_is_refused(kind: str, name: str, architectures: dict[str, Architecture], tmp_path: Path) -> None:
    made = follow(architectures[kind], recipe_for("static_int8", architectures[kind]), tmp_path / "made")
    again = replace(architectures[kind], model=made.proto)

    with pytest.raises(StepError) as raised:
        follow(again, recipe_for(name, architectures[kind]), tmp_path / "again")

    assert raised.value.code == "already_quantized"


@each_technique
def test_a_model_without_weights_is_refused(name: str, tmp_path: Path) -> None:
    bare = Architecture(models.no_weights(), [{"x": np.ones((1, 4), np.float32)}], "", "", "", "relu")
    recipe = recipe_for(name, bare) if name != "mixed" else Mixed(rest=DynamicInt8())

    with pytest.raises(StepError) as raised:
        follow(bare, recipe, tmp_path / "made")

    assert raised.value.code == "nothing_to_quantize"
