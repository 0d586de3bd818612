"""Identifiers: a type prefix and a ULID, so that ids sort by the time they were made."""

import hashlib
import re
import secrets
import time

# Crockford's base 32 in lower case: no i, l, o or u to misread (ULID specification).
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

_ID = re.compile(f"[a-z]{{3}}_[{_ALPHABET}]{{26}}")


def is_id(text: str, prefix: str) -> bool:
    """Whether a text can be an id of that type: anything else names nothing."""
    return text.startswith(prefix) and _ID.fullmatch(text) is not None


def new_id(prefix: str) -> str:
    """Make an id such as `mdl_01jd…`: 48 bits of milliseconds, then 80 random bits."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return _spelt(prefix, number)


def derived_id(prefix: str, content: bytes) -> str:
    """Make an id that follows from content, the same whenever it is made: 128 bits of its SHA-256."""
    return _spelt(prefix, int.from_bytes(hashlib.sha256(content).digest()[:16]))


def _spelt(prefix: str, number: int) -> str:
    return prefix + "_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
