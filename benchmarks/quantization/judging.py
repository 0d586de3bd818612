"""How an artifact does: agreement with fp32 and scores with intervals, and its time beside fp32's."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models.workload import Feed, Run, session_run
from benchmarks.quantization.tasks import Task

ROUNDS, CALLS, SECONDS = 9, 8, 1.5
RESAMPLES = 2000


@dataclass(frozen=True)
class Figure:
    """A mean over items and its 95 % interval; the interval is (nan, nan) for a score that is no such mean."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Judged:
    """What a model answered on the evaluation part: picks [items, …], and the workload's scores."""

    picks: NDArray[Any]
    scores: Mapping[str, float]
    items: Mapping[str, NDArray[np.float64]]
    clusters: NDArray[np.int64]


def judge(task: Task, model: Path, entries: Mapping[str, str]) -> Judged:
    """Run the evaluation part, or find it run: answers are kept beside the model."""
    key = hashlib.sha256(
        f"{task.workload.name} {len(task.workload.evaluation.feeds)} {sorted(entries.items())}".encode()
    )
    kept = model.with_name(f"{model.stem}-judged-{key.hexdigest()[:8]}.npz")
    if not kept.exists():
        session, picks = session_run(model, entries=entries), []

        def run(feed: Feed) -> Mapping[str, NDArray[Any]]:
            outputs = session(feed)
            picks.append(task.pick(outputs))
            return outputs

        found = task.workload.evaluation.judge(run)
        items: dict[str, Any] = {f"items/{name}": of for name, of in found.items.items()}
        np.savez(
            kept,
            picks=np.concatenate(picks),
            scores=np.array(json.dumps(dict(found.values))),
            clusters=found.clusters,
            **items,
        )
    with np.load(kept) as stored:
        return Judged(
            picks=stored["picks"],
            scores=json.loads(str(stored["scores"])),
            items={name.removeprefix("items/"): stored[name] for name in stored.files if name.startswith("items/")},
            clusters=stored["clusters"],
        )


def agreement(task: Task, judged: Judged, original: Judged) -> Figure:
    """The mean over items of how far the answers are fp32's."""
    return interval(task.agreement(judged.picks, original.picks), task.clusters)


def scores(judged: Judged) -> dict[str, Figure]:
    """Each score, with an interval where it is a mean over items (perplexity: the exp of one)."""
    made = {}
    for name, value in judged.scores.items():
        items = judged.items.get("nll" if name == "perplexity" else name)
        transform = np.exp if name == "perplexity" else np.asarray
        made[name] = Figure(value) if items is None else interval(items, judged.clusters, transform)
    return made


def interval(
    items: NDArray[np.float64],
    clusters: NDArray[np.int64],
    transform: Callable[[Any], Any] = np.asarray,
    resamples: int = RESAMPLES,
) -> Figure:
    """The mean over items, transformed, with the 95 % percentile interval of a bootstrap over clusters."""
    _, members = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(members, weights=items), np.bincount(members)
    drawn = np.random.default_rng(0).integers(len(sums), size=(resamples, len(sums)))
    low, high = np.quantile(transform(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)), (0.025, 0.975))
    return Figure(float(transform(items.mean())), float(low), float(high))


def step_ms(first: Run, second: Run, feed: Feed) -> tuple[float, float]:
    """The second's milliseconds a call, and its time over the first's.

    Blocks of calls in turn; the median over rounds of the blocks' medians, and of their ratios, so that what slows
    both for a while counts for neither.
    """
    rounds = [(_block_ms(first, feed), _block_ms(second, feed)) for _ in range(ROUNDS)]
    return median(after for _, after in rounds), median(after / before for before, after in rounds)


def _block_ms(run: Run, feed: Feed) -> float:
    run(feed)
    found: list[float] = []
    while len(found) < CALLS and sum(found) < SECONDS:
        start = time.perf_counter()
        run(feed)
        found.append(time.perf_counter() - start)
    return median(found) * 1e3
