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
    rows. `statistics` are those of the float model's activations on the rows of `observed`, `setting` what quantizes
    it, `work` a folder for what is only needed on the way, `threads` what may be used.
    """

    feeds: Feeds
    observed: Feeds
    statistics: Statistics
    setting: Setting
    work: Path
    threads: int = 1

    def observed_anew(self, model: ModelProto, tensors: Sequence[str]) -> Statistics:
        """The statistics, with those of tensors that a step has changed taken from its model.

        On the rows that the others come from: ranges from fewer are narrower, and the step would be judged by that.
        Raises StepError `step_not_applicable` where the step makes numbers too large for float32.
        """
        try:
            seen = collect(
                model,
                tensors,
                self.observed,
                self.work,
                threads=self.threads,
                histograms=self.setting.calibration.needs_histograms,
            )
        except StepError as error:
            if error.code != "calibration_not_finite":
                raise
            raise StepError(
                "Scaled as the step would have it, activations are too large for float32.", code="step_not_applicable"
            ) from error
        return Statistics(self.statistics.samples, {**self.statistics.tensors, **seen.tensors})


Step = Callable[[Plan, Material], Plan]
"""Returns a changed copy of the plan; the one it was given stays as it is. Raises StepError `step_not_applicable`,
with the reason, where the model has nothing that the step could work on."""
