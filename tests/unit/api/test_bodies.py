"""JSON that is read, and JSON that is refused before anything is made of it."""

import json

import pytest

from app.api.bodies import MOST_LEVELS, parsed
from app.errors import InvalidRequest


@pytest.mark.parametrize("levels", [1, MOST_LEVELS, MOST_LEVELS + 1, 900])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_nesting_has_an_end(levels: int, opened: str, closed: str) -> None:
    """What is let through can be written again: a key's body is compared so."""
    text = opened * levels + ("[]" if closed == "]" else "1") + closed * levels
    if levels + (closed == "]") <= MOST_LEVELS:
        assert json.dumps(parsed(text), separators=(",", ":")) == text
        return
    with pytest.raises(InvalidRequest) as refused:
        parsed(text)
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize("text", [r'"\u0000"', r'{"\u0000": 1}', r'["\ud800"]', '{"a": NaN}', "1e", "'a'"])
def test_what_cannot_be_kept_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(text)
    assert refused.value.code == "invalid_json"
