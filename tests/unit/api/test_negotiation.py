"""Content negotiation, by the rules of RFC 9110, 12.5.1."""

import pytest

from app.api.negotiation import preferred

JSON, HTML = "application/json", "text/html"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("text/html", HTML),
        (FIREFOX, HTML),
        ("text/*", HTML),
        ("text/*;q=0.5, application/*;q=0.4", HTML),
        ("text/html;q=0.4, application/json;q=0.5", JSON),
        ("text/html;q=0.5, */*;q=0.4", HTML),
        ("text/html;q=0, */*", JSON),
        # The more specific range counts, wherever it stands and however much the other weighs.
        ("text/*;q=1, text/html;q=0.1, application/json;q=0.2", JSON),
        ("*/*;q=1, application/json;q=0.3, text/html;q=0.4", HTML),
        ("TEXT/HTML;Q=0.9", HTML),
        ("text/html;level=1;q=0.9, application/json;q=0.1", HTML),
        (" text/html ; q = 0.9 , application/json ; q=0.8", HTML),
        ("image/png", JSON),
        ("text/html;q=nonsense", JSON),
        ("text/html;q=nan", JSON),
        ("text/html;q=-1", JSON),
        ("text/html;q=99, application/json;q=1", JSON),
        (",,;;q=,=", JSON),
    ],
)
def test_what_is_liked_best_is_given(accept: str | None, expected: str) -> None:
    assert preferred(accept, (JSON, HTML)) == expected
