"""Ranges and entity tags, against slow references that follow RFC 9110 word by word."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.api.answers import byte_range, entity_tags
from app.errors import RangeNotSatisfiable
from app.services.jobs import knows

SIZES = st.integers(1, 40)
POSITIONS = st.integers(0, 50)


def wanted(unit: str, first: int | None, last: int | None, size: int) -> set[int] | None:
    """The positions that a single range selects (14.1.2): null where the header is to be ignored."""
    if unit.lower() != "bytes" or (first is None and last is None):
        return None
    if first is None:
        assert last is not None
        return {position for position in range(size) if position >= size - last}
    if last is not None and last < first:
        return None
    return {position for position in range(size) if position >= first and (last is None or position <= last)}


@settings(deadline=None)
@given(st.sampled_from(["bytes", "Bytes", "BYTES", "rows"]), st.none() | POSITIONS, st.none() | POSITIONS, SIZES)
def test_a_single_range(unit: str, first: int | None, last: int | None, size: int) -> None:
    header = f"{unit}={'' if first is None else first}-{'' if last is None else last}"
    expected = wanted(unit, first, last, size)
    if expected == set():
        with pytest.raises(RangeNotSatisfiable) as refused:
            byte_range(header, size)
        assert refused.value.content_bytes == size
    else:
        found = byte_range(header, size)
        assert (None if found is None else set(range(*found))) == expected


@settings(deadline=None)
@given(
    st.text(st.characters(max_codepoint=255), max_size=12) | st.text("0123-, ", max_size=8).map("bytes={}".format),
    SIZES,
)
@example("bytes=0-1,4-5", 10)
@example("bytes=-", 10)
@example("bytes=1", 10)
@example("bytes=²-³", 10)
@example("bytes=0-" + "9" * 5000, 10)
@example("bytes=" + "9" * 5000 + "-", 10)
@example("bytes=0-1\n", 10)
def test_any_header_gives_a_range_within_the_content_or_all_of_it(header: str, size: int) -> None:
    try:
        found = byte_range(header, size)
    except RangeNotSatisfiable:
        assert re.fullmatch(r"bytes=(\d+-\d*|-0+)", header.strip(), re.IGNORECASE | re.ASCII)
        return
    if found is not None:
        start, end = found
        assert 0 <= start < end <= size
        assert re.fullmatch(r"bytes=\d*-\d*", header.strip(), re.IGNORECASE | re.ASCII)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=99999999999999999999-", None),
        ("bytes=" + "9" * 5000 + "-" + "9" * 5001, None),
        ("bytes=5-99999999999999999999", (5, 10)),
        ("bytes=-99999999999999999999", (0, 10)),
        ("bytes=" + "0" * 5000 + "3-" + "0" * 6000 + "4", (3, 5)),
        ("bytes=-" + "0" * 5000, None),
    ],
)
def test_positions_of_any_length(header: str, expected: tuple[int, int] | None) -> None:
    if expected is not None:
        assert byte_range(header, 10) == expected
        return
    with pytest.raises(RangeNotSatisfiable):
        byte_range(header, 10)


@pytest.mark.parametrize("header", ["bytes=2-1", "bytes=" + "9" * 30 + "-" + "9" * 29, "bytes=010-9"])
def test_a_range_that_ends_before_it_begins_is_none(header: str) -> None:
    assert byte_range(header, 20) is None


def test_no_header_means_all() -> None:
    assert byte_range(None, 10) is None
    assert byte_range("", 10) is None


TAGS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"'), max_size=4)


def listed(header: str) -> set[str]:
    """The opaque tags of a well-formed list, weak ones too (8.8.3, 13.1.2)."""
    return {f'"{tag}"' for tag in re.findall(r'(?:W/)?"([^"]*)"', header)}


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), TAGS), min_size=1, max_size=4), TAGS, st.sampled_from([",", ", ", " , "]))
def test_a_list_of_tags(tags: list[tuple[bool, str]], own: str, comma: str) -> None:
    header = comma.join(f'{"W/" * weak}"{tag}"' for weak, tag in tags)
    # A tag with a comma in it is none of ours, but may stand beside one.
    if "," not in own:
        assert knows(entity_tags(header), f'"{own}"') == (f'"{own}"' in listed(header))


def test_a_star_matches_everything_and_nothing_matches_nothing() -> None:
    assert knows(entity_tags("*"), '"1"')
    assert knows(entity_tags(" * "), '"1"')
    for header in (None, "", " ", ",", "1", '"2", W/"3"'):
        assert not knows(entity_tags(header), '"1"')
    assert entity_tags("") == entity_tags(" , ") == frozenset()
