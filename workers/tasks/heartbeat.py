"""The heartbeat of a claimed job: a thread that keeps the lease, shows progress, and hears of a cancel."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from app.errors import BitpressError

log = logging.getLogger(__name__)


class Heartbeat:
    """Calls `beat(**changes)` at least every `every_seconds`, and soon after something changed.

    What `beat` raises (a lost lease, a cancel) is raised again from `check()`, in the thread that runs the
    job. A database that cannot be reached is no reason to stop: while it is down nobody can take the job.
    """

    def __init__(self, beat: Callable[..., None], *, every_seconds: float) -> None:
        self._beat = beat
        self._every = every_seconds
        self._changes: dict[str, Any] = {}
        self._reason: Exception | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def show(self, **changes: Any) -> None:
        """Let callers see these columns at the next beat."""
        with self._lock:
            self._changes.update(changes)

    def check(self) -> None:
        """Raise what ended the heartbeat, if anything did."""
        if self._reason is not None:
            raise self._reason

    def flush(self) -> None:
        """Show what has changed now, and raise what ended the heartbeat."""
        self._once()
        self.check()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._once()
            if self._reason is not None:
                return

    def _once(self) -> None:
        with self._lock:
            changes, self._changes = self._changes, {}
            if self._reason is not None:
                return
            try:
                self._beat(**changes)
            except BitpressError as error:
                log.warning("heartbeat put off: %s", error.detail)
                self._changes = {**changes, **self._changes}
            except Exception as error:  # a lost lease or a cancel: told to the thread that runs the job
                self._reason = error
