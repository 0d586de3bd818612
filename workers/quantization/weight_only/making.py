"""From options to a quantized model: which products, in what order, with which algorithm."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto

from app.domain.recipe import WeightOnly
from workers.quantization.technique import Context
from workers.quantization.weight_only import awq, choices, folding, products, statistics
from workers.quantization.weight_only.blocks import Floats, Grid, Matrix, packed
from workers.quantization.weight_only.folding import Fold
from workers.quantization.weight_only.gptq import gptq
from workers.quantization.weight_only.hqq import hqq
from workers.quantization.weight_only.light import Light
from workers.quantization.weight_only.mse import mse
from workers.quantization.weight_only.panels import Fit, check_finite, quantize_matrix, rows_of
from workers.quantization.weight_only.products import Product, Table
from workers.quantization.weight_only.rtn import rtn
from workers.quantization.weight_only.storage import Mapped, Sink
from workers.quantization.weight_only.transform import Quantize, Transform

_DATA_FREE: Mapping[str, Fit] = {"rtn": rtn, "mse": mse, "hqq": hqq}

_CALIBRATED = frozenset({"gptq", "awq"})


class Making:
    """One run of the technique. `options` are resolved; `notes` say afterwards what was done otherwise than asked."""

    def __init__(self, light: Light, options: WeightOnly, sink: Sink, context: Context) -> None:
        self._light, self._options, self._context = light, options, context
        self._transform = Transform(light, sink, level=int(options.accuracy_level), qdq=options.form == "qdq")
        self.notes: tuple[str, ...] = ()
        found = products.find_products(light.model)
        self._heads = products.heads(light.model, found)
        self._products = [product for product in found if self._wanted(product)]
        self._tables = self._wanted_tables() if options.embeddings == "quantize" else []

    def finds_work(self) -> bool:
        """Whether there is anything to quantize."""
        return bool(self._products or self._tables)

    def run(self) -> None:
        """Quantize every product and table. Raises StepError, see the technique."""
        free: Fit = _DATA_FREE.get(self._options.algorithm, mse)
        if self._options.algorithm not in _CALIBRATED:
            for group in self._groups(self._products):
                self._put(group, [self._freely(product, free) for product in group])
        else:
            self._quantize_calibrated(free)
        for table in self._tables:
            self._quantize_table(table, free)

    def write(self, path: Path) -> None:
        """Write the model's own file."""
        self._transform.write(path)

    def _wanted(self, product: Product) -> bool:
        name = product.node.name
        if name in self._light.kept or (self._options.heads == "keep" and name in self._heads):
            return False
        if self._options.form == "qdq" and self._options.bits == 2 and product.outputs % 4:
            # onnxruntime 1.32 fuses such a DequantizeLinear into a MatMulNBits that computes something else.
            self.notes += (f"{name} stays in float: ONNX Runtime misreads 2-bit weights of {product.outputs} outputs.",)
            return False
        return True

    def _wanted_tables(self) -> list[Table]:
        each = 8 // self._options.bits
        found = products.find_tables(self._light.model)
        return [table for table in found if table.node.name not in self._light.kept and not table.weight.dims[1] % each]

    def _grids_of(self, product: Product) -> tuple[Grid, Grid]:
        """The grid that is stored, and the one that is fitted."""
        eight = self._options.heads == "8" and product.node.name in self._heads
        stored = choices.storage_grid(self._options, product.inputs, 8 if eight else self._options.bits)
        return stored, choices.fitting_grid(self._options, stored, product.inputs)

    def _groups(self, found: Sequence[Product]) -> list[list[Product]]:
        """Products that can become one: of one activation, in one graph, on one grid, each with its own weights."""
        readers = Counter(product.weight.name for product in self._products)
        groups: dict[object, list[Product]] = {}
        for product in found:
            alike: object = product.node.name
            if self._options.form == "matmul_nbits" and product.node.op_type == "MatMul":
                grid = self._grids_of(product)[0]
                alike = (product.node.input[0], id(product.graph), grid, product.weight.data_type)
            if readers[product.weight.name] > 1:
                alike = product.node.name
            groups.setdefault(alike, []).append(product)
        return list(groups.values())

    def _put(self, group: Sequence[Product], quantizers: Sequence[Quantize]) -> None:
        """Give one product its quantized weights, or several that become one."""
        grid = self._grids_of(group[0])[0]
        if len(group) == 1:
            self._transform.product(group[0], grid, quantizers[0])
        else:
            self._transform.merge(group, grid, quantizers)

    def _freely(self, product: Product, fit: Fit) -> Quantize:
        stored, fitted = self._grids_of(product)

        def quantize(weights: Mapped) -> Matrix:
            made = quantize_matrix(
                weights,
                fitted,
                fit,
                name=product.weight.name,
                rows_stored=product.rows_stored,
                factor=product.factor,
                threads=self._context.threads,
            )
            return _stored_as(made, stored)

        return quantize

    def _quantize_table(self, table: Table, fit: Fit) -> None:
        stored = choices.storage_grid(self._options, table.weight.dims[1], self._options.bits)
        fitted = choices.fitting_grid(self._options, stored, table.weight.dims[1])

        def quantize(weights: Mapped) -> Matrix:
            made = quantize_matrix(
                weights, fitted, fit, name=table.weight.name, rows_stored=True, threads=self._context.threads
            )
            return _stored_as(made, stored)

        self._transform.table(table, stored, quantize)

    def _quantize_calibrated(self, free: Fit) -> None:
        """Share after share of the products, last ones first, with the moments of their inputs.

        What is folded goes into products that come earlier, which are still to be quantized then.
        """
        if self._context.feeds is None:
            raise statistics.missing()
        # What is no number makes activations that are none, and the rows would be blamed.
        for product in self._products:
            with Mapped(product.weight, self._light.folder) as stored:
                check_finite(stored.values, product.weight.name)
        original = ModelProto()
        original.CopyFrom(self._light.model)
        folds = folding.find_folds(self._light.model, self._products) if self._options.algorithm == "awq" else {}
        groups: dict[str, list[Product]] = {}
        for product in self._products:
            if not product.nested:
                groups.setdefault(product.node.input[0], []).append(product)
        sizes = {name: group[0].inputs for name, group in reversed(groups.items())}
        if self._options.algorithm == "awq":
            self.notes += (
                f"awq scales {len(folds)} of {len(groups)} activations; the others are not made by what it "
                "could fold the scales into.",
            )
        factors: dict[str, Floats] = {}
        for share in statistics.shares(sizes):
            moments = statistics.second_moments(
                original, self._light.folder, share, self._context.feeds, self._options.samples, self._context.threads
            )
            for name in share:
                scales = self._scales(folds.get(name), groups[name], moments[name], factors)
                for group in self._groups(groups[name]):
                    made = [
                        self._by_moments(product, moments[name], scales, factors.get(product.node.name))
                        for product in group
                    ]
                    self._put(group, made)
        self._quantize_nested(free)

    def _quantize_nested(self, fit: Fit) -> None:
        nested = [product for product in self._products if product.nested]
        for group in self._groups(nested):
            self._put(group, [self._freely(product, fit) for product in group])
        if nested:
            self.notes += (
                f"{len(nested)} products in bodies of control flow were quantized without calibration, by mse.",
            )

    def _scales(
        self, fold: Fold | None, group: list[Product], moments: Floats, factors: dict[str, Floats]
    ) -> Floats | None:
        """The factors of the group's inputs; their inverse is folded, or noted for the product that is to have it."""
        if fold is None:
            return None
        matrices = []
        for product in group:
            with Mapped(product.weight, self._light.folder) as stored:
                rows = rows_of(stored, product.rows_stored, product.factor, 0, product.outputs)
            check_finite(rows, product.weight.name)
            matrices.append((rows, self._grids_of(product)[1]))
        scales = awq.channel_scales(matrices, moments)
        inverse = (1 / scales).astype(np.float32)
        fold.apply(inverse, self._light.folder)
        if fold.product:
            factors[fold.product] = inverse
        return scales

    def _by_moments(self, product: Product, moments: Floats, scales: Floats | None, factor: Floats | None) -> Quantize:
        """One product by its moments; its inputs are multiplied by `scales`, its outputs by `factor`."""
        stored, fitted = self._grids_of(product)

        def quantize(weights: Mapped) -> Matrix:
            rows = rows_of(weights, product.rows_stored, product.factor, 0, product.outputs)
            check_finite(rows, product.weight.name)
            seen = moments
            if factor is not None:
                rows = rows * factor[:, None]
            if scales is not None:
                rows, seen = rows * scales, moments / np.outer(scales, scales)
            made = gptq(rows, seen, fitted, threads=self._context.threads)
            return _stored_as(packed(made, fitted), stored)

        return quantize


def _stored_as(matrix: Matrix, grid: Grid) -> Matrix:
    """The same matrix in smaller blocks, each with the scale of the one that it is a part of."""
    outputs, blocks = matrix.scales.shape
    codes = matrix.codes.reshape(outputs, -1, grid.block * grid.bits // 8)
    times = codes.shape[1] // blocks
    if times == 1:
        return matrix
    return Matrix(codes, np.repeat(matrix.scales, times, axis=1), np.repeat(matrix.zeros, times, axis=1))
