"""Make the artifact, load it again, and run it over the rows that the original was run on."""

import json
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.domain.ids import derived_id
from app.domain.measurement import Measurement
from workers.quantization.technique import AnyRecipe, Context, quantize, resolve
from workers.steps.artifact import StoredFile, artifact_bytes, describe, sha256_of
from workers.steps.baseline import BaselineResult, accuracy_of
from workers.steps.calibrate import RANGES
from workers.steps.requests import CandidatesRequest, Progress, read_result

OUTPUTS = "outputs.npz"


class Candidate(BaseModel):
    """An artifact that was loaded again and run.

    `recipe` holds no "auto" any more. `file`, and the outputs of `outputs`, are relative to the step's
    folder; `files` to the folder of `file`. `bytes` are those of all files, `sha256` that of `file`.
    `session_options` are required wherever the artifact runs. `unusual` counts rows with infinite values
    or values that are no numbers, by output.
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
    recipe = resolve(request.spec.recipe, features)
    name = request.candidate or _id_of(model, recipe)
    home = folder / name
    home.mkdir(exist_ok=True)
    progress(0.0, f"quantizing: {recipe.technique}")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        produced = quantize(
            model,
            home / "model.onnx",
            recipe,
            Context(work=Path(work), features=features, ranges=scratch / request.calibrate / RANGES),
        )
    progress(0.4, "loading the artifact again")
    notes = [*produced.notes, *_check(produced.file, model)]
    session = _load(produced)
    kept = _run(request, session, baseline, scratch, home, lambda share, text: progress(0.45 + 0.45 * share, text))
    files = describe(produced.file)
    progress(0.9, "comparing with the original")
    measurements = (
        artifact_bytes(files),
        *accuracy_of(request, scratch, baseline, kept),
    )
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
                measurements=measurements,
                notes=(*notes, *kept.notes, *_about_unusual(kept)),
            ),
        )
    )


def _id_of(model: Path, recipe: AnyRecipe) -> str:
    """The same recipe on the same model is the same candidate, however often the step is run."""
    return derived_id("cnd", json.dumps([sha256_of(model), recipe.model_dump(mode="json")], sort_keys=True).encode())
