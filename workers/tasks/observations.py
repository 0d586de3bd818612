"""By what a calibration is known: all that its result depends on, and nothing else."""

import hashlib
import json
from typing import Any

from app.domain.dataset import ALL
from app.domain.recipe import Static, calibration_samples, needs_calibration, needs_histograms
from app.services.work import ClaimedJob

_VERSIONS = ("bitpress", "onnxruntime", "onnx", "numpy")
_FORM = 2
"""Of the file that observations are kept in: another one wherever what it holds changes."""


def observation_key(job: ClaimedJob, fingerprint: dict[str, Any], chosen: str | None = None) -> str | None:
    """A digest of the model's and the data's bytes, of what decides which tensors are observed on which rows, and of
    the versions that observe them, as 64 hex digits; None where the job needs no calibration.

    How ranges are found afterwards is no part of it, but for whether it takes histograms: every method reads the same
    observations. `chosen` tells which rows of a dataset for all roles are those of calibration; None: all of them.
    """
    recipe = job.spec.made_with
    rows = job.datasets.get("calibration") or job.datasets.get(ALL)
    if not needs_calibration(recipe) or rows is None:
        return None
    # Of a mixed recipe every part may decide which tensors are observed.
    whole = not isinstance(recipe, Static)
    decides = None if whole else {"technique", "op_types", "keep_float", "activation_type", "requantize"}
    versions = fingerprint.get("versions", {})
    known_by = {
        "form": _FORM,
        "model": [job.model.sha256, job.model.file_name],
        "data": [rows.sha256, rows.file_name, rows.preprocess, *([chosen] if chosen is not None else [])],
        "recipe": recipe.model_dump(mode="json", include=decides),
        "samples": calibration_samples(recipe),
        "histograms": needs_histograms(recipe),
        "versions": {name: versions.get(name) for name in _VERSIONS},
        # Float kernels round differently from one instruction set to the next.
        "processor": [fingerprint.get("architecture"), fingerprint.get("features")],
    }
    return hashlib.sha256(json.dumps(known_by, sort_keys=True).encode()).hexdigest()
