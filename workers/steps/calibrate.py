"""Find the ranges of activations, once: a job taken over after this step does not run it again."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from app.domain.recipe import StaticInt8
from app.errors import StepError
from workers.runtimes.session import Array, load
from workers.steps.outputs import worthwhile_threads
from workers.steps.requests import CalibrateRequest, Progress
from workers.steps.rows import DatasetRows

RANGES = "ranges.json"


class CalibrateResult(BaseModel):
    """How many tensors have a range, from how many rows; none where the technique needs none."""

    tensors: int
    samples: int = 0
    method: str | None = None
    file: str | None = None
    notes: tuple[str, ...] = ()


def run(request: CalibrateRequest, scratch: Path, folder: Path, progress: Progress) -> CalibrateResult:
    """Run the model over the calibration rows and write `ranges.json`.

    Raises StepError `calibration_missing`, or as `workers.quantization.calibration.collect` does.
    """
    recipe = request.spec.recipe
    if not isinstance(recipe, StaticInt8):
        return CalibrateResult(tensors=0)
    if "calibration" not in request.datasets:
        raise StepError(
            "static_int8 needs a calibration dataset, from whose rows the ranges of activations are found.",
            code="calibration_missing",
        )
    # Loaded only where something is to be calibrated.
    from workers.quantization.calibration import collect
    from workers.quantization.techniques.static_int8 import chosen_op_types, prepare_for

    progress(0.0, "preparing the model")
    model = scratch / request.model
    prepared = prepare_for(model, recipe)
    session = load(model)
    rows = DatasetRows(session.inputs, request.datasets["calibration"], scratch, "calibration")
    wanted = min(recipe.calibration.samples, rows.count)
    if wanted == 0:
        raise StepError("The calibration dataset has no rows.", code="dataset_empty")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        ranges = collect(
            prepared,
            chosen_op_types(recipe),
            recipe.calibration,
            _reported(rows, wanted, progress),
            Path(work),
            samples=wanted,
            threads=worthwhile_threads(session, rows),
        )
    ranges.write(folder / RANGES)
    notes = prepared.notes
    if rows.count < recipe.calibration.samples:
        notes += (
            f"The calibration dataset has {rows.count} rows, fewer than the {recipe.calibration.samples} asked for.",
        )
    return CalibrateResult(
        tensors=len(ranges.tensors), samples=ranges.samples, method=ranges.method, file=RANGES, notes=notes
    )


def _reported(rows: DatasetRows, wanted: int, progress: Progress) -> Iterator[dict[str, Array]]:
    size = rows.size(1)
    for index, feeds in enumerate(rows.feeds(size, 0, wanted)):
        yield feeds
        if index % max(1, wanted // 100) == 0:
            done = min(wanted, (index + 1) * size)
            progress(done / wanted, f"calibration row {done} of {wanted}")
