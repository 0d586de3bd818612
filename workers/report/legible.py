"""Text and numbers of strangers, made fit to be shown: nothing in a report may change how the rest of it reads."""

import math
import re
from typing import Any

_HIDDEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of the text around it
    "\u2028\u2029\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]"
)

_MOST_CHARACTERS = 4000


def legible(part: Any) -> Any:
    """A JSON document with the same shape and nothing in it that a page cannot show.

    Characters that are invisible, that reorder their neighbours or that HTML has no place for become their code
    point in brackets; texts end after 4,000 characters; numbers that are not finite become null.
    """
    if isinstance(part, str):
        return legible_text(part)
    if isinstance(part, float):
        return part if math.isfinite(part) else None
    if isinstance(part, dict):
        return {legible_text(str(name)): legible(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [legible(value) for value in part]
    return part


def legible_text(text: str) -> str:
    """One text of `legible`."""
    if len(text) > _MOST_CHARACTERS:
        text = text[: _MOST_CHARACTERS - 1] + "…"
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters; what is cut is its middle, for names differ at their ends."""
    if len(text) <= most:
        return text
    tail = most // 2
    return f"{text[: most - tail - 1]}…{text[-tail:]}"
