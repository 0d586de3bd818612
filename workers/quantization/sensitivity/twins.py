"""One layer by itself, computed in float and with each of its parts quantized, side by side in one small model.

Every variant is given what the layer reads in the float model, so that its error is the layer's own. The nodes are
those that `insert` makes: without optimizations they compute in float what the integers stand for, with them the
runtime computes a variant as it will compute the artifact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from onnx import ModelProto, NodeProto, helper, numpy_helper

from workers.quantization.graph import defined
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.placement import Bias, Placement, Weight
from workers.quantization.qdq.plan import Array, Plan
from workers.quantization.sensitivity.parts import Layer, rounded, shifts_of
from workers.quantization.sensitivity.regions import cut, described, submodel


@dataclass(slots=True)
class Twins:
    """A model with what a layer reads as its inputs and one output a variant.

    `operands` are, in the order of the layer's weights, those with one of them quantized alone; `reads` that with what
    is read quantized, `activations` that with what is made quantized too, `both` that with everything.
    """

    model: ModelProto
    operands: list[str]
    reads: str
    activations: str
    both: str

    @property
    def outputs(self) -> list[str]:
        return [*self.operands, self.reads, self.activations, self.both]

    def only_both(self) -> ModelProto:
        """The last variant by itself."""
        model = ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.append(helper.make_empty_tensor_value_info(self.both))
        (region,) = cut(model, [])
        nodes = [model.graph.node[index] for index in region.nodes]
        inputs = [value for value in model.graph.input if value.name in region.inputs]
        return submodel(model, nodes, inputs, list(model.graph.output))


def make_twins(plan: Plan, layer: Layer, base: ModelProto, values: Mapping[str, Array]) -> Twins:
    """The twins of a layer of `base`, the plan's float model; `values` holds what the layer reads in some run."""
    return _Writer(plan, layer, base, values).twins()


def rounding_of(plan: Plan, tensor: str, base: ModelProto, values: Mapping[str, Array]) -> ModelProto:
    """A model from an activation to what is left of it after it was quantized."""
    node = helper.make_node("Identity", [tensor], [f"{tensor}_rounded"], name="rounded")
    outputs = [helper.make_empty_tensor_value_info(node.output[0])]
    model = submodel(base, [node], [described(tensor, values)], outputs)
    placement = Placement(nodes={node.name}, activations=[tensor], readers={node.name: [0]})
    return insert(Plan(model, placement, plan.activations, {})).model


