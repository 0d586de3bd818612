"""What every recovery step is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from app.errors import StepError
from workers.quantization.calibration.collect import Feeds, collect
from workers.quantization.calibration.statistics import Statistics
from workers.quantization.qdq.plan import Plan, Setting


@dataclass(frozen=True, slots=True)
class Material:
    """The data and settings that recovery works with.

    `feeds` starts over the rows that steps may fit to: each yields the model's inputs by name, and their number of
    rows, `observed` over those that ranges come from. `setting` is what quantizes the model, `work` a folder for what
    is only needed on the way, `threads` what may be used.
    """

    feeds: Feeds
    observed: Feeds
    setting: Setting
    work: Path
    threads: int = 1

    def observed_anew(self, seen: Statistics, model: ModelProto, tensors: Sequence[str]) -> Statistics:
        """What was seen before a step, with the tensors that it has changed or added taken from its model.

        On the rows that the others come from, and with histograms where those have them: ranges from fewer rows are
        narrower, and the step would be judged by that.
        Raises StepError `step_not_applicable` where the step makes numbers too large for float32.
        """
        if not tensors:
            return seen
        try:
            anew = collect(
                model,
                tensors,
                self.observed,
                self.work,
                threads=self.threads,
                histograms=any(of.counts is not None for of in seen.tensors.values()),
            )
        except StepError as error:
            if error.code != "calibration_not_finite":
                raise
            raise StepError(
                "Scaled as the step would have it, activations are too large for float32.", code="step_not_applicable"
            ) from error
        return Statistics(seen.samples, {**seen.tensors, **anew.tensors})


Step = Callable[[Plan, Material], Plan]
"""Returns a changed copy of the plan; the one it was given stays as it is. Raises StepError `step_not_applicable`,
with the reason, where the model has nothing that the step could work on."""
