"""How tests say that an upload is refused."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.errors import RejectedInput


@contextmanager
def rejected(code: str, *words: str) -> Iterator[None]:
    """The block raises RejectedInput with this code, and a sentence that has these words in it."""
    with pytest.raises(RejectedInput) as caught:
        yield
    assert caught.value.code == code, caught.value.detail
    for word in words:
        assert word in caught.value.detail
    assert caught.value.detail.endswith((".", "?", "!"))
    assert "/tmp" not in caught.value.detail
