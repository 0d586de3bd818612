"""Times by operator from torch's own profiler (torch 2.13, its events of the processor).

What the program calls is one operator each, with all that torch calls inside of it.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from app.errors import StepError
from workers.formats.torch.program import Program, dtype_name
from workers.runtimes.session import Kernel, Profile

# Read when the profiler starts: it would tell of each of its stages in the job's log.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

_WARM_UP = 2
_MOST_EVENTS = 20_000
"""Each is an object of Python once the profiler has stopped: 50,000 took 5 s to make (torch 2.13, 2 cores)."""
_FEWEST_RUNS = 3
_RESOLUTION_MS = 1e-6
"""Its clock counts nanoseconds."""
_RUN = "bitpress: one inference"

_Key = tuple[str, str]


@dataclass(slots=True)
class _Timed:
    """One operator over the counted inferences: its times, and which of the code inside of it took how long."""

    ms: list[float]
    calls: int = 0
    inside: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Operands:
    """What one node read and made in a run."""

    dtypes: tuple[str, ...]
    output_bytes: int


def marked(call: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]) -> Callable[..., list[torch.Tensor]]:
    """A program's call as the profiler is to see it: what turns arrays into tensors and back is not the program's."""

    def within(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with record_function(_RUN):
            return call(values)

    return within


def profiled(program: Program, call: Callable[[int], object], feed: Sequence[torch.Tensor], runs: int) -> Profile:
    """See `workers.runtimes.session.Session.profile`: `call` runs the program, `marked`, on the feed of a number."""
    for index in range(_WARM_UP - 1):
        call(index)
    _, found = _recorded(call, 1, 1)
    if not found:
        raise StepError("torch's profiler recorded no inference.", code="profile_unavailable")
    events = sum(1 + len(list(_below(event))) for event in found[0])
    runs = min(runs, max(_FEWEST_RUNS, _MOST_EVENTS // max(1, events)))
    run_ms, found = _recorded(call, _WARM_UP, runs)
    if len(found) != runs:
        raise StepError(f"torch's profiler recorded {len(found)} of {runs} inferences.", code="profile_unavailable")
    timed: dict[_Key, _Timed] = defaultdict(lambda: _Timed([0.0] * runs))
    for place, operators in enumerate(found):
        for key, event in zip(_keys(operators, program.nodes), operators, strict=True):
            entry = timed[key]
            entry.ms[place] += event.time_range.elapsed_us() / 1000
            entry.calls += 1
            for part in (event, *_below(event)):
                entry.inside[part.name] += part.self_cpu_time_total
    seen = _operands(program, feed)
    known = {name for name, _ in program.nodes}
    return Profile(
        kernels=tuple(
            Kernel(
                name=name,
                op_type=operator,
                kernel=_kernel(entry.inside, seen.get(name)),
                provider="CPU",
                calls=entry.calls / runs,
                ms=tuple(entry.ms),
                output_bytes=seen[name].output_bytes if name in seen else None,
                nodes=(name,) if name in known else (),
            )
            for (name, operator), entry in timed.items()
        ),
        run_ms=tuple(run_ms),
        resolution_ms=_RESOLUTION_MS,
    )


def _recorded(call: Callable[[int], object], start: int, runs: int) -> tuple[list[float], list[list[Any]]]:
    """How long each run took, in ms, and what each called, in order."""
    run_ms = []
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as recorder:
        for index in range(start, start + runs):
            started = time.perf_counter()
            call(index)
            run_ms.append((time.perf_counter() - started) * 1000)
    events = recorder.events()
    whole = [event for event in events or () if event.name == _RUN]
    return run_ms, [_operators_of(event) for event in whole]


def _operators_of(run: Any) -> list[Any]:
    """The outermost operators of an inference, in order; what TorchScript's functions are called is looked through."""
    found: list[Any] = []
    waiting = list(reversed(run.cpu_children))
    while waiting:
        event = waiting.pop()
        if "::" in event.name:
            found.append(event)
        else:
            waiting.extend(reversed(event.cpu_children))
    return sorted(found, key=lambda event: event.time_range.start)


def _below(event: Any) -> Iterator[Any]:
    waiting = list(event.cpu_children)
    while waiting:
        child = waiting.pop()
        yield child
        waiting.extend(child.cpu_children)


def _keys(operators: Sequence[Any], nodes: Sequence[tuple[str, str]]) -> list[_Key]:
    """A name for each operator of an inference: its node's, where the program has an order of nodes to go by.

    Without one, and for what stands for no node, the operator's own with a number behind.
    """
    found: list[_Key] = []
    place = 0
    count: Counter[str] = Counter()
    for event in operators:
        name = event.name
        node = next((index for index in range(place, len(nodes)) if nodes[index][1] == name), None)
        if node is not None:
            found.append((nodes[node][0], name))
            place = node + 1
        else:
            found.append((f"{name}_{count[name]}", name))
            count[name] += 1
    return found


def _kernel(inside: Mapping[str, float], operands: _Operands | None) -> str:
    """The innermost code that took longest, and the types that it was given, where they are known."""
    name = max(inside, key=lambda part: inside[part])
    return f"{name}({', '.join(operands.dtypes)})" if operands is not None else name


def _operands(program: Program, feed: Sequence[torch.Tensor]) -> dict[str, _Operands]:
    """Types and sizes at each node, from a run node by node; nothing where the file has no nodes."""
    if program.kind != "pt2":
        return {}
    from workers.formats.torch.exported import Exported

    assert isinstance(program, Exported), "programs of this kind are"
    found: dict[str, _Operands] = {}

    class Looking(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            made = super().run_node(n)
            if n.op == "call_function":
                given = [self.env[each] for each in n.all_input_nodes if each in self.env]
                found[n.name] = _Operands(
                    dtypes=tuple(dtype_name(each.dtype) for each in given if isinstance(each, torch.Tensor))[:2],
                    output_bytes=sum(each.nbytes for each in _tensors(made)),
                )
            return made

    leaves = program.flat(feed)
    with torch.inference_mode():
        Looking(program.module).run(*leaves, enable_io_processing=False)
    return found


def _tensors(made: Any) -> Iterator[torch.Tensor]:
    for each in made if isinstance(made, (tuple, list)) else (made,):
        if isinstance(each, torch.Tensor):
            yield each
