"""What holds for every archive that a stranger packed: which names are safe, and how much comes out."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.errors import RejectedInput
from workers.formats.limits import InputLimits, human_bytes

CHUNK = 1 << 20
_LONGEST_PATH = 1024
_LONGEST_PART = 255
_MOST_PARTS = 32

Blocks = Callable[[int], bytes]
"""Reads at most so many bytes of a member; nothing at its end."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive. `read` is None for a folder, and `forbidden` says what is wrong otherwise."""

    name: str
    read: Blocks | None = None
    forbidden: str | None = None


def unsafe(detail: str) -> RejectedInput:
    """The refusal of an archive for what its entries are."""
    return RejectedInput(f"{detail} Pack plain files under plain names and upload again.", code="archive_unsafe")


def damaged(what: str = "archive") -> RejectedInput:
    """The refusal of an archive that ends early or does not add up."""
    return RejectedInput(
        f"The {what} is damaged or was cut off. Test it where it was made, then upload the whole file.",
        code="truncated",
    )


def safe_name(name: str) -> str:
    """The normal form of a member's path inside the folder. Raises RejectedInput `archive_unsafe`."""
    shown = repr(name[:200])
    if not name or len(name) > _LONGEST_PATH or any(ord(character) < 32 for character in name):
        raise unsafe(f"The archive has a member with an unusable name, {shown}.")
    if name.startswith("/") or "\\" in name or (len(name) > 1 and name[1] == ":"):
        raise unsafe(f"The archive has a member with an absolute path or backslashes, {shown}.")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise unsafe(f"The archive has a member that climbs out of its folder, {shown}.")
    try:
        too_long = any(len(part.encode()) > _LONGEST_PART for part in parts)
    except UnicodeEncodeError:
        raise unsafe(f"The archive has a member whose name is not Unicode, {name[:200]!a}.") from None
    if not parts or too_long or len(parts) > _MOST_PARTS:
        raise unsafe(f"The archive has a member with an unusable name, {shown}.")
    return "/".join(parts)


def is_litter(name: str) -> bool:
    """Whether a member is what macOS adds to archives beside the files themselves."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


@dataclass(slots=True)
class Meter:
    """Counts what comes out of an archive. Raises RejectedInput `archive_too_large` beyond the limits."""

    packed_bytes: int
    limits: InputLimits
    unpacked: int = field(default=0)

    def add(self, count: int) -> None:
        """Note so many more unpacked bytes."""
        self.unpacked += count
        if self.unpacked > self.limits.unpacked_bytes:
            raise RejectedInput(
                f"Unpacked, the upload is larger than the {human_bytes(self.limits.unpacked_bytes)} that are taken. "
                "Leave out what is not needed, or ask the operator for a larger limit.",
                code="archive_too_large",
            )
        most = max(self.limits.ratio_from_bytes, self.limits.ratio * self.packed_bytes)
        if self.unpacked > most:
            raise RejectedInput(
                f"Unpacked, the upload is more than {self.limits.ratio:g} times as large as packed, as only an archive "
                "made to fill disks is. Upload the files uncompressed (zip -0, or a plain .tar).",
                code="archive_too_large",
            )
