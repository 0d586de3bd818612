"""What calibration rows say about the inputs of products: second moments, which `gptq` and `awq` weigh errors with."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, helper

from app.errors import StepError
from workers.quantization.calibration.collect import Feeds
from workers.quantization.graph import captured
from workers.quantization.weight_only.blocks import Floats
from workers.runtimes.session import CPU

MOST_BYTES = 512_000_000
"""Bytes of second moments held at a time; a model with more is run over the rows again for the next share."""

_LOUDEST = 4.0
"""Times the median of a run's tokens that the squared length of a token may count. Language models give single tokens
lengths beyond all others, which the next norm takes back: one of 512 had 99.8 % of an activation's squares in SmolLM2,
and the other tokens hardly counted."""


_PRODUCTS = frozenset({"Gemm", "MatMul"})


def shares(inputs: Mapping[str, int]) -> Iterator[list[str]]:
    """Group tensors, in order, so that each group's moments fit `MOST_BYTES`; sizes are of their last axis."""
    share: list[str] = []
    held = 0
    for name, size in inputs.items():
        if share and held + 4 * size * size > MOST_BYTES:
            yield share
            share, held = [], 0
        share.append(name)
        held += 4 * size * size
    if share:
        yield share


def second_moments(
    model: ModelProto, folder: Path, names: Sequence[str], feeds: Feeds, samples: int, threads: int = 1
) -> dict[str, Floats]:
    """The mean of xᵀx over all tokens of each named tensor, none of which counts beyond `_LOUDEST`: float32
    [inputs, inputs] by name.

    `model` may refer to external data in `folder`. Raises StepError `calibration_missing` without rows,
    `calibration_empty` without tokens in them, and `calibration_failed` where the model does not run or a tensor is not
    finite: of those that products read, the first in the order of computation is named.
    """
    session = _session(_up_to(model, names), folder, threads)
    wanted = {port.name for port in session.get_inputs()}
    sums: dict[str, NDArray[np.float64] | Floats] = {}
    rows = 0
    counts: dict[str, int] = {}
    for feed, count in feeds():
        if rows >= samples:
            break
        rows += count
        try:
            found = session.run(list(names), {name: value for name, value in feed.items() if name in wanted})
        except Exception as error:  # onnxruntime has a class an error
            raise _failed(f"the model does not run on row {rows} ({' '.join(str(error).split())[:200]})") from error
        for name, values in zip(names, found, strict=True):
            flat = values.reshape(-1, values.shape[-1]).astype(np.float32, copy=False)
            flat = quieted(flat)
            with np.errstate(over="ignore", invalid="ignore"):  # told below
                product = flat.T @ flat
            if not np.isfinite(product).all():
                first = _first_not_finite(model, folder, feed, threads)
                why = "holds numbers too large to be squared" if first is None else "is not finite"
                raise _failed(f"the tensor {first or name!r} {why} on row {rows}")
            sums[name] = sums[name] + product if name in sums else product
            counts[name] = counts.get(name, 0) + len(flat)
    if not rows:
        raise missing()
    if not any(counts.values()):
        raise StepError(
            "The calibration rows are empty arrays: no product read a number. Give rows with elements.",
            code="calibration_empty",
        )
    return {
        name: np.asarray(total / np.float32(max(counts[name], 1)), dtype=np.float32) for name, total in sums.items()
    }


def quieted(tokens: Floats) -> Floats:
    """Tokens, float32 [tokens, size], the loudest scaled down to `_LOUDEST` times the median squared length."""
    squares = np.einsum("tk,tk->t", tokens, tokens, dtype=np.float64)
    if not len(squares) or not np.isfinite(squares).all():
        return tokens
    most = _LOUDEST * np.median(squares)
    if most == 0 or squares.max() <= most:
        return tokens
    factors: Floats = np.sqrt(most / np.maximum(squares, most)).astype(np.float32)
    quiet: Floats = tokens * factors[:, None]
    return quiet


def _first_not_finite(model: ModelProto, folder: Path, feed: Mapping[str, Floats], threads: int) -> str | None:
    """Of the tensors that products read, the first in the order of computation that is not finite on these rows."""
    read = {node.input[0] for node in model.graph.node if node.op_type in _PRODUCTS}
    made = [name for node in model.graph.node for name in node.output if name in read]
    inputs = [value.name for value in model.graph.input if value.name in read and value.name in feed]
    found = {name: feed[name] for name in inputs}
    if made:
        session = _session(_up_to(model, made), folder, threads)
        wanted = {port.name for port in session.get_inputs()}
        given = {name: value for name, value in feed.items() if name in wanted}
        found |= dict(zip(made, session.run(made, given), strict=True))
    return next((name for name, values in found.items() if not np.isfinite(values).all()), None)


def missing() -> StepError:
    """The error for an algorithm that needs calibration rows and has none."""
    return StepError(
        "This algorithm needs calibration rows, and there are none. Name a calibration dataset, or take the algorithm "
        "mse, hqq or rtn.",
        code="calibration_missing",
    )


def _failed(why: str) -> StepError:
    return StepError(
        f"Calibration failed: {why}. Check the calibration dataset, or take the algorithm mse, hqq or rtn.",
        code="calibration_failed",
    )


def _session(model: ModelProto, folder: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    except Exception as error:
        raise _failed(f"the model does not load ({' '.join(str(error).split())[:200]})") from error


def _up_to(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The part of a model that the named tensors need, with them as its outputs."""
    wanted = set(names)
    nodes = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
            wanted |= captured(node)
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = model.graph.name
    part.graph.node.extend(reversed(nodes))
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in wanted)
    part.graph.input.extend(value for value in model.graph.input if value.name in wanted)
    part.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return part