@dataclass(slots=True)
class _Writer:
    plan: Plan
    layer: Layer
    base: ModelProto
    values: Mapping[str, Array]
    placement: Placement = field(default_factory=Placement)

    def twins(self) -> Twins:
        node, bound = self._originals()
        nodes = [node] if bound is None else [node, bound]
        inside = {name for each in nodes for name in each.output}
        stored = {tensor.name for tensor in self.base.graph.initializer}
        given = dict.fromkeys(name for each in nodes for name in each.input if name)
        inputs = [described(name, self.values) for name in given if name not in stored and name not in inside]
        model = submodel(self.base, nodes, inputs, [])
        del model.graph.node[:]
        self.placement.activations = list(self.layer.reads)
        sub = Plan(model, self.placement, dict(self.plan.activations), {}, {})
        operands = [
            self._with_rounded(sub, nodes, f"_operand_{number}", weight)
            for number, weight in enumerate(self.layer.weights)
        ]
        reads = self._with_activations(sub, nodes, "_reads", [], output=False)
        activations = self._with_activations(sub, nodes, "_activations", [])
        both = self._with_activations(sub, nodes, "_both", self.layer.weights)
        made = insert(sub)
        corrections = [*operands, both] if self._corrected_behind() else []
        names = {name: self._corrected(made.model, name) for name in corrections}
        twins = Twins(
            made.model,
            [names.get(name, name) for name in operands],
            reads,
            activations,
            names.get(both, both),
        )
        del made.model.graph.output[:]
        made.model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in twins.outputs)
        return twins

    def _originals(self) -> tuple[NodeProto, NodeProto | None]:
        """The layer's node, and the bound that a range replaces."""
        nodes = {node.name: node for node in self.base.graph.node}
        node = nodes[self.layer.node]
        for name, source in self.plan.placement.absorbed.items():
            if source == node.output[0]:
                return node, nodes[name]
        return node, None

    def _with_rounded(self, sub: Plan, originals: Sequence[NodeProto], suffix: str, weight: Weight) -> str:
        """Add a copy of the layer that reads one operand rounded; returns its output."""
        made = self._copy(sub, originals, suffix)
        name = f"{weight.tensor}{suffix}"
        sub.model.graph.initializer.append(numpy_helper.from_array(rounded(self.plan, weight), name))
        made[0].input[weight.index] = name
        self._correct_bias(sub, made[0])
        output: str = made[-1].output[0]
        return output

    def _with_activations(
        self, sub: Plan, originals: Sequence[NodeProto], suffix: str, weights: Sequence[Weight], *, output: bool = True
    ) -> str:
        """Add a copy that reads, and maybe makes, quantized activations, with these operands; returns its output."""
        made = self._copy(sub, originals, suffix)
        node, last = made[0], made[-1]
        name: str = last.output[0]
        self._quantize_operands(sub, node, weights)
        sub.placement.readers[node.name] = list(self.plan.placement.readers.get(self.layer.node, ()))
        if output and self.layer.output in self.plan.placement.activations:
            sub.placement.activations.append(name)
            sub.activations[name] = self.plan.activations[self.layer.output]
            if last is not node:
                sub.placement.absorbed[last.name] = node.output[0]
        return name

    def _copy(self, sub: Plan, originals: Sequence[NodeProto], suffix: str) -> list[NodeProto]:
        """Add the layer's nodes once more, by names of their own."""
        made = []
        for each in originals:
            copy = sub.model.graph.node.add()
            copy.CopyFrom(each)
            # Not the name of what it makes, by which `insert` calls nodes.
            copy.name += f"{suffix}/node"
            copy.output[0] += suffix
            made.append(copy)
        for earlier, later in pairwise(made):
            later.input[0] = earlier.output[0]
        sub.placement.nodes.add(made[0].name)
        sub.model.graph.output.append(helper.make_empty_tensor_value_info(made[-1].output[0]))
        return made

    def _quantize_operands(self, sub: Plan, node: NodeProto, weights: Sequence[Weight]) -> None:
        if not weights:
            return
        for weight in weights:
            place, copied = (weight.node, weight.index), (node.name, weight.index)
            sub.placement.weights.append(Weight(node.name, weight.index, weight.tensor, weight.axis, weight.product))
            sub.weights[copied] = self.plan.weights[place]
            if place in self.plan.integers:
                sub.integers[copied] = self.plan.integers[place]
        self._correct_bias(sub, node)
        for bias in self.plan.placement.biases:
            if bias.node == self.layer.node:
                tensor = node.input[bias.index]
                sub.placement.biases.append(Bias(node.name, bias.index, tensor, bias.source, bias.weight))

    def _correct_bias(self, sub: Plan, node: NodeProto) -> None:
        """Let a copy with rounded weights read the bias that makes up for their error, where it is its own."""
        shift = shifts_of(self.plan).get(self.layer.node)
        for bias in self.plan.placement.biases:
            if shift is not None and bias.node == self.layer.node:
                name = f"{bias.tensor}_corrected_{node.name}"
                sub.model.graph.initializer.append(numpy_helper.from_array(self.plan.stored(bias.tensor), name))
                node.input[bias.index] = name

    def _corrected_behind(self) -> bool:
        """Whether an Add behind this product holds what makes up for its weights' error."""
        own = {bias.node for bias in self.plan.placement.biases}
        return self.layer.node in shifts_of(self.plan) and self.layer.node not in own

    def _corrected(self, model: ModelProto, name: str) -> str:
        """Add the correction to what a variant makes, where in the model the Add behind it does."""
        taken = defined(model.graph)
        shift, made = f"{name}_shift", f"{name}_corrected"
        assert not {shift, made} & taken
        values = shifts_of(self.plan)[self.layer.node].values.astype("float32")
        model.graph.initializer.append(numpy_helper.from_array(values, shift))
        model.graph.node.append(helper.make_node("Add", [name, shift], [made], name=made))
        return made
