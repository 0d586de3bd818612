"""Uploads: what a model or dataset may be while its content is found out."""

from enum import StrEnum


class UploadState(StrEnum):
    INSPECTING = "inspecting"
    READY = "ready"
    REJECTED = "rejected"


def plain_file_name(given: str) -> str:
    """A file's name as every file system takes it: without folders, printable, at most 200 bytes."""
    base = "".join(filter(str.isprintable, given.replace("\\", "/").rsplit("/", 1)[-1]))
    base = base.encode()[:200].decode(errors="ignore")
    return base if base.strip(". ") else "unnamed"


def stem(file_name: str) -> str:
    """The name to show for a file when its owner gave none."""
    return file_name.rsplit(".", 1)[0] or file_name
