"""Rows that belong together, such as four views of one photograph: they are one draw and not several."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
"""For each row the number of its group, from 0 on without gaps, shape [rows]."""


def codes_of(names: NDArray[np.generic]) -> Codes:
    """Number the groups of rows by their names, which may be numbers or texts; shape [rows]."""
    return np.asarray(np.unique(names, return_inverse=True)[1].reshape(-1), np.int64)


def group_count(groups: Codes) -> int:
    return int(groups.max()) + 1 if len(groups) else 0


def group_sums(values: Floats, groups: Codes) -> Floats:
    """Sums over the rows of each group: [groups], or [groups, columns] of values [rows, columns]."""
    count = group_count(groups)
    if values.ndim == 1:
        return np.bincount(groups, values, minlength=count).astype(np.float64)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, groups, values)
    return sums


def draws_of(rows: Codes, groups: Codes | None) -> int:
    """How many draws some rows are, which are given by their places."""
    return len(rows) if groups is None else len(np.unique(groups[rows]))


def unbiased(draws: int) -> float:
    """What the scatter of so many draws about their own mean is to be multiplied with."""
    return float(np.sqrt(draws / (draws - 1))) if draws > 1 else 1.0


def group_sizes(groups: Codes) -> Floats:
    """How many rows each group has, shape [groups]."""
    return np.bincount(groups).astype(np.float64)
