"""What a metric kept of each row, with what its intervals must know of the rows; saved beside a model's outputs."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.evaluation.statistics.clusters import Codes, Floats, codes_of

SCORES = "scores.npz"
"""Where a step keeps its scores."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a metric kept of each row: `values`, float64 [rows, columns], under its `options`.

    `groups` are the numbers of the rows' groups, [rows], of rows that are no draws of their own; None where each is.
    `slices` are those of the rows' subpopulations, which `slice_names` names; None where there are none.
    """

    values: Floats
    options: Mapping[str, Any] = field(default_factory=dict)
    groups: Codes | None = None
    slices: Codes | None = None
    slice_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def of(self, rows: NDArray[np.bool_]) -> "Scores":
        """Those of some rows, [rows], in their order; without slices."""
        groups = None if self.groups is None else codes_of(self.groups[rows])
        return Scores(self.values[rows], self.options, groups)


def save_scores(folder: Path, scores: Mapping[str, Scores]) -> None:
    """Keep the scores of a model in a step's folder, by the names of their metrics."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, kept in scores.items():
        about = {"options": dict(kept.options), "slice_names": kept.slice_names}
        arrays[name] = kept.values
        arrays[f"{name}.about"] = np.array(json.dumps(about))
        for part, values in (("groups", kept.groups), ("slices", kept.slices)):
            if values is not None:
                arrays[f"{name}.{part}"] = values
    np.savez(folder / SCORES, allow_pickle=False, **arrays)


def read_scores(folder: Path) -> dict[str, Scores]:
    """The scores that were kept there; none where nothing was."""
    if not (folder / SCORES).exists():
        return {}
    with np.load(folder / SCORES, allow_pickle=False) as kept:
        return {name: _read(kept, name) for name in _names(kept.files)}


def _names(files: Iterable[str]) -> list[str]:
    return [name for name in files if "." not in name]


def _read(kept: Mapping[str, NDArray[Any]], name: str) -> Scores:
    about = json.loads(str(kept[f"{name}.about"]))
    groups, slices = (kept.get(f"{name}.{part}") for part in ("groups", "slices"))
    return Scores(kept[name], about["options"], groups, slices, tuple(about["slice_names"]))
