"""What measurements hold for, and the table of a job that measured under several conditions."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

_APART = ("runtime", "case", "shapes", "threads", "batch", "callers", "rate")
"""What tells measurements of one name and job apart, in the order in which it is said."""

_RATIOS_MAY_LEAVE_OUT = ("runtime", "shapes", "threads", "batch")

_NAMES = ("runtime", "providers", "device", "case", "shapes", "threads", "batch", "callers", "rate")
_USUAL = {"runtime": "onnxruntime", "providers": ["CPUExecutionProvider"], "device": "CPU"}

Key = tuple[Any, ...]


def holds_for(conditions: Mapping[str, Any], runtimes: Iterable[str]) -> str:
    """What one measurement holds for: its runtime where there are several, then all that is known of it."""
    several = len(set(runtimes)) > 1
    told = [str(conditions["runtime"])] if several and "runtime" in conditions else []
    # Without a case all of a job's are timed on the same shapes.
    left_out = [*(["runtime"] if several else []), *([] if "case" in conditions else ["shapes"])]
    told += ran(conditions, left_out)
    return ", ".join([*told, *([f"rows {conditions['rows']}"] if conditions.get("rows") is not None else [])])


def runtimes_of(measured: Iterable[Mapping[str, Any]]) -> set[str]:
    """The runtimes that any of these was measured on."""
    named = (each.get("conditions", {}).get("runtime") for each in measured)
    return {str(runtime) for runtime in named if runtime is not None}


def key_of(conditions: Mapping[str, Any]) -> Key:
    """What tells a latency from others of the same job."""
    return tuple(_hashable(conditions.get(name)) for name in _APART)


def under_conditions(measured: Sequence[Mapping[str, Any]]) -> dict[Key, dict[str, Mapping[str, Any]]]:
    """Latencies and throughputs by what they hold for, in the order they were reported, then by name."""
    found: dict[Key, dict[str, Mapping[str, Any]]] = {}
    for each in measured:
        if each["name"] in ("latency_p50", "latency_p99", "throughput"):
            found.setdefault(key_of(each.get("conditions", {})), {}).setdefault(each["name"], each)
    return found


def compared_under(compared: Iterable[Mapping[str, Any]], conditions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The paired ratio of median latencies under these conditions, where there is one."""
    for each in compared:
        given = each.get("conditions") or {}
        same = all(
            conditions.get(name) == given.get(name) or (name in _RATIOS_MAY_LEAVE_OUT and given.get(name) is None)
            for name in _APART
        )
        if each["name"] == "latency_p50" and each.get("ratio") and given and same:
            return each
    return None


def _hashable(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list | tuple) else value


def ran(conditions: Mapping[str, Any], left_out: Collection[str] = (), *, version: bool = False) -> list[str]:
    """Tell what ran a model, on what and how loaded; the runtime if it is not the usual one, or with its version."""
    told = []
    for name in _NAMES:
        value = conditions.get(name)
        if value is None or name in left_out:
            continue
        if name == "runtime":
            if version:
                told.append(f"{value} {conditions.get('version') or ''}".rstrip())
            elif value != _USUAL[name]:
                told.append(str(value))
        elif name == "shapes":
            told += [f"{each} {'×'.join(map(str, shape))}" for each, shape in value.items()]
        elif value != _USUAL.get(name):
            told.append(f"{name} {', '.join(map(_written, value)) if isinstance(value, list) else _written(value)}")
    return told


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
