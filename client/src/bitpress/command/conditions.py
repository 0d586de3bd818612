"""What a number holds for, in words."""

from collections.abc import Collection, Mapping
from typing import Any

_NAMES = ("runtime", "providers", "device", "case", "shapes", "threads", "batch", "callers", "rate")
_USUAL = {"runtime": "onnxruntime", "providers": ["CPUExecutionProvider"], "device": "CPU"}


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
