"""Run an artifact as a processor with or without VNNI would."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnxruntime as ort
from onnx import GraphProto, ModelProto, helper, numpy_helper

from app.errors import StepError
from workers.quantization.emulation.arithmetic import Arithmetic, Array
from workers.quantization.emulation.kernels import KERNELS, Kernel, Tally
from workers.quantization.emulation.lowering import Step, key, lower, steps
from workers.runtimes.onnx_runtime import plain_message

_ERROR = 3


def emulate(
    path: Path,
    feeds: Iterable[Mapping[str, Array]],
    arithmetic: Arithmetic,
    wanted: Sequence[str] | None = None,
    *,
    session_options: Mapping[str, str] | None = None,
    threads: int = 1,
) -> Iterator[dict[str, Array]]:
    """Outputs of a static int8 artifact for each of the feeds, or the tensors `wanted` of the lowered graph.

    Raises StepError `model_does_not_load`, `model_does_not_run`, or `not_emulated`.
    """
    emulator = Emulator(lower(path, session_options), arithmetic, wanted, threads=threads)
    for feed in feeds:
        yield emulator.run(feed)


class Emulator:
    """A lowered model, ready to run.

    Products of 8-bit numbers are emulated. All else is run by onnxruntime itself: float operators, and the integer
    ones that only add, pool, look up or move. Those of them that the artifacts of benchmarks/emulation.py have
    (QuantizeLinear, QLinearAdd, QLinearGlobalAveragePool, …) give the same with AVX2 and with VNNI; that it holds for
    the others is taken for granted, since none of them pairs products.
    """

    def __init__(
        self, model: ModelProto, arithmetic: Arithmetic, wanted: Sequence[str] | None = None, *, threads: int = 1
    ) -> None:
        """Names in `wanted` are tensors of the lowered graph; the model's outputs if None."""
        graph = model.graph
        self.wanted = tuple(wanted) if wanted is not None else tuple(value.name for value in graph.output)
        self._arithmetic = arithmetic
        self._stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._steps: list[Step] = []
        self._runners: list[Kernel | _Part] = []
        later = set(self.wanted)
        for step in reversed(steps(graph)):
            if later.isdisjoint(step.makes()):
                continue  # nobody asks for it
            self._steps.insert(0, step)
            self._runners.insert(0, self._kernel(step) if step.emulated else _Part(model, step, later, threads))
            later |= step.reads()
        self._last = self._last_uses()
        missing = later - self._stored.keys() - {value.name for value in graph.input}
        missing -= {name for step in self._steps for name in step.makes()}
        if missing:
            raise KeyError(f"the lowered graph has no tensor {min(missing)!r}")

    @property
    def tallies(self) -> dict[str, Tally]:
        """What became of the emulated nodes' pairs so far, by node (or its output), in the order of computation."""
        found: dict[str, Tally] = {}
        for runner in self._runners:
            if isinstance(runner, Kernel):
                name = runner.node.name
                found[name if name and name not in found else runner.node.output[0]] = runner.tally
        return found

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """The wanted tensors for one feed. Raises StepError `model_does_not_run`."""
        values: dict[str, Array] = dict(feed)
        for index, (step, runner) in enumerate(zip(self._steps, self._runners, strict=True)):
            if isinstance(runner, Kernel):
                given = [self._value(values, name) if name else None for name in runner.node.input]
                values[runner.node.output[0]] = runner.run(given, self._arithmetic)
            else:
                values.update(runner.run(values))
            for name in step.reads():
                if self._last[name] == index:
                    values.pop(name, None)
        return {name: self._value(values, name) for name in self.wanted}

    def _value(self, values: Mapping[str, Array], name: str) -> Array:
        return values[name] if name in values else self._stored[name]

    def _kernel(self, step: Step) -> Kernel:
        node = step.nodes[0]
        return KERNELS[key(node)](node, self._stored.keys())

    def _last_uses(self) -> dict[str, int]:
        """The step after which a value is not needed any more; -1 for those that are wanted."""
        last = {name: index for index, step in enumerate(self._steps) for name in step.reads()}
        return last | dict.fromkeys(self.wanted, -1)


class _Part:
    """Some nodes of a graph that the runtime runs; its session is made when it is first needed."""

    def __init__(self, model: ModelProto, step: Step, later: set[str], threads: int) -> None:
        self._model = model
        self._step = step
        self._threads = threads
        stored = {tensor.name for tensor in model.graph.initializer}
        self._inputs = sorted(step.reads() - stored)
        self._outputs = sorted(step.makes() & later)
        self._session: ort.InferenceSession | None = None

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """What others need of it."""
        given = {name: values[name] for name in self._inputs}
        try:
            if self._session is None:
                self._session = self._load(given)
            made = self._session.run(self._outputs, given)
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise StepError(
                f"onnxruntime cannot run a part of the model: {plain_message(error, Path())}", code="model_does_not_run"
            ) from error
        return dict(zip(self._outputs, made, strict=True))

    def _load(self, given: Mapping[str, Array]) -> ort.InferenceSession:
        options = ort.SessionOptions()
        # The nodes are what the runtime made of the whole model: here it is to run them as they are.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = self._threads
        options.log_severity_level = _ERROR
        model = ModelProto(ir_version=self._model.ir_version, opset_import=self._model.opset_import)
        model.functions.extend(self._model.functions)
        model.graph.CopyFrom(self._graph(given))
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def _graph(self, given: Mapping[str, Array]) -> GraphProto:
        reads = self._step.reads()
        return helper.make_graph(
            self._step.nodes,
            "part",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
                for name, array in given.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in self._outputs],
            [tensor for tensor in self._model.graph.initializer if tensor.name in reads],
        )
