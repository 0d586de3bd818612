"""Which of several representations a caller wants (RFC 9110, 12.5.1)."""

from collections.abc import Sequence


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """The media type of `offered` that an `Accept` header likes best; among equals the first of `offered`.

    Where it likes none, the first too: RFC 9110 lets a server answer as if there were no choice, and whoever asks for
    something else learns more from that than from a refusal.
    """
    ranges = [_range(part) for part in (accept or "*/*").split(",") if part.strip()]
    liked = [_quality(kind, ranges) for kind in offered]
    return offered[liked.index(max(liked))]


def _quality(kind: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The weight of the most specific range that a type falls into; 0 where it falls into none."""
    whole = kind.partition("/")[0] + "/*"
    for wanted in (kind, whole, "*/*"):
        found = [quality for name, quality in ranges if name == wanted]
        if found:
            return max(found)
    return 0.0


def _range(part: str) -> tuple[str, float]:
    """A media range and its weight; a weight that cannot be read is none."""
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = min(max(float(value), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return name, quality if quality == quality else 0.0  # "nan" is a float too
