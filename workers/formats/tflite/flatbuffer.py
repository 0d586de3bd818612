"""Read a FlatBuffer without trusting it: every offset is checked before it is followed.

Source: FlatBuffers' internals (flatbuffers.dev, "FlatBuffer Binary Format"). Little-endian; a table begins with the
distance to its vtable, which holds its own size, the table's, and where in the table each field lies.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_U8, _I8, _U16, _I32, _U32, _U64 = (struct.Struct(f"<{code}") for code in "BbHiIQ")


class Damaged(Exception):
    """An offset that leads out of the file, or something else that no writer makes."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a buffer; fields are numbered as the schema lists them, from zero."""

    data: memoryview
    position: int

    def byte(self, field: int, default: int = 0) -> int:
        return self._number(field, _U8, default)

    def signed_byte(self, field: int, default: int = 0) -> int:
        return self._number(field, _I8, default)

    def int32(self, field: int, default: int = 0) -> int:
        return self._number(field, _I32, default)

    def uint32(self, field: int, default: int = 0) -> int:
        return self._number(field, _U32, default)

    def uint64(self, field: int, default: int = 0) -> int:
        return self._number(field, _U64, default)

    def text(self, field: int) -> str:
        """A string, empty where there is none. Raises Damaged where it is no text."""
        start, count = self._vector(field, 1)
        try:
            return str(self.data[start : start + count], "utf-8")
        except UnicodeDecodeError as error:
            raise Damaged("a name is no text") from error

    def length(self, field: int, size: int) -> int:
        """How many elements of so many bytes a vector has, zero where there is none."""
        return self._vector(field, size)[1]

    def int32s(self, field: int) -> tuple[int, ...]:
        """A vector of whole numbers, empty where there is none."""
        start, count = self._vector(field, 4)
        return struct.unpack_from(f"<{count}i", self.data, start)

    def has(self, field: int) -> bool:
        return self._place(field) is not None

    def table(self, field: int) -> "Table | None":
        place = self._place(field)
        return None if place is None else Table(self.data, self._follow(place))

    def tables(self, field: int) -> Iterator["Table"]:
        """A vector of tables."""
        start, count = self._vector(field, 4)
        for index in range(count):
            yield Table(self.data, self._follow(start + 4 * index))

    def _number(self, field: int, kind: struct.Struct, default: int) -> int:
        place = self._place(field)
        return default if place is None else int(_read(self.data, kind, place))

    def _vector(self, field: int, size: int) -> tuple[int, int]:
        place = self._place(field)
        if place is None:
            return 0, 0
        start = self._follow(place)
        count = _read(self.data, _U32, start)
        if start + 4 + count * size > len(self.data):
            raise Damaged("a list is longer than the file")
        return start + 4, count

    def _place(self, field: int) -> int | None:
        """Where a field lies; None where the table has none of it."""
        vtable = self.position - _read(self.data, _I32, self.position)
        entry = 4 + 2 * field
        if vtable < 0 or entry + 2 > _read(self.data, _U16, vtable):
            if vtable < 0:
                raise Damaged("a table leads out of the file")
            return None
        offset = _read(self.data, _U16, vtable + entry)
        return self.position + offset if offset else None

    def _follow(self, place: int) -> int:
        offset = _read(self.data, _U32, place)
        if not offset or place + offset >= len(self.data):
            raise Damaged("an offset leads out of the file")
        return int(place + offset)


def root(data: memoryview) -> Table:
    """The table that a buffer begins with. Raises Damaged."""
    offset = _read(data, _U32, 0)
    if not 8 <= offset < len(data):
        raise Damaged("it ends before it begins")
    return Table(data, offset)


def _read(data: memoryview, kind: struct.Struct, place: int) -> int:
    if place < 0 or place + kind.size > len(data):
        raise Damaged("an offset leads out of the file")
    number: int = kind.unpack_from(data, place)[0]
    return number
