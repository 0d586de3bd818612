"""Make the artifact, load it again, and run it over the rows that the original was run on."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from pydantic import BaseModel

from app.domain.ids import derived_id
from app.domain.measurement import Measurement
from app.domain.recipe import AnyRecipe, StaticInt8, calibration_samples, recipes_of
from app.errors import StepError
from workers.evaluation.scores import save_scores
from workers.evaluation.streaming import RowScores
from workers.quantization.calibration.collect import Feeds
from workers.quantization.technique import Context, Produced, quantize, resolve
from workers.runtimes.session import available_threads, load
from workers.steps.artifact import StoredFile, artifact_bytes, describe, sha256_of
from workers.steps.baseline import OUTPUTS, BaselineResult, about_unusual, accuracy_of
from workers.steps.calibrate import STATISTICS, calibration_feeds
from workers.steps.inputs import Progress
from workers.steps.numerics import Numerics, numerics_of
from workers.steps.outputs import Kept, run_over, worthwhile_threads
from workers.steps.requests import CandidatesRequest, read_result
from workers.steps.rows import DatasetRows, rows_of


class Candidate(BaseModel):
    """An artifact that was loaded again and run.

    In `recipe` "auto" is replaced by what it stands for on the target, but for `calibration.method` and `recovery`,
    which only trying can tell: `notes` and `recovery` say what came of them. `file`, and `outputs` with the artifact's
    outputs, are relative to the step's folder; `files` to the folder of `file`. `bytes` are those of all files,
    `sha256` that of `file`. `session_options` are required wherever the artifact runs. `unusual` counts rows with
    infinite values, or values that are no numbers, by output. `recovery` is what each recovery step brought, `numerics`
    what the artifact gives on processors with and without VNNI, `sensitivity` what each layer and tensor costs the
    outputs, as `workers.quantization.sensitivity.result` has it.
    """

    id: str
    recipe: dict[str, Any]
    file: str
    bytes: int
    sha256: str
    files: tuple[StoredFile, ...]
    session_options: dict[str, str]
    outputs: str
    rows: int
    unusual: dict[str, int]
    measurements: tuple[Measurement, ...]
    recovery: tuple[dict[str, Any], ...] = ()
    numerics: Numerics | None = None
    sensitivity: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


class CandidatesResult(BaseModel):
    """Every artifact that was made."""

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()


def run(request: CandidatesRequest, scratch: Path, folder: Path, progress: Progress) -> CandidatesResult:
    """Quantize with the job's recipe, check the result, and compare it with the original.

    Raises StepError as the technique does, or `artifact_does_not_load`.
    """
    baseline = read_result(BaselineResult, scratch, request.baseline)
    model = scratch / request.model
    features = frozenset(request.fingerprint.get("features", ()))
    recipe = resolve(request.spec.made_with, features)
    name = request.candidate or _id_of(model, recipe)
    home = folder / name / "model"
    home.mkdir(parents=True, exist_ok=True)
    progress(0.0, f"quantizing: {recipe.technique}")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        produced = quantize(
            model,
            home / "model.onnx",
            recipe,
            Context(
                work=Path(work),
                features=features,
                statistics=scratch / request.calibrate / STATISTICS,
                feeds=_calibration(request, recipe, scratch),
                threads=available_threads(),
            ),
        )
    progress(0.4, "loading the artifact again")
    notes = [*produced.notes, *_check(produced.file, model)]
    labels = _labels(baseline, scratch / request.baseline)
    scored = RowScores(baseline.metrics, labels, baseline.output)
    kept = _run(
        request,
        produced,
        baseline,
        scratch,
        home.parent,
        lambda share, text: progress(0.45 + 0.45 * share, text),
        scored,
    )
    numerics: Numerics | None = None
    if any(isinstance(each, StaticInt8) for each in recipes_of(recipe)):
        progress(0.9, "emulating other processors")
        session = load(produced.file, session_options=produced.session_options)
        numerics, note = numerics_of(produced, model, rows_of(request, scratch, session))
        notes.append(note)
    progress(0.95, "comparing with the original")
    accuracy = accuracy_of(
        baseline.metrics,
        baseline.source,
        kept,
        output=baseline.output,
        labels=labels,
        scored=scored,
        original=scratch / request.baseline / baseline.outputs,
    )
    save_scores(home.parent, accuracy.scores)
    files = describe(produced.file)
    return CandidatesResult(
        candidates=(
            Candidate(
                id=name,
                recipe=recipe.model_dump(mode="json"),
                file=produced.file.relative_to(folder).as_posix(),
                bytes=sum(file.bytes for file in files),
                sha256=files[0].sha256,
                files=files,
                session_options=produced.session_options,
                outputs=kept.file.relative_to(folder).as_posix(),
                rows=kept.rows,
                unusual=kept.unusual,
                recovery=tuple(asdict(rung) for rung in produced.recovery),
                numerics=numerics,
                sensitivity=asdict(produced.sensitivity) if produced.sensitivity else None,
                measurements=(artifact_bytes(files), *accuracy.measurements),
                notes=(*notes, *kept.notes, *about_unusual(kept, "artifact")),
            ),
        )
    )


def _calibration(request: CandidatesRequest, recipe: AnyRecipe, scratch: Path) -> Feeds | None:
    """The calibration rows that the recipe may use, from the beginning at each call; null without any."""
    if "calibration" not in request.datasets:
        return None
    rows = DatasetRows(load(scratch / request.model).inputs, request.datasets["calibration"], scratch, "calibration")
    asked = calibration_samples(recipe)
    wanted = rows.count if asked is None else min(asked, rows.count)
    return lambda: calibration_feeds(rows, wanted)


def _id_of(model: Path, recipe: AnyRecipe) -> str:
    """The same recipe on the same model is the same candidate, however often the step is run."""
    return derived_id("cnd", json.dumps([sha256_of(model), recipe.model_dump(mode="json")], sort_keys=True).encode())


def _check(file: Path, original: Path) -> list[str]:
    """Hold the artifact against the ONNX standard, as far as the original itself keeps to it."""
    try:
        onnx.checker.check_model(str(file))
    except onnx.checker.ValidationError as error:
        try:
            onnx.checker.check_model(str(original))
        except onnx.checker.ValidationError:
            return ["Neither the original nor the artifact passes ONNX's checker; onnxruntime runs both."]
        raise _does_not_load(" ".join(str(error).split())[:500]) from error
    return []


def _run(
    request: CandidatesRequest,
    produced: Produced,
    baseline: BaselineResult,
    scratch: Path,
    home: Path,
    progress: Progress,
    scored: RowScores,
) -> Kept:
    """Load the artifact as anyone would, then with the options that it requires, and run it."""
    batch = request.spec.measure.batch[0]
    options, runtime, providers = produced.session_options, baseline.runtimes[0], request.providers
    try:
        session = load(produced.file, providers=providers, runtime=runtime)
        if options:
            session = load(produced.file, providers=providers, session_options=options, runtime=runtime)
        rows = rows_of(request, scratch, session)
        if (threads := worthwhile_threads(session, rows, batch)) > 1:
            session = load(
                produced.file, threads=threads, providers=providers, session_options=options, runtime=runtime
            )
        return run_over(
            session,
            rows,
            home / OUTPUTS,
            progress,
            batch=batch,
            wanted=baseline.names,
            most_rows=baseline.rows,
            every=scored.add if scored else None,
        )
    except StepError as error:
        if error.code in ("model_does_not_load", "model_does_not_run"):
            raise _does_not_load(error.detail) from error
        raise


def _does_not_load(reason: str) -> StepError:
    return StepError(
        f"The artifact was made, but does not work: {reason} "
        "Keep the node at fault in float (keep_float), or choose another technique.",
        code="artifact_does_not_load",
    )


def _labels(baseline: BaselineResult, folder: Path) -> dict[str, Any]:
    return {name: np.load(folder / file, allow_pickle=False) for name, file in baseline.labels.items()}
