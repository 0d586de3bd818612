"""The float model as regions: run once whole, then again only where something was changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, helper

from app.errors import StepError
from workers.quantization.graph import captured, sort_nodes
from workers.quantization.judged import judged_tensors, names_within
from workers.quantization.qdq.plan import Array, Plan
from workers.quantization.sensitivity.metering import Meter, Metered, Work, measured_work
from workers.quantization.sensitivity.outputs import Score, same, score
from workers.quantization.sensitivity.parts import Layer, float_model, made_in_integers
from workers.quantization.sensitivity.regions import cut, extract

Values = Mapping[str, Array]


class Network:
    """A plan's float model, and what it makes of some feeds.

    `base` is that model, and `model` the same with `entries`: by quantized activation, the tensor that those of its
    readers read which read it quantized. `outputs` are the floating ones, or what `judged_tensors` has for them.
    Raises StepError `outputs_not_floating` where there is nothing to compare, and as `measured_work`.
    """

    def __init__(
        self, plan: Plan, layers: Sequence[Layer], feeds: Sequence[Values], folder: Path, meter: Meter
    ) -> None:
        self.base = float_model(plan)
        self.model = ModelProto()
        self.model.CopyFrom(self.base)
        self.entries = _give_entries(self.model, plan)
        self._judged = judged_tensors(self.base)
        self.outputs = names_within(self.model, self._judged)
        if not self.outputs:
            raise StepError(
                "No output hangs on floating numbers, so quantizing costs the outputs nothing.",
                code="outputs_not_floating",
            )
        self._folder = folder
        self._meter = meter
        self.work: Work = measured_work(self.model, feeds, folder / "work.onnx", meter=meter)
        self._regions = cut(self.model, self._ends(plan, layers))
        self._sessions: dict[int, Metered] = {}
        names = [name for region in self._regions for name in region.outputs]
        self._crossing = list(dict.fromkeys([*self.outputs, *names]))
        self._whole = meter.observe(self.model, self._crossing, folder / "whole.onnx", self.work.total)

    def outputs_of(self, model: ModelProto) -> list[str]:
        """The names that the outputs have in a model that was made of the float one."""
        return names_within(model, self._judged)

    def run(self, feed: Values) -> list[Array]:
        """The outputs of the float model."""
        return self._whole.run(feed, self.outputs)

    def run_whole(self, feed: Values) -> dict[str, Array]:
        """Everything that crosses from one region to another, what is fed included."""
        return {**feed, **dict(zip(self._crossing, self._whole.run(feed, self._crossing), strict=True))}

    def with_changes(self, floats: Values, changed: Values) -> dict[str, Array]:
        """What of a run comes out otherwise when these tensors are changed, themselves included.

        None of them hangs on another.
        """
        found = dict(changed)
        nodes = self.model.graph.node
        for number, region in enumerate(self._regions):
            if not any(name in found for name in region.inputs):
                continue
            if number not in self._sessions:
                work = self.work.of(nodes[index].name for index in region.nodes)
                model = extract(self.model, region, floats)
                self._sessions[number] = self._meter.load(model, self._folder / f"region-{number}.onnx", work)
            given = {name: found[name] if name in found else floats[name] for name in region.inputs}
            made = self._sessions[number].run(given, region.outputs)
            found |= dict(zip(region.outputs, made, strict=True))
        return found

    def effect_of(self, floats: Values, changed: Values) -> Score:
        """What changed tensors do to the outputs of a feed."""
        found = self.with_changes(floats, changed)
        exact = [floats[name] for name in self.outputs]
        if not any(name in found for name in self.outputs):
            return same(exact)
        return score(exact, [found.get(name, value) for name, value in zip(self.outputs, exact, strict=True)])

    def _ends(self, plan: Plan, layers: Sequence[Layer]) -> list[str]:
        """Tensors that something is changed at, that a layer reads or that outputs are judged by."""
        stored = {tensor.name for tensor in self.model.graph.initializer}
        nodes = {node.name: node for node in self.model.graph.node}
        read = [name for layer in layers for name in nodes[layer.node].input if name and name not in stored]
        return [
            *self.outputs,
            *read,
            *(layer.output for layer in layers),
            *plan.placement.activations,
            *self.entries.values(),
        ]


def _give_entries(model: ModelProto, plan: Plan) -> dict[str, str]:
    """Let what reads a tensor quantized read it by a name of its own, where something else reads it in float."""
    graph, placement = model.graph, plan.placement
    outputs = {value.name for value in graph.output}
    caught = {name for node in graph.node for name in captured(node)}
    in_integers = made_in_integers(plan)
    entries = {}
    for name in placement.activations:
        readers = [
            (node, index)
            for node in graph.node
            for index, given in enumerate(node.input)
            if given == name and (name in in_integers or index in placement.readers.get(node.name, ()))
        ]
        others = sum(given == name for node in graph.node for given in node.input) > len(readers) or name in caught
        entries[name] = name
        if others or (name in outputs and name not in in_integers):
            entries[name] = f"{name}_read_quantized"
            graph.node.append(helper.make_node("Identity", [name], [entries[name]], name=entries[name]))
            for node, index in readers:
                node.input[index] = entries[name]
    sort_nodes(graph)
    return entries
