"""One dataset's rows by role: a hash of each row's content, or of its group's name, says where it belongs.

A place is 53 bits of BLAKE2b over `SALT`, the kind of what is hashed, and the digest or the name itself. Nothing else
goes into it, neither the row's number nor the other rows, so the same row has the same place in every job, file format
and order, and beside whatever rows are added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from app.domain.dataset import GROUPS, Role, Split
from workers.formats.datasets.interface import Dataset

SALT = b"bitpress split 1"
"""Another number wherever the same content would get another place."""

_LONGEST_COUNT = 10
"""Digits. Nobody counts further, and Python refuses to read numbers of thousands."""

_PLACE_BITS = 53
_PLACES = 1 << _PLACE_BITS


@dataclass(frozen=True, slots=True)
class Groups:
    """Which rows are of one origin: the names of the groups, and of each row [rows] the index of its own."""

    names: tuple[str, ...]
    of_rows: NDArray[np.intp]

    @property
    def counted(self) -> bool:
        """Whether the names are the whole numbers from 0 or 1 on, as they come out of counting one file's groups."""
        numbers = sorted(int(name) for name in self.names if name.isdecimal() and len(name) < _LONGEST_COUNT)
        return len(numbers) == len(self.names) and numbers in (
            [*range(len(numbers))],
            [*range(1, len(numbers) + 1)],
        )


def read_groups(dataset: Dataset) -> Groups:
    """The groups of a dataset that has the field. Raises KeyError where it has not."""
    blocks = [block[GROUPS] for block in dataset.batches(dataset.comfortable_size([GROUPS]), [GROUPS])]
    names, of_rows = np.unique(np.concatenate(blocks).reshape(-1), return_inverse=True)
    return Groups(tuple(map(str, names)), of_rows.reshape(-1))


def split_rows(digests: Sequence[bytes], groups: Groups | None, split: Split) -> dict[Role, NDArray[np.int64]]:
    """The numbers of the rows of each role that has a share, in ascending order.

    Every row has one role, and rows with one digest, or of one group, have the same. Groups that share a digest are
    taken for one.
    """
    places = np.array([_place(b"row", digest) for digest in digests] if groups is None else [], np.int64)
    if groups is not None:
        places = _places_of_groups(digests, groups)[groups.of_rows]
    low, high = (round(end * _PLACES) for end in split.ends)
    within: dict[Role, NDArray[np.bool_]] = {
        "calibration": places < low,
        "tuning": (places >= low) & (places < high),
        "evaluation": places >= high,
    }
    return {role: np.flatnonzero(within[role]).astype(np.int64) for role in split.shares}


def _place(kind: bytes, name: bytes) -> int:
    """A number from 0 up to 2^53."""
    return int.from_bytes(_hash(kind, name)[:8], "big") >> (64 - _PLACE_BITS)


def _hash(kind: bytes, name: bytes) -> bytes:
    return blake2b(b"\0".join((SALT, kind, name)), digest_size=16).digest()


def _places_of_groups(digests: Sequence[bytes], groups: Groups) -> NDArray[np.int64]:
    """The place of each group; of those that hang together by a row, that of the one whose hash ends lowest.

    By its end, since its beginning is the place: the least of several would be too near to 0.
    """
    hashes = [_hash(b"group", name.encode("utf-8", "surrogatepass")) for name in groups.names]
    head = list(range(len(hashes)))

    def head_of(group: int) -> int:
        while head[group] != group:
            head[group] = head[head[group]]
            group = head[group]
        return group

    first: dict[bytes, int] = {}
    for digest, group in zip(digests, groups.of_rows.tolist(), strict=True):
        one, other = head_of(first.setdefault(digest, group)), head_of(group)
        if one != other:
            low, high = sorted((one, other), key=lambda each: hashes[each][8:])
            head[high] = low
    names = (groups.names[head_of(group)] for group in range(len(hashes)))
    return np.array([_place(b"group", name.encode("utf-8", "surrogatepass")) for name in names], np.int64)
