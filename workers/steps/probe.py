"""The step that describes the machine, and tries what it can do unless that is known."""

from pathlib import Path

from pydantic import BaseModel

from app.domain.target import Fingerprint, Tried
from workers.hardware.probe import probe
from workers.steps.inputs import Progress

TRY_SECONDS = 1.4
"""Of the two seconds that describing a machine may take; the rest is for the imports before."""


class ProbeRequest(BaseModel):
    """What is asked of the machine, and what an earlier worker found of it."""

    known: Tried | None = None
    """Believed if it is of this machine, of these versions and of this boot."""
    measure: bool = False
    """Whether to try the machine where nothing is known of it, or only what was measured while others were at work.
    Nothing else should run on it meanwhile."""


def run(request: ProbeRequest, scratch: Path, folder: Path, progress: Progress) -> Fingerprint:
    """Describe the machine that this process runs on."""
    machine = probe()
    known = request.known if request.known is not None and request.known.holds_for(machine) else None
    if known is not None and (known.peaks.steady or not request.measure):
        return known.added_to(machine)
    if not request.measure:
        return machine
    # Only here: describing a machine should not take the time to import a runtime.
    from workers.hardware.trying import try_out

    return try_out(machine, seconds=TRY_SECONDS)
