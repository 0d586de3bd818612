"""Who the child is: an unprivileged user where that is possible, and never anyone with a capability.

Linux only: prctl(2), capset(2), capabilities(7).
"""

import ctypes
import os
import signal
import struct
from collections.abc import Iterable

# Stands for the child's own process id in a filter, which nobody knows when it is compiled.
OWN_PID = 0x5E1F_71D0

_PR_SET_PDEATHSIG = 1
_PR_GET_SECCOMP, _PR_SET_SECCOMP = 21, 22
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 38, 39
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x2008_0522

# What it takes to become another user, and for the parent to kill that user's process, to hand files over
# to it and to take them back: CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID.
_TO_CHANGE_USER = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class _SockFilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _prctl(option: int, argument: int = 0) -> int:
    arguments = (ctypes.c_ulong(value) for value in (argument, 0, 0, 0))
    return int(_libc.prctl(ctypes.c_int(option), *arguments))


def _check(result: int) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def forbid_new_privileges() -> None:
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1))


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent's thread that started it ends.

    To be called after every change of identity, which clears it. Exits if the parent is gone already.
    """
    _check(_prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
    if os.getppid() != parent_pid:
        os._exit(1)


def load_filter(program: bytes) -> None:
    """Load a seccomp filter, an array of `struct sock_filter`, with this process's id for `OWN_PID`."""
    own = os.getpid()
    program = b"".join(
        struct.pack("HBBI", code, if_true, if_false, own if value == OWN_PID else value)
        for code, if_true, if_false, value in struct.iter_unpack("HBBI", program)
    )
    argument = _SockFilterProgram(length=len(program) // 8, filter=program)
    address = ctypes.addressof(argument)
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    zero = ctypes.c_ulong(0)
    _check(int(_libc.prctl(ctypes.c_int(_PR_SET_SECCOMP), mode, ctypes.c_ulong(address), zero, zero)))


def filter_active() -> bool:
    """Whether a filter is loaded and really refuses a socket."""
    if _prctl(_PR_GET_SECCOMP) != _SECCOMP_MODE_FILTER:
        return False
    fd = int(_libc.socket(1, 1, 0))  # AF_UNIX, SOCK_STREAM; Python's socket module takes long to import
    if fd < 0:
        return True
    os.close(fd)
    return False


def capability_sets() -> dict[str, int]:
    """This process's capability sets by their names in /proc/self/status: CapInh, CapPrm, CapEff, …"""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        fields = (line.split(":") for line in status if line.startswith("Cap"))
        return {name: int(mask, 16) for name, mask in fields}


def drop_identity(uid: int, gid: int, needed: Iterable[str], scratch: str) -> int:
    """Become `uid` where root can and `uid` can reach all it needs, and give up every capability.

    Otherwise the user stays, without capabilities. Returns the user id. Single-threaded callers only.
    """
    if os.geteuid() == 0:
        effective = capability_sets()["CapEff"]
        _empty_bounding_set()
        if effective & _TO_CHANGE_USER == _TO_CHANGE_USER:
            groups = os.getgroups()
            os.setgroups([])
            if _reachable(uid, gid, needed, scratch):
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
            else:
                os.setgroups(groups)
    _prctl_ambient_clear()
    header = _CapabilityHeader(version=_CAPABILITY_VERSION_3, pid=0)
    _check(int(_libc.capset(ctypes.byref(header), (_CapabilityData * 2)())))
    return os.geteuid()


def _reachable(uid: int, gid: int, needed: Iterable[str], scratch: str) -> bool:
    os.setegid(gid)
    os.seteuid(uid)
    try:
        os.stat(scratch)  # its parents must let the user through; itself is handed over later
        return all(os.access(path, os.R_OK, effective_ids=True) for path in needed)
    except OSError:
        return False
    finally:
        os.seteuid(0)
        os.setegid(0)


def _empty_bounding_set() -> None:
    capability = 0
    while _prctl(_PR_CAPBSET_READ, capability) >= 0:
        _prctl(_PR_CAPBSET_DROP, capability)  # fails without CAP_SETPCAP; no_new_privs holds even then
        capability += 1


def _prctl_ambient_clear() -> None:
    zero = ctypes.c_ulong(0)
    clear = ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL)
    _libc.prctl(ctypes.c_int(_PR_CAP_AMBIENT), clear, zero, zero, zero)
