"""Unpack an archive that a stranger packed.

Members come one after the other from a reader (`zip_members`, `tar_members`). Nothing is written outside
the folder, no link or device is made, and bytes are counted while they are written, since sizes in
headers are only claims.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from app.errors import RejectedInput, StepError
from workers.formats import tar_members, zip_members
from workers.formats.archives import CHUNK, Blocks, Member, Meter, is_litter, safe_name, unsafe
from workers.formats.limits import InputLimits
from workers.formats.signatures import file_head, signature


def is_archive(path: Path) -> bool:
    """Whether a file is a ZIP or tar archive, by its content."""
    return signature(file_head(path)) in ("zip", "tar", "gzip")


def unpack(path: Path, folder: Path, limits: InputLimits) -> tuple[str, ...]:
    """Unpack a .zip, .tar or .tar.gz into a new folder; returns the files' relative paths.

    Raises RejectedInput `archive_unsafe`, `archive_too_large` or `truncated`, and StepError
    `scratch_full`. The folder is then as far as it came, and is not to be used.
    """
    read = zip_members.members if signature(file_head(path)) == "zip" else tar_members.members
    folder.mkdir(parents=True)
    meter = Meter(path.stat().st_size, limits)
    try:
        return tuple(_write_all(read(path, meter), folder, meter))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StepError(
                "There is no room left to unpack the upload. Try again later, or ask the operator for more.",
                code="scratch_full",
                retryable=True,
            ) from error
        raise


def _write_all(members: Iterator[Member], folder: Path, meter: Meter) -> Iterator[str]:
    files: set[str] = set()
    folders: set[str] = set()
    for count, member in enumerate(members, start=1):
        if count > meter.limits.members:
            raise RejectedInput(
                f"The archive has more than {meter.limits.members} members. Pack only the model and its data files.",
                code="archive_too_large",
            )
        name = safe_name(member.name)
        if member.forbidden is not None:
            raise unsafe(f"The archive's member {name!r} is {member.forbidden}.")
        parents = {name[:at] for at, character in enumerate(name) if character == "/"}
        if member.read is None:
            parents.add(name)
        elif name in files or name in folders:
            raise unsafe(f"The archive has two members called {name!r}.")
        if parents & files:
            raise unsafe(f"The archive has {min(parents & files)!r} both as a file and as a folder.")
        folders |= parents
        if member.read is None or is_litter(name):
            continue
        files.add(name)
        _write(member.read, folder / name, meter)
        yield name


def _write(read: Blocks, path: Path, meter: Meter) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, stat.S_IRUSR | stat.S_IWUSR), "wb") as file:
        while block := read(CHUNK):
            meter.add(len(block))
            file.write(block)
