"""The confinement that a child puts on itself, before anything heavy or untrusted is loaded.

In this order: no new privileges; another user, or no capability; death with the parent; resource limits;
Landlock; seccomp. Standard library only. None of it can be undone from inside.
"""

import os
import resource
import site
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from workers.sandbox import identity, landlock

# What the interpreter, the loader and numerical libraries read of the system; nothing of it is secret.
_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/os-release", "/etc/ssl/openssl.cnf",
    "/dev/urandom",
    "/proc/cpuinfo", "/proc/loadavg", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems",
    "/proc/sys/kernel/osrelease", "/proc/sys/kernel/random/boot_id", "/proc/sys/vm/overcommit_memory",
    "/proc/bus/pci/devices",  # which drivers serve accelerators: one line a device, nothing of what it holds
    "/sys/bus/pci/devices", "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup",
    "/sys/hypervisor/type",
    "/sys/devices/virtual/dmi/id/sys_vendor", "/sys/devices/virtual/dmi/id/product_name",
    "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
)  # fmt: skip
# Not the whole of /proc/self: its `net` lists the machine's sockets.
_OWN_PROCESS = (
    "auxv", "cgroup", "cpuset", "io", "limits", "maps", "mountinfo", "mounts", "schedstat",
    "smaps", "smaps_rollup", "stat", "statm", "status",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Confinement:
    """Which layers hold around a child. `strong` is what jobs may run in unasked."""

    landlock_abi: int
    seccomp: bool
    uid: int
    capabilities: str
    strong: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the parent asks of a child's confinement; travels as JSON in its arguments.

    `packages` and `code` are folders to be read and imported from; `filter_hex` is the program of
    `syscalls.compile_filter`, or null.
    """

    parent_pid: int
    scratch: str
    packages: Sequence[str]
    code: Sequence[str]
    uid: int
    gid: int
    threads: int
    open_files: int
    address_space_bytes: int
    file_bytes: int
    cpu_seconds: int
    filter_hex: str | None

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> "Plan":
        return cls(**{field.name: document[field.name] for field in fields(cls)})


def importable() -> list[str]:
    """Folders of the standard library and of installed packages."""
    return _existing([os.path.dirname(os.__file__), *site.getsitepackages()])


def shared_libraries() -> list[str]:
    """Folders of what the interpreter and packages load.

    Never `sys.prefix` itself: an environment made inside a checkout would open the checkout.
    """
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    return _existing(os.path.join(prefix, folder) for prefix in prefixes for folder in ("lib", "lib64"))


def _existing(folders: Iterable[str]) -> list[str]:
    return sorted({os.path.realpath(folder) for folder in folders if os.path.isdir(folder)})


def confine(plan: Plan) -> Confinement:
    """Confine this process as planned and report what holds; raises OSError where a layer breaks."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as badness:
        badness.write("1000")  # short of memory, the kernel is to choose the child, not the worker
    python = [*importable(), *plan.packages]
    os.umask(0o077)
    identity.forbid_new_privileges()
    before = os.geteuid()
    uid = identity.drop_identity(plan.uid, plan.gid, [*_with_entries(python), *plan.code], plan.scratch)
    identity.die_with(plan.parent_pid)
    _limit_resources(plan, changed_user=uid != before)
    own = [f"/proc/self/{name}" for name in _OWN_PROCESS]
    abi = landlock.restrict([*python, *plan.code, *shared_libraries(), *_SYSTEM, *own], [plan.scratch, "/dev/null"])
    if plan.filter_hex is not None:
        identity.load_filter(bytes.fromhex(plan.filter_hex))
    return _observed(uid, abi)


def _with_entries(folders: Sequence[str]) -> list[str]:
    # A package installed under a tight umask is closed to others though its parent is open.
    found = list(folders)
    for folder in folders:
        with suppress(OSError):
            found += [entry.path for entry in os.scandir(folder) if not entry.name.startswith(".")]
    return found


def _limit_resources(plan: Plan, *, changed_user: bool) -> None:
    limits = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_AS: (plan.address_space_bytes, plan.address_space_bytes),
        resource.RLIMIT_FSIZE: (plan.file_bytes, plan.file_bytes),
        resource.RLIMIT_NOFILE: (plan.open_files, plan.open_files),
        # SIGXCPU tells the parent what happened; the SIGKILL that follows would not.
        resource.RLIMIT_CPU: (plan.cpu_seconds, plan.cpu_seconds + 5),
    }
    if changed_user:
        # The kernel counts all threads of the user, so this leaves room for other children; the parent
        # counts each child's own.
        limits[resource.RLIMIT_NPROC] = (16 * plan.threads, 16 * plan.threads)
    for kind, (soft, hard) in limits.items():
        _, ceiling = resource.getrlimit(kind)
        if ceiling != resource.RLIM_INFINITY:
            hard = min(hard, ceiling)
        resource.setrlimit(kind, (min(soft, hard), hard))


def _observed(uid: int, abi: int) -> Confinement:
    sets = identity.capability_sets()
    held = any(sets[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
    files = abi > 0 and not _lists_root()  # believe no layer that does not bite
    calls = identity.filter_active()
    return Confinement(
        landlock_abi=abi if files else 0,
        seccomp=calls,
        uid=uid,
        capabilities="some" if held else "none",
        strong=files and calls and not held,
    )


def _lists_root() -> bool:
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    except OSError:
        return False
    return True
