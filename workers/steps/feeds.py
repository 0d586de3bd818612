"""The feeds of timed calls: the first rows of the data, cut and laid out before the clock runs."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from app.errors import StepError
from workers.runtimes.session import Array, Port
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


def free_shapes(inputs: Sequence[Port], feed: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """What a feed makes of those inputs whose shape the model leaves open, beyond the number of rows; by name.

    Of inputs that are alike but for numbers in their names, such as a decoder's caches, one entry tells, with `*` for
    the number: there are dozens of them.
    """
    shapes = {
        port.name: feed[port.name].shape
        for port in inputs
        if port.name in feed and any(not isinstance(axis, int) for axis in port.shape[1:])
    }
    alike = {name: re.sub(r"\d+", "*", name) for name in shapes}
    many = Counter(alike.values())
    differing = Counter(shared for shared, _ in {(alike[name], shape) for name, shape in shapes.items()})
    return {
        alike[name] if many[alike[name]] > 1 and differing[alike[name]] == 1 else name: tuple(map(int, shape))
        for name, shape in shapes.items()
    }


def _repeated(feed: dict[str, Array], count: int, size: int) -> dict[str, Array]:
    return {
        name: np.take(values, np.arange(size) % count, axis=0) if values.ndim and len(values) == count else values
        for name, values in feed.items()
    }
