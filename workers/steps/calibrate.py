"""Observe activations over the calibration rows, once: a job taken over after this step does not run it again."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from app.domain.recipe import needs_calibration, needs_histograms
from app.errors import StepError
from workers.runtimes.session import Array, available_threads, load
from workers.steps.inputs import Progress
from workers.steps.requests import CalibrateRequest
from workers.steps.rows import DatasetRows

STATISTICS = "statistics.npz"


class CalibrateResult(BaseModel):
    """How many tensors were observed, on how many rows; none where the technique needs none."""

    tensors: int
    samples: int = 0
    file: str | None = None
    notes: tuple[str, ...] = ()


def run(request: CalibrateRequest, scratch: Path, folder: Path, progress: Progress) -> CalibrateResult:
    """Run the model over the calibration rows and write `statistics.npz`.

    Raises StepError `calibration_missing`, or as `workers.quantization.calibration.collect.collect` does.
    """
    recipe = request.spec.made_with
    if not needs_calibration(recipe):
        return CalibrateResult(tensors=0)
    if "calibration" not in request.datasets:
        raise StepError(
            f"{recipe.technique} needs a calibration dataset, from whose rows the ranges of activations are found.",
            code="calibration_missing",
        )
    # Loaded only where something is to be calibrated.
    from workers.quantization.assignment import observed_for, static_recipe
    from workers.quantization.calibration.collect import collect
    from workers.quantization.static import prepare_for

    progress(0.0, "preparing the model")
    model = scratch / request.model
    static = static_recipe(model, recipe)
    if static is None:
        return CalibrateResult(tensors=0)
    prepared, _, placement = prepare_for(model, static)
    session = load(model)
    rows = DatasetRows(session.inputs, request.datasets["calibration"], scratch, "calibration")
    wanted = min(static.calibration.samples, rows.count)
    if wanted == 0:
        raise StepError("The calibration dataset has no rows.", code="dataset_empty")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        seen = collect(
            prepared.model,
            observed_for(recipe, prepared.model, placement),
            lambda: _reported(calibration_feeds(rows, wanted), wanted, progress),
            Path(work),
            external=prepared.external,
            threads=available_threads(),
            histograms=needs_histograms(recipe),
        )
    seen.write(folder / STATISTICS)
    notes: tuple[str, ...] = ()
    if rows.count < static.calibration.samples:
        notes = (
            f"The calibration dataset has {rows.count} row{'s' if rows.count > 1 else ''}, fewer than the "
            f"{static.calibration.samples} asked for.",
        )
    return CalibrateResult(tensors=len(seen.tensors), samples=seen.samples, file=STATISTICS, notes=notes)


def calibration_feeds(rows: DatasetRows, wanted: int) -> Iterator[tuple[dict[str, Array], int]]:
    """The first rows of the calibration dataset, one a call where the model allows it, and how many each call has."""
    size = rows.size(1)
    for index, feeds in enumerate(rows.feeds(size, 0, wanted)):
        yield feeds, min(size, wanted - index * size)


def _reported(
    feeds: Iterator[tuple[dict[str, Array], int]], wanted: int, progress: Progress
) -> Iterator[tuple[dict[str, Array], int]]:
    done = 0
    for index, (given, count) in enumerate(feeds):
        yield given, count
        done += count
        if index % max(1, wanted // 100) == 0:
            progress(done / wanted, f"calibration row {done} of {wanted}")
