"""The shipped example is what its README says: it opens, fits together, is accurate, small and licensed."""

from itertools import combinations
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from workers.formats.onnx.weights import count_parameters

EXAMPLES = Path(__file__).parents[3] / "examples"
MODELS = ("fashion_mobilenet.onnx", "fashion_dense.onnx")
ROWS = {"calibration.npz": 256, "tuning.npz": 500, "evaluation.npz": 3_000}


def load(role: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with np.load(EXAMPLES / role, allow_pickle=False) as data:
        assert sorted(data.files) == ["image", "labels"]
        return data["image"], data["labels"]


@pytest.mark.parametrize("role", ROWS)
def test_images_are_normalised_and_labelled(role: str) -> None:
    images, labels = load(role)
    assert images.dtype == np.float32
    assert images.shape == (ROWS[role], 1, 28, 28)
    assert labels.dtype == np.int64
    assert labels.shape == (ROWS[role],)
    assert set(labels) == set(range(10))
    levels = images * np.float32(255)
    assert levels.min() == 0
    assert levels.max() == 255
    np.testing.assert_allclose(levels, levels.round(), atol=1e-4)


def test_roles_are_disjoint_by_content() -> None:
    contents = {role: [image.tobytes() for image in load(role)[0]] for role in ROWS}
    for role, images in contents.items():
        assert len(set(images)) == len(images), f"{role} holds an image twice"
    for one, other in combinations(contents, 2):
        assert not set(contents[one]) & set(contents[other]), f"{one} and {other} share images"


@pytest.mark.parametrize("model", MODELS)
def test_models_have_the_documented_signature(model: str) -> None:
    session = ort.InferenceSession(EXAMPLES / model, providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["batch", 1, 28, 28])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 10])
    opsets = {entry.domain: entry.version for entry in onnx.load(EXAMPLES / model).opset_import}
    assert opsets == {"": 17}


@pytest.mark.parametrize("model", MODELS)
def test_models_recognise_the_evaluation_images(model: str) -> None:
    images, labels = load("evaluation.npz")
    session = ort.InferenceSession(EXAMPLES / model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    assert (logits.argmax(1) == labels).mean() >= 0.88
    (alone,) = session.run(["logits"], {"image": images[:1]})
    np.testing.assert_allclose(alone, logits[:1], atol=1e-3)


@pytest.mark.parametrize(
    ("file", "limit"),
    [("fashion_mobilenet.onnx", 300_000), ("fashion_dense.onnx", 4_000_000), *((role, 4_000_000) for role in ROWS)],
)
def test_files_are_small_enough_for_git(file: str, limit: int) -> None:
    assert 0 < (EXAMPLES / file).stat().st_size <= limit


def test_the_licence_of_the_images_stands_beside_them() -> None:
    licence = (EXAMPLES / "LICENSE-fashion-mnist").read_text()
    assert "Copyright (c) 2017 Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence
    readme = (EXAMPLES / "README.md").read_text()
    for file in (*MODELS, *ROWS, "LICENSE-fashion-mnist"):
        assert file in readme


def test_the_readme_has_the_parameters_that_the_service_counts() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    for name in MODELS:
        model = onnx.load(EXAMPLES / name)
        assert f"{count_parameters(model):,}" in readme
        assert f"{sum(prod(weight.dims) for weight in model.graph.initializer):,} parameters" in readme
