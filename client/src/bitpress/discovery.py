"""Where the service is, and the key to it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from bitpress.errors import ConnectionFailed


@dataclass(frozen=True, slots=True)
class Service:
    """The address of a service (no path, no slash at its end) and an API key."""

    url: str
    key: str | None = field(repr=False)


def data_folder() -> Path:
    """The embedded service's folder: `BITPRESS_DATA_DIR`, else by the XDG base directory specification."""
    if folder := os.environ.get("BITPRESS_DATA_DIR"):
        return Path(folder)
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "bitpress"


def find_service(url: str | None = None, key: str | None = None) -> Service:
    """Complete what the caller gave with `BITPRESS_URL`, `BITPRESS_KEY` and the embedded service's folder.

    The key in that folder is sent to the address in that folder and to no other. Raises
    `ConnectionFailed` where no address is known.
    """
    folder = data_folder()
    local = _line(folder / "address")
    address = url or os.environ.get("BITPRESS_URL") or local
    if address is None:
        raise ConnectionFailed(
            "No service is known. Start one with `bitpress serve`, or set BITPRESS_URL and BITPRESS_KEY.",
            sent=False,
        )
    address = address.strip().rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise ConnectionFailed(
            f"{address!r} is not a web address: it has to start with http:// or https://.", sent=False
        )
    key = key or os.environ.get("BITPRESS_KEY")
    if key is None and local is not None and address == local.rstrip("/"):
        key = _line(folder / "api_key")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ConnectionFailed("The API key holds characters that no key has; copy it again.", sent=False)
    return Service(address, key)


def _line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
