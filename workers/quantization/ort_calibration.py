"""Ranges of activations, found by running the model over calibration rows (onnxruntime's calibrators)."""

import contextlib
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import ModelProto
from onnxruntime.quantization.calibrate import (
    CalibraterBase,
    CalibrationMethod,
    EntropyCalibrater,
    MinMaxCalibrater,
    PercentileCalibrater,
    TensorData,
    TensorsData,
)

from app.domain.recipe import Calibration
from app.errors import BitpressError, StepError
from workers.quantization.graph import save
from workers.quantization.preparation import Prepared
from workers.quantization.technique import tool_failure
from workers.runtimes.onnx_runtime import OnnxRuntimeSession
from workers.runtimes.session import CPU, Array

Method = Literal["minmax", "percentile", "entropy"]

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}

_HISTOGRAM_FEEDS = 8
"""Feeds between two merges of histograms: onnxruntime holds all their activations until then."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """The lowest and highest value of each activation, by tensor name, and how they were found."""

    method: Method
    samples: int
    tensors: Mapping[str, tuple[float, float]]
    dtypes: Mapping[str, str]

    def write(self, path: Path) -> None:
        """Write them as JSON. The same ranges give the same bytes."""
        document = {
            "method": self.method,
            "samples": self.samples,
            "tensors": {
                name: {"low": low, "high": high, "dtype": self.dtypes[name]}
                for name, (low, high) in sorted(self.tensors.items())
            },
        }
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Ranges":
        """Read what `write` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        tensors = document["tensors"]
        return cls(
            method=document["method"],
            samples=document["samples"],
            tensors={name: (entry["low"], entry["high"]) for name, entry in tensors.items()},
            dtypes={name: entry["dtype"] for name, entry in tensors.items()},
        )

    def for_onnxruntime(self) -> TensorsData:
        """The form that onnxruntime's quantizer takes."""
        return TensorsData(
            CalibrationMethod.MinMax,
            {
                name: TensorData(
                    lowest=np.array(low, dtype=self.dtypes[name]), highest=np.array(high, dtype=self.dtypes[name])
                )
                for name, (low, high) in self.tensors.items()
            },
        )


def collect(
    prepared: Prepared,
    op_types: list[str],
    options: Calibration,
    rows: Iterable[Mapping[str, Array]],
    work: Path,
    *,
    samples: int,
    threads: int = 1,
) -> Ranges:
    """Run the prepared model over rows and find the range of every tensor next to the given operators.

    `rows` yields feeds of `samples` rows in all. `work` is an empty folder. Min-max keeps two numbers a
    tensor and feed; percentile and entropy keep every activation of eight feeds at a time. Raises
    StepError `calibration_not_finite` or `quantization_failed`.
    """
    source = work / "prepared.onnx"
    external = save(prepared.model, source, external=prepared.external)
    try:
        # The calibrators print what they do; the job's log should hold what a reader can use.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            # What is not finite is told below, with the tensor's name.
            warnings.simplefilter("ignore", RuntimeWarning)
            calibrator = _calibrator(source, op_types, options, work / "augmented.onnx", external)
            calibrator.infer_session = OnnxRuntimeSession(
                work / "augmented.onnx", threads=threads, providers=(CPU,), session_options={}, optimization="none"
            ).native
            if options.method == "minmax":
                calibrator.collect_data(_Reader(iter(rows)))
            else:
                for chunk in _chunks(rows, _HISTOGRAM_FEEDS):
                    calibrator.collect_data(_Reader(iter(chunk)))
            found = calibrator.compute_data()
    except BitpressError:
        raise
    except Exception as error:
        raise tool_failure("static_int8", error) from error
    return _ranges(found, prepared.model, options.method, samples)


def _calibrator(
    source: Path, op_types: list[str], options: Calibration, augmented: Path, external: bool
) -> CalibraterBase:
    shared: dict[str, Any] = {
        "model_path": source,
        "op_types_to_calibrate": op_types,
        "augmented_model_path": str(augmented),
        "use_external_data_format": external,
    }
    calibrator: CalibraterBase
    if options.method == "minmax":
        calibrator = MinMaxCalibrater(**shared)
    elif options.method == "percentile":
        calibrator = PercentileCalibrater(**shared, percentile=options.percentile)
    else:
        calibrator = EntropyCalibrater(**shared)
    calibrator.augment_graph()
    return calibrator


def _ranges(found: TensorsData, model: ModelProto, method: Method, samples: int) -> Ranges:
    tensors: dict[str, tuple[float, float]] = {}
    dtypes: dict[str, str] = {}
    # In the order of computation, so that the first tensor to go wrong is the one that is named.
    inputs = [value.name for value in model.graph.input]
    outputs = [name for node in model.graph.node for name in node.output]
    for name in (name for name in (*inputs, *outputs) if name in found):
        data = found[name]
        low, high = (np.asarray(value).reshape(-1)[0] for value in data.range_value)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise StepError(
                f"Tensor {name!r} is infinite or not a number on the calibration rows, so it has no range; "
                "check the rows, or keep the nodes around it in float.",
                code="calibration_not_finite",
            )
        tensors[name] = (float(low), float(high))
        dtypes[name] = str(np.asarray(data.range_value[0]).dtype)
    return Ranges(method=method, samples=samples, tensors=tensors, dtypes=dtypes)


class _Reader:
    """onnxruntime's way of asking for rows: one at a time, None at the end."""

    def __init__(self, rows: Iterator[Mapping[str, Array]]) -> None:
        self._rows = rows

    def get_next(self) -> dict[str, Array] | None:
        row = next(self._rows, None)
        return None if row is None else dict(row)


def _chunks(rows: Iterable[Mapping[str, Array]], size: int) -> Iterator[list[Mapping[str, Array]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk
