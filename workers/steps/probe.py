"""The step that describes the machine."""

from pathlib import Path

from pydantic import BaseModel

from app.domain.target import Fingerprint
from workers.hardware.probe import probe
from workers.steps.requests import Progress


class ProbeRequest(BaseModel):
    """Nothing is asked but the machine itself."""


def run(request: ProbeRequest, scratch: Path, folder: Path, progress: Progress) -> Fingerprint:
    """Describe the machine that this process runs on."""
    return probe()
