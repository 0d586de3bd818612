"""The measurements of a job: times and memory in as many fresh children as their precision asks for, then load."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from workers.tasks.plan import Condition, Step, conditions, latency_step, load_steps


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
        replicates: int,
        most_replicates: int,
        seconds: float,
        fresh: Callable[[Step], dict[str, Any]],
        beside: Callable[[Step], dict[str, Any]],
        show: Callable[[float, str], None],
    ) -> None:
        self._original = original
        self._common = common
        self._load = load_steps(original, candidates, common, children=replicates)
        self._conditions = conditions(candidates, common["spec"]["measure"], batches, cases)
        self._replicates = replicates
        self._most = max(most_replicates, replicates)
        given = common["spec"]["measure"].get("seconds")
        self._seconds = seconds if given is None else given / replicates
        self._budget = given if given is not None else seconds * self._most
        self._spent = dict.fromkeys((condition.key for condition in self._conditions), 0.0)
        self._fresh, self._beside, self._show = fresh, beside, show
        self._folders: dict[str, list[str]] = {condition.key: [] for condition in self._conditions}

    def run(self) -> list[str]:
        """Measure everything; returns the folders of the children."""
        steps, number = self._replicates * len(self._conditions) + len(self._load), 0
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
            self._fresh(step)
            number += 1
        timed = [each for known in self._folders.values() for each in known]
        return [*timed, *(step.folder for step in self._load)]

    def _time(self, condition: Condition, replicate: int) -> None:
        begun = time.monotonic()
        step = latency_step(condition, replicate, self._original, self._common, seconds=self._seconds)
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
