"""Ours, made in a process of its own as the peers' are: `auto` resolved for this machine."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.domain.recipe import RECIPE, calibration_samples, needs_histograms
from benchmarks.models.workload import Feed
from benchmarks.quantization.peer.making import main
from workers.hardware.probe import probe
from workers.quantization.assignment import observed_for, static_recipe
from workers.quantization.calibration.collect import collect
from workers.quantization.static import prepare_for
from workers.quantization.technique import Context, quantize, resolve


def make(model: Path, feeds: Sequence[Feed], out: Path, **options: Any) -> dict[str, str]:
    """Carry out a recipe as a job does: calibrate where the technique needs it, then quantize."""
    features = frozenset(probe().features)
    recipe = resolve(RECIPE.validate_python(options), features)
    threads = os.cpu_count() or 1
    feeds = feeds[: calibration_samples(recipe)]
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        statistics = None
        if (static := static_recipe(model, recipe)) is not None:
            prepared, _, placement = prepare_for(model, static)
            folder = Path(name, "calibration")
            folder.mkdir()
            statistics = Path(name, "statistics.npz")
            collect(
                prepared.model,
                observed_for(recipe, prepared.model, placement),
                lambda: ((dict(feed), 1) for feed in feeds),
                folder,
                external=prepared.external,
                threads=threads,
                histograms=needs_histograms(recipe),
            ).write(statistics)
        work = Path(name, "work")
        work.mkdir()
        context = Context(work, features, statistics, lambda: ((dict(feed), 1) for feed in feeds), threads)
        made = quantize(model, out, recipe, context)
    for note in made.notes:
        print(note)
    return made.session_options


CONFIGURATIONS: dict[str, tuple[Any, dict[str, Any]]] = {}
for _technique in ("static_int8", "dynamic_int8"):
    CONFIGURATIONS[_technique] = (make, {"technique": _technique})
    # The table of a language model's words is most of its weights; peers make 8 bits of it without being asked.
    CONFIGURATIONS[f"mixed, {_technique}, embeddings in 8 bits"] = (
        make,
        {
            "technique": "mixed",
            "parts": [
                {
                    "nodes": [{"op_type": "Gather"}],
                    "recipe": {"technique": "weight_only", "bits": 8, "block_size": 128, "embeddings": "quantize"},
                }
            ],
            "rest": {"technique": _technique},
        },
    )
for _block in (64, 128):
    for _algorithm in ("rtn", "mse", "hqq", "gptq", "awq"):
        CONFIGURATIONS[f"weight_only, {_algorithm}, block {_block}"] = (
            make,
            {"technique": "weight_only", "algorithm": _algorithm, "block_size": _block, "samples": 1000},
        )

if __name__ == "__main__":
    main(["onnxruntime", "onnx"], CONFIGURATIONS)
