"""The scratch folder as the parent may touch it: whatever a child left there is hostile.

Nothing here follows a link. Folders are walked by descriptor, never by path, so that a name which is
swapped between look and use leads nowhere.
"""

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from workers.sandbox.errors import DiskLimitExceeded, ResultInvalid, SandboxUnavailable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH = 64
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes allocated on disk and names taken."""

    bytes: int
    entries: int


def open_folder(path: Path) -> int:
    """A descriptor of a scratch folder, which must not be a link itself."""
    return os.open(path, _FOLDER)


def measure(folder: int, limit: int) -> Usage:
    """What lies in and below an open folder.

    Raises DiskLimitExceeded for more than `limit` names, more than 64 levels, or a folder that its maker
    closed to the parent.
    """
    allocated = entries = 0
    for _, _, status in _walk(folder, os.fstat(folder).st_dev):
        allocated += status.st_blocks * _BLOCK_BYTES
        entries += 1
        if entries > limit:
            raise DiskLimitExceeded(f"The step made more than {limit} files. Upload a model or dataset of fewer files.")
    return Usage(allocated, entries)


def _walk(folder: int, device: int, depth: int = 0) -> Iterator[tuple[int, str, os.stat_result]]:
    """Every entry below `folder` as (descriptor of its folder, name, status); what vanishes meanwhile is left out."""
    if depth > _DEPTH:
        raise DiskLimitExceeded(f"The step nested folders more than {_DEPTH} deep. Upload a flatter file set.")
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
                yield folder, entry.name, status
                if not stat.S_ISDIR(status.st_mode) or status.st_dev != device:
                    continue
                below = os.open(entry.name, _FOLDER, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                raise DiskLimitExceeded("The step made a folder that cannot be looked into and was stopped.") from None
            try:
                yield from _walk(below, device, depth + 1)
            finally:
                os.close(below)


def hand_over(folder: int, uid: int, gid: int) -> None:
    """Give an open scratch folder and all below it to the child's user.

    Raises SandboxUnavailable for a file with a second name: that name may lie outside, and would be given
    away with it.
    """
    for parent, name, status in _walk(folder, os.fstat(folder).st_dev):
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            raise SandboxUnavailable(f"{name} in the scratch folder is a hard link; inputs must be copies.")
        if status.st_uid != uid:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
    os.fchown(folder, uid, gid)


def make_step_folder(folder: int, name: str, request: bytes, owner: tuple[int, int]) -> None:
    """Make a step's folder in an open scratch folder, with its `request.json`, for the child's user and group.

    Raises ResultInvalid where the name is taken: no two steps share a folder, and no child prepares one; and
    DiskLimitExceeded where the disk is full.
    """
    try:
        _make_step_folder(folder, name, request, owner)
    except FileExistsError:
        raise ResultInvalid(f"There is something named {name} in the scratch folder already.") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskLimitExceeded("The worker's disk is full. Try again later.", retryable=True) from error


def _make_step_folder(folder: int, name: str, request: bytes, owner: tuple[int, int]) -> None:
    os.mkdir(name, 0o700, dir_fd=folder)
    below = os.open(name, _FOLDER, dir_fd=folder)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open("request.json", flags, 0o600, dir_fd=below), "wb") as file:
            file.write(request)
            os.fchown(file.fileno(), *owner)
        os.fchown(below, *owner)
    finally:
        os.close(below)


def open_result_file(scratch: Path, folder: str, relative: str) -> BinaryIO:
    """Open for reading a file that a step's result names, relative to the step's folder.

    No component may be a link or `..`, and only a regular file of one name will do. The child may still be alive and
    change it: hash what is read, do not trust a digest from the result. Raises ResultInvalid.
    """
    components = [folder, *relative.split("/")]
    if any(part in ("", ".", "..") for part in components) or "/" in folder:
        raise _not_usable(relative)
    with contextlib.ExitStack() as opened:
        try:
            fd = open_folder(scratch)
            opened.callback(os.close, fd)
            for part in components[:-1]:
                fd = os.open(part, _FOLDER, dir_fd=fd)
                opened.callback(os.close, fd)
            # Non-blocking, because a FIFO without a writer would hold the parent here.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(components[-1], flags, dir_fd=fd)
        except (OSError, ValueError):  # ValueError: a name that is no file name
            raise _not_usable(relative) from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(fd)
        raise _not_usable(relative)
    return open(fd, "rb")


def _not_usable(name: str) -> ResultInvalid:
    return ResultInvalid(f"The step's result names {name[:200]!r}, which is not a regular file in the step's folder.")


def read_result(scratch: Path, folder: str, limit_bytes: int) -> dict[str, Any]:
    """A step's `result.json`: one JSON object of finite numbers and storable text. Raises ResultInvalid."""
    with open_result_file(scratch, folder, "result.json") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ResultInvalid(f"The step's result is larger than {limit_bytes} bytes.")
    try:
        result = json.loads(data)
        # Infinities, NaN, lone surrogates and NUL pass the parser and no database.
        text = json.dumps(result, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (ValueError, RecursionError):
        raise ResultInvalid("The step's result is not JSON of finite numbers and valid text.") from None
    if not isinstance(result, dict) or "\\u0000" in text:
        raise ResultInvalid("The step's result is not an object of storable text.")
    return result


def remove_scratch(path: Path) -> None:
    """Remove a scratch folder with all it holds, once no child lives in it; nothing happens if it is gone.

    Survives trees deeper than a path can be long (each folder is moved to the top before it is emptied)
    and folders closed to their owner; never follows a link. Raises OSError where a file belongs to a user
    that this process cannot act for.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise NotADirectoryError(f"{path} is not a scratch folder")
        os.chmod(path, 0o700)
        top = open_folder(path)
    except FileNotFoundError:
        return
    prefix, moved, waiting = f".{secrets.token_hex(8)}-", 0, list[str]()
    try:
        folder, name = top, ""
        while True:
            for entry in list(os.scandir(folder)):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=folder)
                elif not entry.name.startswith(prefix):
                    moved += 1
                    os.chmod(entry.name, 0o700, dir_fd=folder)
                    waiting.append(f"{prefix}{moved}")
                    os.rename(entry.name, waiting[-1], src_dir_fd=folder, dst_dir_fd=top)
            if folder != top:
                os.close(folder)
                folder = top
                os.rmdir(name, dir_fd=top)
            if not waiting:
                break
            name = waiting.pop()
            folder = os.open(name, _FOLDER, dir_fd=top)
    finally:
        if folder != top:
            os.close(folder)
        os.close(top)
    os.rmdir(path)
