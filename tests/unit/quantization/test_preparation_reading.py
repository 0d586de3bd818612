"""External data are read from the model's own folder and from nowhere else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from app.domain.recipe import TECHNIQUES
from app.errors import StepError
from tests.parts import models
from workers.quantization.preparation import prepare
from workers.quantization.preparation.reading import read
from workers.quantization.technique import Context, quantize, resolve

VALUES = np.arange(256, dtype=np.float32) / 256


def folder_with(location: str, place: Path) -> Path:
    """A model whose weights are said to lie at this place, with secrets around its folder."""
    home = place / "model"
    (home / "inner").mkdir(parents=True)
    for file in (place / "secret.bin", home / "w.bin", home / "inner" / "w.bin"):
        VALUES.tofile(file)
    (home / "link.bin").symlink_to("../secret.bin")
    (home / "out").symlink_to("..")
    made = models.gemm()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = [16, 16]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location.replace("{place}", str(place)))
    made.graph.initializer[1].CopyFrom(models.weights("b", 16))
    made.graph.output[0].CopyFrom(models.value("y", ["batch", 16]))
    (home / "model.onnx").write_bytes(made.SerializeToString())
    return home / "model.onnx"


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "inner/w.bin"])
def test_places_inside_are_read(tmp_path: Path, location: str) -> None:
    model, external = read(folder_with(location, tmp_path))

    assert external
    assert model.graph.initializer[0].raw_data == VALUES.tobytes()
    assert model.graph.initializer[0].data_location == TensorProto.DEFAULT


OUTSIDE = {
    "above": "../secret.bin",
    "above, by a detour": "inner/../../secret.bin",
    "absolute": "{place}/secret.bin",
    "a link": "link.bin",
    "through a linked folder": "out/secret.bin",
    "another system's separator": "..\\secret.bin",
    "the runtime's memory": "*/_ORT_MEM_ADDR_/*",
}


@pytest.mark.parametrize("name", TECHNIQUES)
@pytest.mark.parametrize("location", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_places_outside_are_refused_by_every_technique(tmp_path: Path, location: str, name: str) -> None:
    path = folder_with(location, tmp_path)
    (tmp_path / "statistics.npz").touch()
    recipe = resolve(
        TECHNIQUES[name](**({"rest": {"technique": "weight_only"}} if name == "mixed" else {})), frozenset()
    )

    with pytest.raises(StepError) as raised:
        quantize(path, tmp_path / "out.onnx", recipe, Context(work=tmp_path, statistics=tmp_path / "statistics.npz"))

    assert raised.value.code == "external_data_outside"
    assert not (tmp_path / "out.onnx").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("harm", "code"), [(Path.unlink, "external_data_missing"), (cut, "external_data_truncated")], ids=["gone", "cut"]
)
@pytest.mark.parametrize("weights", [True, False])
def test_files_that_are_not_whole_are_refused(
    tmp_path: Path, harm: Callable[[Path], None], code: str, weights: bool
) -> None:
    path = folder_with("w.bin", tmp_path)
    harm(path.with_name("w.bin"))

    with pytest.raises(StepError) as raised:
        read(path, weights=weights)

    assert raised.value.code == code
    assert "w.bin" in raised.value.detail


def test_nothing_refers_to_files_any_more(tmp_path: Path) -> None:
    path = models.save(models.mlp(opset=12), tmp_path / "model.onnx", external=True)

    prepared = prepare(path, least_opset=13, keep_float=(), fold=True)
    (tmp_path / "weights.bin").unlink()

    assert prepared.external
    for tensor in prepared.model.graph.initializer:
        assert not tensor.external_data
        assert tensor.data_location == TensorProto.DEFAULT
