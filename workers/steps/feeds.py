"""The feeds of timed calls: the first rows of the data, cut and laid out before the clock runs."""

import numpy as np

from app.errors import StepError
from workers.runtimes.session import Array
from workers.steps.rows import Rows

_MOST_FEEDS = 32
_MOST_RANDOM_FEEDS = 8
"""Random rows are all alike to a model; making them takes as long as running a small one."""
_MOST_BYTES = 64 * 2**20
"""More feeds than this would be read from memory where a service has them in the cache."""


def first_feeds(rows: Rows, batch: int, *, most: int = _MOST_FEEDS) -> list[dict[str, Array]]:
    """Up to `most` feeds of `batch` rows each (or what the model fixes), to be cycled through.

    Rows are repeated where there are fewer than one call takes.
    """
    most = min(most, _MOST_RANDOM_FEEDS) if rows.source == "synthetic" else most
    size = rows.size(batch)
    whole = rows.count // size
    feeds: list[dict[str, Array]] = []
    used = 0
    for feed in rows.feeds(size, 0, size * min(max(whole, 1), most)):
        feeds.append(feed if whole else _repeated(feed, rows.count, size))
        used += sum(values.nbytes for values in feeds[-1].values())
        if len(feeds) == most or used + used // len(feeds) > _MOST_BYTES:
            break
    if not feeds:
        raise StepError(f"The {rows.source} dataset has no rows.", code="dataset_empty")
    return feeds


def _repeated(feed: dict[str, Array], count: int, size: int) -> dict[str, Array]:
    return {
        name: np.take(values, np.arange(size) % count, axis=0) if values.ndim and len(values) == count else values
        for name, values in feed.items()
    }
