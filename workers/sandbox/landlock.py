"""Landlock by system call: the kernel refuses files and TCP ports to this process for good.

Source: Linux, Documentation/userspace-api/landlock.rst. The call numbers are the same on every
architecture that Python runs on.
"""

import ctypes
import os
import stat
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_REMOVE_DIR = 1 << 4
_REMOVE_FILE = 1 << 5
_MAKE_DIR = 1 << 7
_MAKE_REG = 1 << 8
_REFER = 1 << 13
_TRUNCATE = 1 << 14

# No execution anywhere (mapping a library needs no such right), and in the scratch folder no links,
# sockets, FIFOs or devices: nothing that could lead the parent elsewhere.
READ = _READ_FILE | _READ_DIR
READ_WRITE = READ | _WRITE_FILE | _TRUNCATE | _MAKE_REG | _MAKE_DIR | _REMOVE_FILE | _REMOVE_DIR | _REFER
_OF_A_FILE = _READ_FILE | _WRITE_FILE | _TRUNCATE

_libc = ctypes.CDLL(None, use_errno=True)


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 where there is none or where it is switched off."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    except OSError:
        return 0


def _handled_files(abi: int) -> int:
    known = 13 + (abi >= 2) + (abi >= 3)
    handled = (1 << known) - 1
    return handled | (1 << 15 if abi >= 5 else 0)


def _ruleset(abi: int) -> int:
    attributes = _RulesetAttributes(
        handled_access_fs=_handled_files(abi),
        handled_access_net=0b11 if abi >= 4 else 0,  # TCP bind and connect
        scoped=0b11 if abi >= 6 else 0,  # abstract unix sockets and signals
    )
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    return _call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))


def restrict(readable: Iterable[str], writable: Iterable[str]) -> int:
    """Allow this thread and what it starts only the named files and folders, each with what lies beneath.

    Paths that do not exist or cannot be reached are passed over: what is not allowed is denied. Needs
    no_new_privs. Returns the ABI that was applied, 0 where the kernel has no Landlock; raises OSError
    where it has and refuses.
    """
    abi = landlock_abi()
    if abi == 0:
        return 0
    handled = _handled_files(abi)
    ruleset = _ruleset(abi)
    for paths, access in ((readable, READ), (writable, READ_WRITE)):
        for path in paths:
            _allow(ruleset, path, access & handled)
    _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)
    return abi


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        access &= _OF_A_FILE
    rule = _PathBeneath(allowed_access=access, parent_fd=fd)
    _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint32(0))
    # A rule is tied to an inode, and procfs makes a new inode once it has forgotten the old one: without an
    # open descriptor its files are denied after memory grew short (seen on Linux 6.18 with drop_caches).
    if not path.startswith("/proc/"):
        os.close(fd)
