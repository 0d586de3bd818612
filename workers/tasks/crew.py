"""The child at work: one for consecutive steps, another when it died."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.errors import SandboxError
from workers.sandbox.child import SandboxChild
from workers.sandbox.scratch import remove_scratch
from workers.tasks.plan import Step
from workers.tasks.station import Station

log = logging.getLogger(__name__)

TRIES = 3
"""A child killed from outside (by the kernel's out-of-memory killer, say) is given two more chances."""


class Crew:
    """Runs steps one after another in one confined child, and in a new one when that died."""

    def __init__(self, station: Station, scratch: Path, log_file: Path, tick: Callable[[], None]) -> None:
        self._station = station
        self._scratch = scratch
        self._log_file = log_file
        self._tick = tick
        self._child: SandboxChild | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dismiss()

    def run(self, step: Step, *, seconds: float, on_progress: Callable[[float, str], None]) -> dict[str, Any]:
        """Run one step; returns its result. Raises `SandboxError` and whatever `tick` raises."""
        for attempt in range(1, TRIES + 1):
            try:
                return self._running().run(
                    step=step.name,
                    folder=step.folder,
                    request=step.request,
                    seconds=seconds,
                    on_progress=on_progress,
                    tick=self._tick,
                )
            except SandboxError as error:
                if error.code != "step_crashed" or attempt == TRIES:
                    raise
                log.warning("the child died in step %s, once more: %s", step.name, error.detail)
                self._dismiss()
                remove_scratch(self._scratch / step.folder)
        raise AssertionError("the last try returns or raises")

    def _running(self) -> SandboxChild:
        if self._child is not None and not self._child.alive:
            self._dismiss()
        if self._child is None:
            child = self._station.child(self._scratch, self._log_file)
            child.__enter__()
            self._child = child
        return self._child

    def _dismiss(self) -> None:
        if self._child is not None:
            self._child.__exit__(None, None, None)
            self._child = None
