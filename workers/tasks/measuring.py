"""The measurements of a job: times and memory in as many fresh children as their precision asks for, then the rest."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from app.errors import BitpressError
from workers.tasks.plan import Condition, Step, conditions, latency_step, load_steps, profile_steps

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """Folders of the children that timed or loaded a model, and of those that profiled one, by its id.

    `notes` say what could not be profiled, and why.
    """

    folders: tuple[str, ...]
    profiles: dict[str, str]
    notes: tuple[str, ...] = ()


@contextmanager
def told(where: str) -> Iterator[None]:
    """Let a failure say where it happened."""
    try:
        yield
    except BitpressError as error:
        error.detail = f"{error.detail.rstrip('. ')}. This was {where}."
        raise


class Measuring:
    """Plans fresh children and has them run, one at a time, while the machine is this job's alone.

    `fresh` runs a step in a child of its own, `beside` in the one that waits meanwhile and takes no processor; both
    give its result. `show` is told how far this is, from 0 to 1, and what is done.
    """

    def __init__(
        self,
        original: dict[str, Any],
        candidates: Sequence[dict[str, Any]],
        common: dict[str, Any],
        *,
        batches: Sequence[int] | None,
        cases: dict[str, dict[str, Any]],
        runtimes: Sequence[str],
        peaks: dict[str, Any] | None,
        replicates: int,
        most_replicates: int,
        seconds: float,
        fresh: Callable[[Step], dict[str, Any]],
        beside: Callable[[Step], dict[str, Any]],
        show: Callable[[float, str], None],
    ) -> None:
        self._original = original
        self._common = common
        self._load = load_steps(original, candidates, common, children=replicates, runtime=runtimes[0])
        self._profiles = profile_steps(original, candidates, common, runtime=runtimes[0], seconds=seconds, peaks=peaks)
        self._conditions = conditions(candidates, common["spec"]["measure"], batches, cases, runtimes)
        self._replicates = replicates
        self._most = max(most_replicates, replicates)
        given = common["spec"]["measure"].get("seconds")
        self._seconds = seconds if given is None else given / replicates
        self._budget = given if given is not None else seconds * self._most
        self._spent = dict.fromkeys((condition.key for condition in self._conditions), 0.0)
        self._fresh, self._beside, self._show = fresh, beside, show
        self._folders: dict[str, list[str]] = {condition.key: [] for condition in self._conditions}

    def run(self) -> Measured:
        """Measure everything."""
        steps, number = self._replicates * len(self._conditions) + len(self._load) + len(self._profiles), 0
        for replicate in range(1, self._replicates + 1):
            for condition in self._conditions:
                self._show(number / steps, f"timing {condition.key} in process {replicate}")
                self._time(condition, replicate)
                number += 1
        for replicate in range(self._replicates + 1, self._most + 1):
            wide = [condition for condition in self._wide(replicate) if self._has_time(condition)]
            if not wide:
                break
            for condition in wide:
                self._show(number / steps, f"timing {condition.key} in process {replicate}: its interval is wide")
                self._time(condition, replicate)
        for step in self._load:
            self._show(number / steps, "measuring under load")
            with told(f"while putting {step.request['subject']} under load"):
                self._fresh(step)
            number += 1
        profiles: dict[str, str] = {}
        notes: list[str] = []
        for step in self._profiles:
            self._show(number / steps, "timing operator by operator")
            try:
                self._fresh(step)
            except BitpressError as error:
                if error.retryable:
                    raise
                # How the time is made up is worth knowing, and the time is known without it.
                log.warning("%s: %s", step.folder, error.detail)
                notes.append(f"There is no profile of {step.request['subject']}: {error.detail}")
            else:
                profiles[step.request["subject"]] = step.folder
            number += 1
        timed = [each for known in self._folders.values() for each in known]
        return Measured((*timed, *(step.folder for step in self._load)), profiles, tuple(notes))

    def _time(self, condition: Condition, replicate: int) -> None:
        begun = time.monotonic()
        step = latency_step(condition, replicate, self._original, self._common, seconds=self._seconds)
        with told(f"while timing {condition.text}"):
            self._fresh(step)
        self._folders[condition.key].append(step.folder)
        self._spent[condition.key] += time.monotonic() - begun

    def _wide(self, replicate: int) -> list[Condition]:
        """The conditions whose last look found their interval too wide."""
        request = {**self._common, "groups": {key: list(folders) for key, folders in self._folders.items()}}
        found = self._beside(Step("precision", f"precision-{replicate}", "candidates", request))
        return [condition for condition in self._conditions if condition.key in found["wide"]]

    def _has_time(self, condition: Condition) -> bool:
        """Whether another child of the usual length stays within the budget."""
        spent = self._spent[condition.key]
        return spent + spent / len(self._folders[condition.key]) <= self._budget
