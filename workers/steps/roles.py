"""Which rows play which part: one dataset's given to the roles, or those of several held to be apart."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from app.domain.dataset import LEAST_ROWS, Role, Split
from app.domain.job import USUAL_SPLITS, JobSpec
from app.errors import StepError
from workers.formats.datasets.selection import save_numbers
from workers.formats.datasets.splitting import Groups, split_rows

_SHOWN, _LONGEST = 5, 50
"""Rows or groups that are listed, and signs of a name."""


class RoleRows(BaseModel):
    """Which rows of `datasets.all` a role has: all of them, or those whose numbers are in a file of the step's folder.

    `sha256` is that of the numbers, int64 in little-endian order.
    """

    file: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RowsRead:
    """A dataset after every row of it was read.

    `digests` are those of what each row feeds the model; none where there is nothing to compare, or nothing fed.
    """

    rows: int
    notes: tuple[str, ...]
    digests: list[bytes]
    groups: Groups | None


def split_by_role(
    found: RowsRead, spec: JobSpec, folder: Path
) -> tuple[dict[Role, int], dict[Role, RoleRows], tuple[str, ...]]:
    """How many rows each role is given and which, written to `folder`; and what is to be said of it."""
    split = spec.split or USUAL_SPLITS[spec.kind]
    # What a model is fed with nothing for is one row, however often it is there.
    numbers = split_rows(found.digests or [b""] * found.rows, found.groups, split)
    if spec.kind == "evaluate":
        numbers = {role: chosen for role, chosen in numbers.items() if role == "evaluation"}
    refuse_small(numbers, found.rows, found.groups, split)
    rows = {role: len(chosen) for role, chosen in numbers.items()}
    files = {role: _saved(role, chosen, found.rows, folder) for role, chosen in numbers.items()}
    if all(each.file is None for each in files.values()):
        return rows, files, ()
    counts = ", ".join(f"{role} {count:,}" for role, count in rows.items())
    by = "what each holds" if found.groups is None else f"their {len(found.groups.names):,} groups"
    note = (
        f"The {found.rows:,} rows of the dataset were split by {by}: {counts}. Shares are met about, and each row has "
        "the same role in every job with this split."
    )
    return rows, files, (note,)


def _saved(role: Role, numbers: NDArray[np.int64], rows: int, folder: Path) -> RoleRows:
    if len(numbers) == rows:
        return RoleRows()
    file = f"rows-{role}.npy"
    save_numbers(folder / file, numbers)
    return RoleRows(file=file, sha256=hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest())


def refuse_small(numbers: Mapping[Role, NDArray[np.int64]], rows: int, groups: Groups | None, split: Split) -> None:
    """Raises StepError `split_too_small` where a role was given some rows and too few, or evaluation one group's."""
    found = []
    for role, chosen in numbers.items():
        if len(chosen) == rows:
            continue
        if len(chosen) < LEAST_ROWS[role]:
            found.append(f"{role} was given {len(chosen)} and needs {LEAST_ROWS[role]} or more")
        elif role == "evaluation" and groups is not None and len(np.unique(groups.of_rows[chosen])) == 1:
            found.append("evaluation was given those of 1 group and needs 2 or more")
    if not found:
        return
    why = (
        ""
        if groups is None
        else f" Rows of one group stay together, and there are {len(groups.names)}; groups that share a row are one."
    )
    shares = ", ".join(f"{role} {share:g}" for role, share in split.shares.items())
    raise StepError(
        f"The split ({shares}) of the dataset's {rows} rows gives too few to a role: {'; '.join(found)}.{why} Give a "
        "dataset with more rows, leave the role out of `split` or give it a larger share, or give each role a dataset "
        "of its own.",
        code="split_too_small",
    )


def refuse_overlaps(digests: Mapping[Role, Sequence[bytes]]) -> None:
    """Rows that guided a choice cannot judge it; `digests` are those of each role's rows, labels left out.

    Raises StepError `datasets_overlap` with the numbers of the rows.
    """
    rows = {role: _first_rows(found) for role, found in digests.items()}
    found: list[str] = []
    for first, second in combinations(rows, 2):
        shared = [digest for digest in rows[first] if digest in rows[second]]
        if not shared:
            continue
        pairs = [f"{rows[first][digest]} and {rows[second][digest]}" for digest in shared[:_SHOWN]]
        listed = ", ".join([*pairs, "…"] if len(shared) > _SHOWN else pairs)
        count = "1 row" if len(shared) == 1 else f"{len(shared)} rows"
        found.append(f"{count} of {first} in {second} too (by number: {listed})")
    if found:
        raise StepError(
            f"The datasets of a job must not share rows: {'; '.join(found)}. "
            "Split the data so that each row has one role, or give them as one dataset (datasets.all), which is split "
            "so.",
            code="datasets_overlap",
        )


def shared_groups(groups: Mapping[Role, Groups]) -> list[str]:
    """Notes on groups that two roles share: their rows are not held out of each other, though none is the same.

    Raises StepError `datasets_overlap` where one of the two roles judges, unless the groups of both are numbers from 0
    or 1 on without a gap: those may have been counted anew for each file, and then mean nothing beside another's.
    """
    notes: list[str] = []
    refused: list[str] = []
    for first, second in combinations(groups, 2):
        shared = sorted(set(groups[first].names).intersection(groups[second].names))
        if not shared:
            continue
        listed = ", ".join([*map(_readable, shared[:_SHOWN]), *(["…"] if len(shared) > _SHOWN else [])])
        count = "1 group" if len(shared) == 1 else f"{len(shared)} groups"
        if "evaluation" in (first, second) and not (groups[first].counted and groups[second].counted):
            refused.append(f"{count} of {first} in {second} too ({listed})")
            continue
        notes.append(
            f"{first} and {second} have {count} of the same name ({listed}): if they are the same, "
            f"{second} is not held out of {first}. Split the data by group, or give them as one dataset "
            "(datasets.all), which is split so."
        )
    if refused:
        raise StepError(
            f"Rows of one group have one origin, and evaluation must share none with other roles: {'; '.join(refused)}."
            " Split the data so that each group has one role, or give them as one dataset (datasets.all), which is "
            "split so. Where the names mean other things in each file, make them different.",
            code="datasets_overlap",
        )
    return notes


def _readable(name: str) -> str:
    """The beginning of a group's name, which may hold any signs."""
    return "".join(sign if sign.isprintable() else "?" for sign in name[:_LONGEST])


def _first_rows(digests: Iterable[bytes]) -> dict[bytes, int]:
    """The first row of each content."""
    content: dict[bytes, int] = {}
    for row, digest in enumerate(digests):
        content.setdefault(digest, row)
    return content
