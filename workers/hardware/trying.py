"""What a machine does when it is tried; apart from its description, which loads nothing and takes no time."""

import time

from app.domain.target import Fingerprint
from workers.hardware.loading import installed, providers
from workers.hardware.peaks import measure_peaks

_PEAKS_SHARE = 0.75
_IMPORTS_SHARE = 0.85


def try_out(machine: Fingerprint, *, seconds: float) -> Fingerprint:
    """Try execution providers, measure peaks and import further runtimes, in about so many seconds at most.

    What there was no time for says so. A part that has begun is brought to its end, which takes a third of a second
    where memory is slow to be had.
    """
    begun = time.perf_counter()
    opened = providers()
    peaks = measure_peaks(machine, deadline=begun + _PEAKS_SHARE * seconds)
    runtimes = installed(lambda: time.perf_counter() - begun < _IMPORTS_SHARE * seconds)
    return machine.model_copy(update={"peaks": peaks, "providers": opened, "installed": runtimes})
