"""The metrics in code, one file each, found by the names of `app.domain.metric.METRICS`."""

import importlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from app.domain.metric import METRICS, options_of
from workers.evaluation.metrics.definition import AnyMetric


def arithmetic(name: str, options: Mapping[str, Any] | None = None) -> AnyMetric:
    """The arithmetic of a metric of the catalogue with these options, its defaults for the rest.

    KeyError for a name that is not in the catalogue, pydantic's ValidationError for options that are not the metric's.
    """
    return _built(name, json.dumps(dict(options or {}), sort_keys=True))


@cache
def _built(name: str, options: str) -> AnyMetric:
    module = importlib.import_module(f"{__name__}.{METRICS[name].id}")
    found: AnyMetric = module.metric(options_of(name, json.loads(options))) if METRICS[name].options else module.METRIC
    return found
