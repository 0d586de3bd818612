"""Train the two shipped models on Fashion-MNIST and export them to ONNX.

Usage: `python examples/train.py [--only mobilenet|dense] [--source FOLDER] [--into FOLDER]`. Needs torch, onnx
and numpy and Debian's package `dataset-fashion-mnist`; nothing else of the project needs this script to run.

Both models take `image`, float32 [N, 1, 28, 28], pixel / 255 (no mean is subtracted: zero stays background, so
that zero padding means the same in every layer), and give `logits`, float32 [N, 10].
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from make_data import SOURCE, Images, split
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

SEED = 20_260_101
THREADS = 2
BATCH = 256
CLASSES = 10
OPSET = 17


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen (1x1), filter each channel (3x3), project back (1x1) without a nonlinearity.

    Source: Sandler et al., MobileNetV2, 2018, table 1.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *convolution(inputs, hidden, kernel=1),
            *convolution(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.layers(x)
        return x + projected if self.residual else projected


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Iterator[nn.Module]:
    """Convolution, batch normalization and ReLU6; the export folds the second into the first."""
    yield nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    yield nn.BatchNorm2d(outputs)
    yield nn.ReLU6(inplace=True)


def mobilenet() -> nn.Module:
    """A MobileNetV2 for 28x28 pixels: most of its work at 7x7."""
    return nn.Sequential(
        *convolution(1, 16, kernel=3, stride=2),
        InvertedResidual(16, 24, stride=1, expansion=2),
        InvertedResidual(24, 40, stride=2, expansion=3),
        InvertedResidual(40, 40, stride=1, expansion=4),
        InvertedResidual(40, 40, stride=1, expansion=4),
        InvertedResidual(40, 48, stride=1, expansion=4),
        *convolution(48, 192, kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(192, CLASSES),
    )


def dense() -> nn.Module:
    """Two wide dense layers: at batch 1 its speed is that of reading 3.7 MB of weights, which int8 quarters."""
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(28 * 28, 640), nn.ReLU(inplace=True), nn.Dropout(0.2)),
        *(nn.Linear(640, 640), nn.ReLU(inplace=True), nn.Dropout(0.2)),
        nn.Linear(640, CLASSES),
    )


@dataclass(frozen=True)
class Plan:
    """How one of the models is trained; `shift` is the largest shift of the augmentation, in pixels."""

    build: Callable[[], nn.Module]
    epochs: int
    learning_rate: float
    shift: int


# Rates, epochs and widths were chosen on the 5,000 held-out images of the training split.
PLANS = {
    "mobilenet": Plan(mobilenet, epochs=8, learning_rate=1e-2, shift=1),
    "dense": Plan(dense, epochs=20, learning_rate=2e-3, shift=0),
}


def augment(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Mirror each image at random, and move the batch by up to `shift` pixels each way."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    images = torch.where(mirrored, images.flip(3), images)
    top, left = torch.randint(0, 2 * shift + 1, (2,), generator=generator).tolist()
    return F.pad(images, (shift,) * 4)[:, :, top : top + 28, left : left + 28]


def fit(plan: Plan, images: Images) -> nn.Module:
    """Train a fresh model with AdamW under a one-cycle rate; the same seed and machine give the same weights."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    # Channels last: torch's CPU kernels for depthwise convolutions are markedly faster on it.
    model = plan.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs, labels = torch.from_numpy(images.tensor()), torch.from_numpy(images.labels)
    steps = len(inputs) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), plan.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.learning_rate, total_steps=plan.epochs * steps, pct_start=0.2
    )
    for epoch in range(plan.epochs):
        total = 0.0
        order = torch.randperm(len(inputs), generator=generator)
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            batch = augment(inputs[rows], plan.shift, generator).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"  epoch {epoch + 1}/{plan.epochs}: training loss {total / steps:.3f}", flush=True)
    return model.eval().to(memory_format=torch.contiguous_format)


@torch.no_grad()
def top1(model: nn.Module, images: Images) -> float:
    """The share of images whose largest logit is that of their class."""
    right = 0
    for start in range(0, len(images), BATCH):
        rows = images.take(slice(start, start + BATCH))
        right += int((model(torch.from_numpy(rows.tensor())).argmax(1).numpy() == rows.labels).sum())
    return right / len(images)


def export(model: nn.Module, path: Path) -> None:
    """Write the model as one self-contained ONNX file with a dynamic batch axis."""
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, 28, 28),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,  # the newer exporter would need onnxscript as well
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the two shipped models and export them to ONNX.")
    parser.add_argument("--only", choices=sorted(PLANS), help="train this one alone")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the four published .gz files")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="folder to write the .onnx to")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    parts = split(arguments.source)
    for name, plan in PLANS.items():
        if arguments.only not in (None, name):
            continue
        print(f"{name}:", flush=True)
        began = time.monotonic()
        model = fit(plan, parts.training)
        path = arguments.into / f"fashion_{name}.onnx"
        export(model, path)
        print(
            f"  top-1 {top1(model, parts.held_out):.4f} held out, {top1(model, parts.test):.4f} test;"
            f" {sum(weights.numel() for weights in model.parameters()):,} parameters,"
            f" {path.stat().st_size:,} bytes; {time.monotonic() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
