"""The streaming multipart reader, against an encoder that follows RFC 7578."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from fastapi import Request
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from app.api.multipart import Form, read_form
from app.errors import BitpressError, InvalidRequest, PayloadTooLarge

BOUNDARY = "----boundary-7f"
MANY = 1 << 20

Part = tuple[str, str | None, bytes]
"""Name, file name, content."""


def encoded(parts: list[Part], boundary: str = BOUNDARY, *, preamble: bytes = b"", epilogue: bytes = b"") -> bytes:
    """A form as RFC 7578 writes it, and browsers do: quotes in names as %22."""
    body = bytearray(preamble)
    for name, file_name, content in parts:
        disposition = f'form-data; name="{name}"'
        if file_name is not None:
            disposition += f'; filename="{file_name}"'
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n".encode()
        if file_name is not None:
            body += b"Content-Type: application/octet-stream\r\n"
        body += b"\r\n" + content + b"\r\n"
    return bytes(body) + f"--{boundary}--\r\n".encode() + epilogue


def request_of(chunks: list[bytes], *, headers: dict[str, str] | None = None, cut: bool = False) -> Request:
    """A request whose body comes in these chunks; `cut`: the client is gone after the last of them."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.disconnect"} if cut else {"type": "http.request", "body": b"", "more_body": False})
    given = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"} | (headers or {})
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()],
    }

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    return Request(scope, receive)


def read(request: Request, *, max_bytes: int = MANY) -> Form[bytes]:
    async def keep(data: AsyncIterator[bytes]) -> bytes:
        kept = b""
        async for chunk in data:
            kept += chunk
        return kept

    return asyncio.run(read_form(request, keep, max_bytes=max_bytes))


def in_chunks(body: bytes, cuts: list[int]) -> list[bytes]:
    """The body, cut at these places, given as shares of it."""
    places = sorted({0, len(body), *(cut * len(body) // 1000 for cut in cuts)})
    return [body[start:end] for start, end in pairwise(places)]


# Content that looks like what ends it is what a reader in chunks trips over.
CONTENTS = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"-", b"\r\n--", f"\r\n--{BOUNDARY[:-1]}".encode(), b"x", b"\0"])
    | st.binary(max_size=20),
    max_size=8,
).map(b"".join)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters='"\\'), min_size=1, max_size=8
)
CUTS = st.lists(st.integers(0, 1000), max_size=12)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(deadline=None)
@given(
    content=CONTENTS,
    file_name=NAMES,
    before=st.dictionaries(NAMES, TEXTS, max_size=3),
    after=st.dictionaries(NAMES, TEXTS, max_size=3),
    cuts=CUTS,
    epilogue=st.sampled_from([b"", b"\r\n", b"more after the end"]),
)
def test_what_was_encoded_is_read(
    content: bytes, file_name: str, before: dict[str, str], after: dict[str, str], cuts: list[int], epilogue: bytes
) -> None:
    fields = {name: text for name, text in {**before, **after}.items() if name != "file"}
    parts: list[Part] = [(name, None, text.encode()) for name, text in before.items() if name != "file"]
    parts.append(("file", file_name, content))
    parts += [(name, None, text.encode()) for name, text in after.items() if name != "file"]
    form = read(request_of(in_chunks(encoded(parts, epilogue=epilogue), cuts)))
    assert form.kept == content
    assert form.file_name == file_name
    assert form.fields == fields


@settings(deadline=None)
@given(content=CONTENTS, size=st.integers(1, 5))
def test_however_small_the_chunks(content: bytes, size: int) -> None:
    body = encoded([("name", None, b"mine"), ("file", "a.onnx", content)])
    form = read(request_of([body[start : start + size] for start in range(0, len(body), size)]))
    assert (form.kept, form.fields) == (content, {"name": "mine"})


