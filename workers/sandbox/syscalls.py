"""The system calls that a sandbox child is refused, compiled to a seccomp filter.

Compiled in the parent, once, and loaded by the child: importing pyseccomp starts `ldconfig` and costs more
than the rest of the confinement. Everything a step needs (files, memory, threads, clocks) stays allowed.
What Landlock does not cover is refused here: changing the mode, owner or times of files that the child
merely owns, the limits and priorities of other processes, and memory that no resident set shows. One thing
cannot be told apart: sched_setaffinity stays, because onnxruntime pins its own threads by their ids.
"""

import errno
import functools
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from workers.sandbox.identity import OWN_PID

_REFUSED = {
    "the network": """
        socket socketpair socketcall bind connect listen accept accept4 shutdown getsockname getpeername
        setsockopt getsockopt sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg""",
    "other processes, their memory and new ones": """
        fork vfork execve execveat setns unshare ptrace process_vm_readv process_vm_writev kcmp tkill
        migrate_pages move_pages""",
    "identity and keys": """
        setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset
        add_key request_key keyctl seccomp""",
    "names and attributes of files, which Landlock leaves to their owner": """
        chmod fchmod fchmodat chown fchown lchown fchownat utime utimes futimesat utimensat truncate
        setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr mknod mknodat
        link linkat symlink symlinkat name_to_handle_at open_by_handle_at
        inotify_init inotify_init1 inotify_add_watch fanotify_init fanotify_mark lookup_dcookie""",
    "shared memory and messages": """
        shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl ipc
        mq_open mq_unlink mq_notify mq_timedsend mq_timedreceive mq_getsetattr""",
    "the machine": """
        mount umount umount2 pivot_root chroot swapon swapoff acct quotactl nfsservctl
        bpf perf_event_open syslog reboot kexec_load kexec_file_load
        init_module finit_module delete_module create_module query_module get_kernel_syms
        sethostname setdomainname settimeofday stime clock_settime clock_adjtime adjtimex
        iopl ioperm modify_ldt personality vhangup uselib ustat sysfs _sysctl""",
}

# Callers fall back to something older when these do not exist.
_ABSENT = ["memfd_create", "userfaultfd"]

# From 424 on a call has the same number everywhere, and libseccomp may be too old to know its name:
# pidfd_send_signal, io_uring_* (425-427), open_tree … fspick (428-433), pidfd_open, clone3, openat2,
# pidfd_getfd, process_madvise, mount_setattr, quotactl_fd, landlock_* (444-446), memfd_secret,
# process_mrelease, fchmodat2, statmount and listmount, lsm_* (459-461), and what Linux 6.13 and later
# have added or will add.
_ABSENT_NUMBERS = [
    *range(424, 436), 437, 438, 440, 442, 443, *range(444, 449), 452, *range(457, 462), *range(463, 512),
]  # fmt: skip

_LOW = 0xFFFF_FFFF  # the kernel reads only these bits of an int argument, so compare only them

_CLONE_THREAD = 0x0001_0000
_O_ACCMODE_AND_TRUNC, _O_RDONLY_AND_TRUNC = 0o1003, 0o1000
_MAP_KIND, _MAP_SHARED_ANONYMOUS = 0x2F, 0x21

# PDEATHSIG, DUMPABLE, KEEPCAPS, SECCOMP, SECUREBITS, MM, CHILD_SUBREAPER, CAP_AMBIENT, SCHED_CORE, PTRACER
_PRCTL_OPTIONS = (1, 4, 8, 22, 28, 35, 36, 47, 62, 0x5961_6D61)
# F_SETOWN, F_SETSIG, F_SETOWN_EX (signals to others), F_SETLEASE and F_NOTIFY (stall or watch others),
# F_SETPIPE_SZ (kernel memory)
_FCNTL_COMMANDS = (8, 10, 15, 1024, 1026, 1031)
_TERMINAL_IOCTL = 0x54


def _conditional(ps: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Calls that are refused for some arguments only, as (name, conditions that must all hold)."""

    def is_int(index: int, value: int) -> Any:
        return ps.Arg(index, ps.MASKED_EQ, _LOW, value)

    def is_not(index: int, value: int) -> Any:
        return ps.Arg(index, ps.NE, value)

    yield "clone", (ps.Arg(0, ps.MASKED_EQ, _CLONE_THREAD, 0),)
    for name in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        yield name, (is_not(0, OWN_PID),)
    for name in ("prlimit64", "sched_setscheduler", "sched_setparam", "sched_setattr"):
        yield name, (is_not(0, 0),)
    for name, itself in (("setpriority", 0), ("ioprio_set", 1)):  # PRIO_PROCESS, IOPRIO_WHO_PROCESS
        yield name, (is_not(0, itself),)
        yield name, (is_not(1, 0),)
    for option in _PRCTL_OPTIONS:
        yield "prctl", (is_int(0, option),)
    for command in _FCNTL_COMMANDS:
        yield "fcntl", (is_int(1, command),)
    # isatty and the like; the others change attributes of any file that can be opened for reading.
    # "The type byte is not 0x54", one bit a rule, because libseccomp has no masked not-equal.
    for bit in range(8, 16):
        flipped = ~(_TERMINAL_IOCTL << 8) & (1 << bit)
        yield "ioctl", (ps.Arg(1, ps.MASKED_EQ, 1 << bit, flipped),)
    # Truncates without a writable descriptor, which Landlock does not see before ABI 3.
    for name, flags in (("open", 1), ("openat", 2)):
        yield name, (ps.Arg(flags, ps.MASKED_EQ, _O_ACCMODE_AND_TRUNC, _O_RDONLY_AND_TRUNC),)
    # Shared anonymous pages survive MADV_DONTNEED without being resident.
    for name in ("mmap", "mmap2"):
        yield name, (ps.Arg(3, ps.MASKED_EQ, _MAP_KIND, _MAP_SHARED_ANONYMOUS),)


@functools.cache
def compile_filter() -> bytes | None:
    """The BPF program for this machine's architecture, with `OWN_PID` still in it.

    None where the platform has no libseccomp or no seccomp filters. A foreign architecture's calls, x32
    among them, kill the child.
    """
    if not _kernel_filters():
        return None
    try:
        import pyseccomp as ps
    except (ImportError, RuntimeError, OSError, AttributeError):
        return None
    program = ps.SyscallFilter(ps.ALLOW)
    refuse, absent = ps.ERRNO(errno.EPERM), ps.ERRNO(errno.ENOSYS)

    def number_of(name: str) -> int:
        return int(ps.resolve_syscall(ps.Arch.NATIVE, name))

    # Negative: this architecture or this libseccomp does not know the call.
    for name in " ".join(_REFUSED.values()).split():
        if (number := number_of(name)) >= 0:
            program.add_rule(refuse, number)
    for name in _ABSENT:
        if (number := number_of(name)) >= 0:
            program.add_rule(absent, number)
    for number in _ABSENT_NUMBERS:
        program.add_rule(absent, number)
    for name, conditions in _conditional(ps):
        if (number := number_of(name)) >= 0:
            program.add_rule(refuse, number, *conditions)
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


def _kernel_filters() -> bool:
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail", encoding="ascii") as file:
            return "errno" in file.read().split()
    except OSError:
        return os.path.exists("/proc/sys/kernel/seccomp")
