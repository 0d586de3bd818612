"""Finds out that a worker no longer hears its messages, and has it started again.

After a lost connection to Redis, Celery's consumer can stay deaf: connected, and never handed another
message (celery/celery issues 8030, 8091, 9054 and 10205, seen with 5.6.3). Nothing inside such a process
brings it back, but whoever runs it starts another when it ends.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import BitpressError

log = logging.getLogger(__name__)

UNHEARD = 3
"""A worker that sat idle through this many wake-ups of its own while rows waited is deaf."""


class Listening:
    """Compares what waits with what is heard.

    `waits` tells whether the worker could claim something, `wake` sends it a message and tells whether the
    broker took it, and `give_up` is called, again and again, once the worker has proved deaf.
    """

    def __init__(self, *, waits: Callable[[], bool], wake: Callable[[], bool], give_up: Callable[[], None]) -> None:
        self._waits = waits
        self._wake = wake
        self._give_up = give_up
        self._lock = threading.Lock()
        self._at_work = 0
        self._unheard = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around every task: what it does while it runs proves that messages arrive."""
        with self._lock:
            self._at_work += 1
            self._unheard = 0
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
                self._unheard = 0

    def look(self) -> None:
        """One look: counts a wake-up that the broker took and that nobody here answers."""
        if self._at_work:
            return
        try:
            if not self._waits():
                self._unheard = 0
                return
        except BitpressError as error:
            log.warning("cannot see what waits: %s", error.detail)
            return
        if self._unheard >= UNHEARD:
            log.error("this worker no longer hears its messages: ending it, so that it is started again")
            self._give_up()
        elif self._wake():
            with self._lock:
                # Anything heard since the look began counts from here on.
                self._unheard += not self._at_work

    def watch(self, *, every_seconds: float) -> None:
        """Look for as long as the process lives, in a thread of its own."""

        def run() -> None:
            never = threading.Event()
            while not never.wait(every_seconds):
                self.look()

        threading.Thread(target=run, name="listening", daemon=True).start()
