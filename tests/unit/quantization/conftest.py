"""Quantize a model in one call: calibration, technique, loading the result."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from app.domain.recipe import AnyRecipe, needs_calibration
from tests.parts.models import Array, save
from workers.quantization.assignment import observed_for, static_recipe
from workers.quantization.calibration.collect import collect
from workers.quantization.calibration.statistics import Statistics
from workers.quantization.static import prepare_for
from workers.quantization.technique import Context, Produced, quantize, resolve
from workers.runtimes.session import Session, load

Feeds = dict[str, Array]


@dataclass(frozen=True)
class Made:
    """An artifact beside its original, and what both put out on the same rows."""

    produced: Produced
    proto: ModelProto
    session: Session
    feeds: list[Feeds]
    original: list[list[Array]]
    artifact: list[list[Array]]

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise over all outputs and rows."""
        pairs = [
            (before.astype(np.float64), after.astype(np.float64))
            for row, other in zip(self.original, self.artifact, strict=True)
            for before, after in zip(row, other, strict=True)
        ]
        signal = sum(float((before**2).sum()) for before, _ in pairs)
        noise = sum(float(((before - after) ** 2).sum()) for before, after in pairs)
        return float(10 * np.log10(signal / noise)) if noise else 200.0

    @property
    def op_types(self) -> list[str]:
        """Operator types of the main graph, in order."""
        return [node.op_type for node in self.proto.graph.node]


Maker = Callable[..., Made]


def random_feeds(session: Session, rows: int = 16, axis: int = 5) -> list[Feeds]:
    """Seeded rows: normal floats, small ids, masks of ones; dynamic axes 1 for the batch and `axis` else."""
    made = []
    for row in range(rows):
        rng = np.random.default_rng(row)
        feeds: Feeds = {}
        for port in session.inputs:
            shape = [
                size if isinstance(size, int) else (1 if not index else axis) for index, size in enumerate(port.shape)
            ]
            if port.dtype == "int64":
                feeds[port.name] = np.ones(shape, np.int64) if "mask" in port.name else rng.integers(0, 40, shape)
            else:
                feeds[port.name] = rng.standard_normal(shape).astype(np.float32)
        made.append(feeds)
    return made


def observe(path: Path, recipe: AnyRecipe, rows: list[Feeds], work: Path) -> Statistics:
    """What calibration sees of a model on these rows; nothing where no node is left to a static technique."""
    static = static_recipe(path, recipe)
    if static is None:
        return Statistics(0, {})
    prepared, _, placement = prepare_for(path, static)
    names = observed_for(recipe, prepared.model, placement)
    return collect(prepared.model, names, lambda: ((row, 1) for row in rows), work)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    def made(
        model: ModelProto,
        recipe: AnyRecipe,
        *,
        features: frozenset[str] = frozenset(),
        external: bool = False,
        feeds: list[Feeds] | None = None,
    ) -> Made:
        path = save(model, tmp_path / "original" / "model.onnx", external=external)
        original = load(path)
        rows = feeds if feeds is not None else random_feeds(original)
        recipe = resolve(recipe, features)
        work = tmp_path / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        statistics = tmp_path / "statistics.npz"
        context = Context(work=work, features=features, statistics=statistics, feeds=lambda: ((row, 1) for row in rows))
        if needs_calibration(recipe):
            observe(path, recipe, rows, work).write(statistics)
        out = tmp_path / "artifact" / "model.onnx"
        out.parent.mkdir(exist_ok=True)
        produced = quantize(path, out, recipe, context)
        onnx.checker.check_model(str(produced.file), full_check=True)
        session = load(produced.file, session_options=produced.session_options)
        dtypes = {port.name: port.dtype for port in session.inputs}
        return Made(
            produced=produced,
            proto=onnx.load(produced.file),
            session=session,
            feeds=rows,
            original=[original.run(row) for row in rows],
            artifact=[session.run({name: values.astype(dtypes[name]) for name, values in row.items()}) for row in rows],
        )

    return made
