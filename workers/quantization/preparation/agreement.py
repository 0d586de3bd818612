"""Whether a model that was rewritten still computes what it did, as far as made-up feeds can tell."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from workers.formats.onnx.graph import all_tensors
from workers.runtimes.session import CPU

Feed = dict[str, NDArray[Any]]

_MOST_ELEMENTS = 250_000_000
"""Stored numbers above which nothing is loaded: in float32 they are a gigabyte."""

_MOST_FED = 1 << 24  # elements of one input

_FREE_AXES = ((2, 8), (1, 8), (1, 64), (1, 256))
"""Sizes of a first axis and of others that a model leaves open: small ones first, then what deep pooling needs."""

_NOISE = 1e-4
"""Share of an output's squares that kernels may round otherwise; another mode of an operator costs far more."""

_LEAST = 1e-7
"""Numbers of this size are what rounding leaves of a difference, as likely as not."""

_FLIPPED = 0.1  # share of integers, such as places of maxima, that may change with the rounding

_FATAL = 4

_TYPES: dict[str, np.dtype[Any]] = {
    f"tensor({name})": np.dtype(name)
    for name in ("float16", "double", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
} | {"tensor(float)": np.dtype(np.float32)}
"""What feeds are made of, by onnxruntime's names."""


def disagreement(
    before: ModelProto, after: ModelProto, aside: Mapping[str, bytes], folder: Path | None = None
) -> str | None:
    """What is wrong with a rewritten model; None where it is right, or where nothing can be told.

    Weights that were set aside are in `aside`, external data in `folder`. Only what the model did before is evidence: a
    feed that it did not run, an output that differs from run to run, and what was not finite say nothing.
    """
    if sum(math.prod(tensor.dims) for tensor in all_tensors(before)) > _MOST_ELEMENTS:
        return None
    try:
        original = _session(before, aside, folder)
    except Exception:  # onnxruntime raises some twenty classes that share no base but Exception
        return None
    feed, wanted = _first_run(original)
    del original  # there is no need for two at a time
    try:
        rewritten = _session(after, aside, folder)
        if feed is None:
            return None
        found = rewritten.run([value.name for value in before.graph.output], feed)
    except Exception as error:
        return f"onnxruntime does not run what came of it: {' '.join(str(error).split())[:160]}"
    for value, one, other in zip(before.graph.output, wanted, found, strict=True):
        if not _alike(one, other):
            return f"what came of it computes another {value.name[:200]!r}"
    return None


def _session(model: ModelProto, aside: Mapping[str, bytes], folder: Path | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.disable_prepacking", "1")  # a copy of the weights for a run or two
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    elif aside:
        model = _with_attributes(model, aside)
        options.add_external_initializers_from_files_in_memory(
            list(aside), list(aside.values()), [len(data) for data in aside.values()]
        )
    return ort.InferenceSession(model.SerializeToString(), options, providers=[CPU], enable_fallback=0)


def _with_attributes(model: ModelProto, aside: Mapping[str, bytes]) -> ModelProto:
    """The model with all that was set aside in its place but the initializers: onnxruntime looks for no others."""
    whole = ModelProto()
    whole.CopyFrom(model)
    external = [tensor for tensor in all_tensors(whole) if tensor.data_location == TensorProto.EXTERNAL]
    found = {tensor.external_data[0].value for tensor in whole.graph.initializer if tensor.external_data}
    for tensor in external:
        place = tensor.external_data[0].value
        if place not in found:
            tensor.raw_data = aside[place]
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    return whole


def _first_run(session: ort.InferenceSession) -> tuple[Feed | None, Sequence[Any]]:
    """The first feed that a model runs, and what it puts out; None where there is none, or it never does the same."""
    for feed in _feeds(session.get_inputs()):
        try:
            first, again = session.run(None, feed), session.run(None, feed)
        except Exception:  # made up as it is, a feed need not fit
            continue
        if all(_alike(one, other) for one, other in zip(first, again, strict=True)):
            return feed, first
        break
    return None, ()


def _feeds(inputs: Sequence[ort.NodeArg]) -> Iterator[Feed]:
    """Seeded feeds of sizes and integers that models may take: normal floats, and small numbers that are not zero."""
    if any(port.type not in _TYPES for port in inputs):
        return
    for most in (2, 1):
        for sizes in _FREE_AXES:
            rng = np.random.default_rng(0)
            named: dict[str, int] = {}
            feed: Feed = {}
            for port in inputs:
                shape = [_size(size, sizes[axis > 0], named) for axis, size in enumerate(port.shape)]
                if math.prod(shape) > _MOST_FED:
                    break
                feed[port.name] = _values(_TYPES[port.type], shape, most, rng)
            else:
                yield feed


def _size(size: int | str | None, free: int, named: dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    return named.setdefault(size, free) if size else free


def _values(dtype: np.dtype[Any], shape: Sequence[int], most: int, rng: np.random.Generator) -> NDArray[Any]:
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape), dtype)
    return np.asarray(rng.integers(1, most + 1, shape), dtype)


def _alike(one: Any, other: Any) -> bool:
    """Whether two outputs are one apart from rounding; what is no tensor is not looked into."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) == isinstance(other, np.ndarray)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return not one.size or bool(np.mean(one != other) <= _FLIPPED)
    finite = np.isfinite(one)
    exact, found = one[finite].astype(np.float64), other[finite].astype(np.float64)
    allowed = _NOISE * (exact**2).sum() + exact.size * _LEAST**2
    return bool(np.isfinite(found).all() and ((exact - found) ** 2).sum() <= allowed)
