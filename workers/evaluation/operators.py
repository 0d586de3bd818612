"""Where a model's time goes, operator by operator, and one model's operators beside another's."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from workers.evaluation.timing import warm_up
from workers.runtimes.session import Array, Profile, Session

MOST_OPERATORS = 50_000

_FEWEST_RUNS, _MOST_RUNS = 10, 200
_PROFILED_SHARE = 0.5
"""Of the time, for profiled runs; the rest is for the same runs without the profiler, before and after."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class OperatorTime(_Part):
    """One operator as the runtime ran it."""

    name: str
    """Its name after the runtime's rewriting."""
    op_type: str
    """What it became: `QLinearConv` for a convolution in int8, `Conv` for one that fell back to float."""
    kernel: str
    """The code that ran: domain, operator and types of its operands, or what the runtime calls it."""
    provider: str
    calls: float
    """In one inference; more than one in a loop."""
    ms: float
    """Of one inference, all calls together, without what ran inside a nested body; the median over the runs."""
    share: float
    """Of the operators' sum."""
    output_bytes: int | None
    """Of one call; null where the runtime does not tell."""
    nodes: tuple[str, ...]
    """The nodes of the model's file that it stands for; empty for what the runtime added, such as a reorder."""


class OperatorProfile(_Part):
    """A model by operator, in the order of execution, and how far the profile itself can be trusted."""

    operators: tuple[OperatorTime, ...]
    runs: int
    operators_ms: float
    """The sum of all operators."""
    profiled_ms: float
    """A whole inference with the profiler; the median over the runs."""
    unprofiled_ms: float
    """The same inference without the profiler, in the same process; the median of calls before and after."""
    unaccounted: float
    """1 − sum of operators / inference without the profiler, as a fraction: what the runtime does between operators,
    less what the profiler adds to them. Negative where that is more."""
    resolution_ms: float
    """Each time is cut to a multiple of this: the smallest operators are known badly."""
    left_out: int = 0
    """Operators beyond the 50,000 slowest."""
    running_seconds: float = 0.0
    """What the model itself ran for."""
    conditions: dict[str, Any]


class NodeTimes(_Part):
    """The same nodes in two models: those that were fused in one of them stand together.

    Times are in ms an inference, null where the model has nothing of them.
    """

    nodes: tuple[str, ...]
    original_ms: float | None
    artifact_ms: float | None
    original_kernels: tuple[str, ...]
    artifact_kernels: tuple[str, ...]


def profile_operators(
    session: Session, feeds: Sequence[Mapping[str, Array]], *, seconds: float, scratch: Path
) -> OperatorProfile:
    """Profile a model for about so long, and time it without the profiler before and after.

    At least ten runs are made, whatever they take. Raises StepError `profile_unavailable` or `model_does_not_run`.
    """
    count = len(feeds)
    warm = warm_up(lambda index: session.run(feeds[index % count]), seconds=seconds * _PROFILED_SHARE / 2)
    most = int(seconds * _PROFILED_SHARE * 1000 / max(warm.call_ms, 1e-6))
    runs = min(max(most, _FEWEST_RUNS), _MOST_RUNS)
    plain = _timed(session, feeds, runs // 2)
    profile = session.profile(feeds, runs, scratch)
    plain += _timed(session, feeds, runs - runs // 2)
    running_seconds = warm.seconds + (sum(plain) + sum(profile.run_ms)) / 1e3
    found = summarized(profile, statistics.median(plain), session.conditions)
    return found.model_copy(update={"running_seconds": round(running_seconds, 3)})


def summarized(profile: Profile, unprofiled_ms: float, conditions: Mapping[str, Any]) -> OperatorProfile:
    """The runs of a profile as one figure for each operator."""
    medians = [statistics.median(kernel.ms) for kernel in profile.kernels]
    total = sum(medians)
    operators = [
        OperatorTime(
            name=kernel.name,
            op_type=kernel.op_type,
            kernel=kernel.kernel,
            provider=kernel.provider,
            calls=kernel.calls,
            ms=round(ms, 6),
            share=round(ms / total, 6) if total else 0.0,
            output_bytes=kernel.output_bytes,
            nodes=kernel.nodes,
        )
        for kernel, ms in zip(profile.kernels, medians, strict=True)
    ]
    slowest = sorted(range(len(operators)), key=lambda place: -operators[place].ms)[:MOST_OPERATORS]
    return OperatorProfile(
        operators=tuple(operators[place] for place in sorted(slowest)),
        runs=len(profile.run_ms),
        operators_ms=round(total, 6),
        profiled_ms=round(statistics.median(profile.run_ms), 6),
        unprofiled_ms=round(unprofiled_ms, 6),
        unaccounted=round(1 - total / unprofiled_ms, 4) if unprofiled_ms else 0.0,
        resolution_ms=profile.resolution_ms,
        left_out=len(operators) - len(slowest),
        conditions=dict(conditions),
    )


def side_by_side(original: Sequence[OperatorTime], artifact: Sequence[OperatorTime]) -> list[NodeTimes]:
    """Two profiles by the nodes of the original, in its order; then what only the artifact has.

    Nodes of the artifact are the original's where they bear the same name; its own, such as those that quantize,
    count to the operator that they were fused into, or stand alone.
    """
    known = {name for operator in original for name in operator.nodes}
    sets = _Sets()
    for operator in (*original, *artifact):
        shared = [name for name in operator.nodes if name in known]
        for name in shared[1:]:
            sets.join(shared[0], name)
    groups: dict[str, tuple[list[OperatorTime], list[OperatorTime]]] = defaultdict(lambda: ([], []))
    for side, operators in enumerate((original, artifact)):
        for place, operator in enumerate(operators):
            first = next((name for name in operator.nodes if name in known), None)
            # What stands for no node of the original has a place of its own; \0 is in no name.
            groups[sets.root(first) if first is not None else f"\0{side}.{place}"][side].append(operator)
    return [_node_times(before, after, known) for before, after in groups.values()]


def _node_times(before: Sequence[OperatorTime], after: Sequence[OperatorTime], known: set[str]) -> NodeTimes:
    names = dict.fromkeys(name for operator in (*before, *after) for name in operator.nodes)
    shared = tuple(name for name in names if name in known)
    return NodeTimes(
        nodes=shared or tuple(names),
        original_ms=_sum_ms(before),
        artifact_ms=_sum_ms(after),
        original_kernels=tuple(operator.kernel for operator in before),
        artifact_kernels=tuple(operator.kernel for operator in after),
    )


def _sum_ms(operators: Iterable[OperatorTime]) -> float | None:
    found = [operator.ms for operator in operators]
    return round(sum(found), 6) if found else None


def _timed(session: Session, feeds: Sequence[Mapping[str, Array]], runs: int) -> list[float]:
    samples = []
    for index in range(runs):
        started = time.perf_counter_ns()
        session.run(feeds[index % len(feeds)])
        samples.append((time.perf_counter_ns() - started) / 1e6)
    return samples


class _Sets:
    """Disjoint sets of names (union-find)."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def root(self, name: str) -> str:
        while (above := self._above.get(name, name)) != name:
            self._above[name] = self._above.get(above, above)
            name = above
        return name

    def join(self, first: str, second: str) -> None:
        self._above[self.root(second)] = self.root(first)
