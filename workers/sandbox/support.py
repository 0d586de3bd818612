"""What this platform offers for confining children, found out without starting any."""

import sys
from dataclasses import asdict, dataclass
from typing import Any

from workers.sandbox.landlock import landlock_abi
from workers.sandbox.syscalls import compile_filter


@dataclass(frozen=True, slots=True)
class SandboxSupport:
    """`strong` tells whether jobs may run unasked; `missing` says in sentences what stands against it."""

    landlock_abi: int
    seccomp: bool
    missing: tuple[str, ...]

    @property
    def strong(self) -> bool:
        return not self.missing

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"strong": self.strong}


def probe() -> SandboxSupport:
    """Ask the kernel for Landlock and libseccomp for a filter; takes milliseconds, starts no child."""
    if not sys.platform.startswith("linux"):
        return SandboxSupport(0, False, (f"Sandboxing needs Linux; this is {sys.platform}.",))
    abi = landlock_abi()
    seccomp = compile_filter() is not None
    missing = []
    if abi == 0:
        missing.append("The kernel has no Landlock, or it is switched off (Linux 5.13 or later, lsm=landlock,…).")
    if not seccomp:
        missing.append("seccomp filters are missing: install libseccomp (libseccomp2) and pyseccomp.")
    return SandboxSupport(abi, seccomp, tuple(missing))
