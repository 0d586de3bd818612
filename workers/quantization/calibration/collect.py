"""One pass over the calibration rows: run the model, and observe every tensor that needs a range."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from app.errors import StepError
from workers.quantization.calibration.blocked import leave_blocked, worth_it
from workers.quantization.calibration.statistics import Extremes, Observer, Statistics
from workers.quantization.graph import save
from workers.runtimes.session import Array, Session, load

Feeds = Callable[[], Iterator[tuple[Mapping[str, Array], int]]]
"""Starts over the calibration rows: yields feeds, and how many rows each has."""

SLICE_BYTES = 512 << 20
"""Tensors that leave the runtime at a time, at most, of all feeds that run then; what needs more is observed in
several passes."""

ABREAST = 4
"""Feeds that run at the same time, at most: one on each core is faster than one after the other on all of them, and
observing one does not wait for running the next."""


def collect(
    model: ModelProto,
    tensors: Sequence[str],
    feeds: Feeds,
    work: Path,
    *,
    external: bool = False,
    threads: int = 1,
    slice_bytes: int = SLICE_BYTES,
    histograms: bool = True,
) -> Statistics:
    """Run a model over calibration rows and observe its float tensors of these names, inputs among them.

    `work` is an empty folder. Without `histograms` only extremes are observed. Raises StepError
    `calibration_not_finite`, which names the first tensor in the order of computation that is infinite or no
    number, `calibration_empty` without rows or numbers in them, or as the runtime does.
    """
    inputs = {value.name for value in model.graph.input}
    wanted = list(dict.fromkeys(tensors))
    observers = {name: Observer(histogram=histograms) for name in wanted}
    inner = [name for name in wanted if name not in inputs]
    abreast = min(threads, ABREAST)
    samples = 0
    for number, part in enumerate(slices(model, inner, feeds, slice_bytes // abreast) or [[]]):
        path = work / f"observed-{number}.onnx"
        session, places = _session(model, part, path, external=external, threads=threads // abreast)
        given = part if number else [*(name for name in wanted if name in inputs), *part]
        samples = _observe(session, {name: observers[name] for name in given}, places, feeds, abreast)
    if samples == 0:
        raise StepError("The calibration dataset has no rows.", code="calibration_empty")
    if observers and not any(seen.seen for seen in observers.values()):
        raise StepError(
            "The calibration rows are empty arrays: no tensor held a number. Give rows with elements.",
            code="calibration_empty",
        )
    _raise_if_not_finite(model, observers)
    return Statistics(samples, {name: seen.statistics() for name, seen in observers.items() if seen.seen})


def _observe(
    session: Session, observers: Mapping[str, Observer], places: Mapping[str, str], feeds: Feeds, abreast: int
) -> int:
    """Show each observer its tensor of every feed; returns the number of rows.

    `places` are the names of the session's outputs, by those of the tensors that they are.
    """
    outputs = list(places.values())

    def look(given: Mapping[str, Array], rows: int) -> list[Extremes | None]:
        found = dict(given) | dict(zip(places, session.run(given, outputs) if outputs else [], strict=True))
        return [observer.look(found[name], rows) for name, observer in observers.items()]

    def take(found: list[Extremes | None]) -> None:
        for observer, each in zip(observers.values(), found, strict=True):
            observer.take(each)

    samples = 0
    with ThreadPoolExecutor(abreast) as pool:
        running: deque[Future[list[Extremes | None]]] = deque()
        for given, rows in feeds():
            running.append(pool.submit(look, given, rows))
            samples += rows
            if len(running) > abreast:  # the next one's rows are read meanwhile
                take(running.popleft().result())
        for each in running:
            take(each.result())
    return samples


def _session(
    model: ModelProto, observed: Sequence[str], path: Path, *, external: bool, threads: int
) -> tuple[Session, Mapping[str, str]]:
    """The model with these tensors as its outputs, optimized as it will be when it is used, and their names there."""
    source = ModelProto()
    source.CopyFrom(model)
    kept = {value.name: value for value in source.graph.output}
    if observed:
        del source.graph.output[:]
        source.graph.output.extend(kept.get(name) or helper.make_empty_tensor_value_info(name) for name in observed)
        _type_outputs(source)
    save(source, path, external=external)
    places = {name: name for name in observed}
    if external or not worth_it(source):
        return load(path, threads=threads), places
    blocked = path.with_name(f"blocked-{path.name}")
    places |= leave_blocked(path, blocked)
    return load(blocked, threads=threads, optimization="none"), places


def _type_outputs(model: ModelProto) -> None:
    """Say what element type each observed tensor has; the runtime wants it and finds the shape itself."""
    known = {value.name: value for value in model.graph.value_info}
    for value in model.graph.output:
        if not value.HasField("type"):
            kind = known[value.name].type.tensor_type.elem_type if value.name in known else TensorProto.FLOAT
            value.type.tensor_type.elem_type = kind


def slices(model: ModelProto, tensors: Sequence[str], feeds: Feeds, most: int) -> list[list[str]]:
    """The tensors in parts of at most so many bytes, judged by shapes inferred for the first feed."""
    first = next(islice(feeds(), 1), None)
    sizes = _sizes(model, {} if first is None else first[0])
    unknown = max(sizes.values(), default=0)  # as large as the largest whose size is known
    parts: list[list[str]] = []
    left = 0
    for name in tensors:
        size = sizes.get(name, unknown)
        if not parts or size > left:
            parts.append([])
            left = most
        parts[-1].append(name)
        left -= size
    return parts


def _sizes(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Bytes of each float tensor whose shape can be inferred for inputs of these shapes."""
    shaped = ModelProto()
    shaped.CopyFrom(model)
    for tensor in shaped.graph.initializer:
        if len(tensor.raw_data) > 1024:
            tensor.ClearField("raw_data")  # shapes are inferred from small tensors alone
    for value in shaped.graph.input:
        if value.name in feeds:
            del value.type.tensor_type.shape.dim[:]
            for size in feeds[value.name].shape:
                value.type.tensor_type.shape.dim.add().dim_value = size
    del shaped.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(shaped)
    sizes = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        shape = value.type.tensor_type.shape
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in shape.dim):
            sizes[value.name] = 4 * int(np.prod([axis.dim_value for axis in shape.dim], dtype=np.int64))
    return sizes


def _raise_if_not_finite(model: ModelProto, observers: Mapping[str, Observer]) -> None:
    # In the order of computation, so that the first tensor to go wrong is the one that is named.
    names: list[str] = [value.name for value in model.graph.input]
    names += [name for node in model.graph.node for name in node.output]
    for name in (name for name in names if name in observers and observers[name].seen):
        seen: Any = observers[name].statistics()
        if not (np.isfinite(seen.low) and np.isfinite(seen.high)):
            raise StepError(
                f"Tensor {name!r} is infinite or not a number on the calibration rows, so it has no range; "
                "check the rows, or keep the nodes around it in float.",
                code="calibration_not_finite",
            )
