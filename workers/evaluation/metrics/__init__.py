"""The metrics in code, one file each, found by the names of `app.domain.metric.METRICS`."""

import importlib
from functools import cache

from app.domain.metric import METRICS
from workers.evaluation.metrics.definition import RowMetric


@cache
def row_metric(name: str) -> RowMetric:
    """The arithmetic of a metric of the catalogue; KeyError for a name that is not in it."""
    metric: RowMetric = importlib.import_module(f"{__name__}.{METRICS[name].id}").METRIC
    return metric