@settings(deadline=None)
@given(content=CONTENTS, at=st.integers(0, 999), cuts=CUTS)
def test_a_body_that_ends_early_is_not_taken_for_whole(content: bytes, at: int, cuts: list[int]) -> None:
    whole = encoded([("file", "a.onnx", content), ("name", None, b"mine")])
    # Up to the last boundary's own hyphens; what stands behind them does not matter.
    body = whole[: at * (len(whole) - 3) // 1000]
    with pytest.raises(InvalidRequest) as refused:
        read(request_of(in_chunks(body, cuts)))
    assert refused.value.code == "body_truncated"


@settings(deadline=None)
@given(content=CONTENTS, at=st.integers(0, 999))
def test_a_client_that_goes_away_is_noticed(content: bytes, at: int) -> None:
    whole = encoded([("file", "a.onnx", content), ("name", None, b"mine")])
    with pytest.raises(ClientDisconnect):
        read(request_of([whole[: at * (len(whole) - 3) // 1000]], cut=True))


@settings(deadline=None)
@given(st.binary(max_size=300), CUTS, st.booleans())
@example(b"--" + BOUNDARY.encode() + b"\r\nContent-Disposition\r\n\r\n", [], False)
@example(b"--" + BOUNDARY.encode() + b"\r\n" + b"a" * 250 + b": b\r\n" * 9, [], False)
@example(b"--" + BOUNDARY.encode() + b"\r\n\xff: \xfe\r\n\r\nx\r\n--" + BOUNDARY.encode() + b"--", [], False)
def test_garbage_is_an_error_of_ours(garbage: bytes, cuts: list[int], begun: bool) -> None:
    body = (b"--" + BOUNDARY.encode() + b"\r\n" if begun else b"") + garbage
    with pytest.raises(BitpressError) as refused:
        read(request_of(in_chunks(body, cuts)))
    assert refused.value.code in (
        "body_malformed",
        "body_truncated",
        "file_missing",
        "invalid_value",
        "too_many_fields",
    )


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255), max_size=400))
@example("multipart/form-data")
@example("multipart/form-data; boundary=")
@example("multipart/form-data; boundary=" + "x" * 300)
@example('multipart/form-data; boundary="')
@example("multipart/form-data; boundary*=utf-8''x")
@example("multipart/form-data; boundary=é")
def test_any_content_type_is_an_error_of_ours(content_type: str) -> None:
    body = encoded([("file", "a", b"x")])
    with pytest.raises(BitpressError) as refused:
        read(request_of([body], headers={"content-type": content_type}))
    assert refused.value.code in ("body_malformed", "body_truncated")


@pytest.mark.parametrize(
    ("parts", "code", "pointer"),
    [
        ([("name", None, b"mine")], "file_missing", "/file"),
        ([], "file_missing", "/file"),
        ([("file", "a", b"1"), ("file", "b", b"2")], "several_files", "/file"),
        ([("file", "a", b"1"), ("name", None, b"a\0b")], "invalid_value", "/name"),
        ([("a/b~c", None, b"\0")], "invalid_value", "/a~1b~0c"),
    ],
)
def test_a_form_that_is_not_right_says_where(parts: list[Part], code: str, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(request_of([encoded(parts)]))
    assert refused.value.code == code
    assert [error.pointer for error in refused.value.errors] == [pointer]


def test_fields_are_short_and_few() -> None:
    with pytest.raises(PayloadTooLarge) as refused:
        read(request_of([encoded([("name", None, b"x" * 70_000), ("file", "a", b"1")])]))
    assert refused.value.code == "field_too_large"
    with pytest.raises(PayloadTooLarge) as refused:
        read(request_of([encoded([(f"n{number}", None, b"x") for number in range(100)])]))
    assert refused.value.code == "too_many_fields"


def test_what_is_announced_as_too_large_is_refused_before_it_comes() -> None:
    request = request_of([], headers={"content-length": str(10 * MANY)}, cut=True)
    with pytest.raises(PayloadTooLarge):
        read(request, max_bytes=MANY)


def test_a_file_without_a_name_has_one_all_the_same() -> None:
    assert read(request_of([encoded([("file", "", b"1")])])).file_name == "unnamed"
    assert read(request_of([encoded([("file", None, b"1")])])).file_name == "unnamed"
