"""The shipped examples as workloads: small nets on Fashion-MNIST, with the data beside them."""

from pathlib import Path

import numpy as np

from benchmarks.models.workload import ROOT, Feed, Part, Workload, classification

EXAMPLES = ROOT / "examples"


def feeds(role: str) -> tuple[list[Feed], list[frozenset[int]]]:
    """One image a feed, float32 [1, 1, 28, 28], and the class that is right; role as in the file's name."""
    with np.load(EXAMPLES / f"{role}.npz") as data:
        images, labels = data["image"], data["labels"]
    return [{"image": image[np.newaxis]} for image in images], [frozenset({int(label)}) for label in labels]


def part(role: str) -> Part:
    """Images with the scores top1 and top5; each image is its own cluster."""
    images, accepted = feeds(role)
    return classification(images, accepted, np.empty(0, dtype=np.int64))


def workload(name: str = "mobilenet") -> Workload:
    """`mobilenet` (convolutions; top-1 92.4 % on the 3,000 images) or `dense` (two wide layers; 89.5 %)."""
    return Workload(
        name=f"fashion_{name}",
        model=Path(EXAMPLES / f"fashion_{name}.onnx"),
        calibration=feeds("calibration")[0],
        tuning=part("tuning"),
        evaluation=part("evaluation"),
    )
