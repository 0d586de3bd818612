"""Uploads: what a model or dataset may be while its content is found out."""

from enum import StrEnum


class UploadState(StrEnum):
    INSPECTING = "inspecting"
    READY = "ready"
    REJECTED = "rejected"


def stem(file_name: str) -> str:
    """The name to show for a file when its owner gave none."""
    base = file_name.replace("\\", "/").rsplit("/", 1)[-1]
    return base.rsplit(".", 1)[0] or base or "unnamed"
