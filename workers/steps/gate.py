"""Combine what the children measured, judge the goal, and say in words what came out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from app.domain.job import Gate, JobSpec
from app.domain.measurement import Measurement
from app.domain.metric import METRICS
from workers.evaluation.comparison import Comparison
from workers.evaluation.conclusion import conclude, describe
from workers.evaluation.evidence import Evidence, alone, gather, timed
from workers.evaluation.gate import Verdict, judge_goal, slice_notes
from workers.evaluation.paired import Drop, paired_drops
from workers.evaluation.potential import potential, profile_doubts
from workers.evaluation.replicate import ORIGINAL, REPLICATE, LatencyReplicate, LoadReplicate
from workers.evaluation.runtime_choice import compare_runtimes
from workers.evaluation.scores import read_scores
from workers.evaluation.selection import choose, pareto
from workers.evaluation.under_load import loads
from workers.steps.baseline import BaselineResult
from workers.steps.candidates import Candidate, CandidatesResult
from workers.steps.inputs import Progress, ScratchPath
from workers.steps.profile import ProfileResult
from workers.steps.requests import JobRequest, read_result


class GateRequest(JobRequest):
    """Judge the candidates by what earlier steps and the measuring children left."""

    baseline: ScratchPath = "baseline"
    candidates: ScratchPath = "candidates"
    measurements: tuple[ScratchPath, ...] = ()
    """Folders of the measuring children, in any order."""
    profiles: dict[str, ScratchPath] = Field(default_factory=dict)
    """Folders of the profiling children, by the id of what they profiled."""
    notes: tuple[str, ...] = ()
    """What measuring has to say."""


class JudgedCandidate(BaseModel):
    """A candidate with everything measured of it; only the chosen one has a verdict."""

    id: str
    measurements: tuple[Measurement, ...]
    verdict: Gate | None
    pareto: bool
    comparisons: tuple[Comparison, ...]


class GateResult(BaseModel):
    """The numbers of the original and of each candidate, the choice, and the verdict on it."""

    baseline: tuple[Measurement, ...]
    candidates: tuple[JudgedCandidate, ...]
    chosen: str | None
    gate: Gate
    verdicts: tuple[Verdict, ...]
    conclusion: str
    drops: dict[str, tuple[Drop, ...]] = Field(default_factory=dict)
    """What each candidate loses of what the task asks for, row by row, by its id."""
    notes: tuple[str, ...] = ()


def run(request: GateRequest, scratch: Path, folder: Path, progress: Progress) -> GateResult:
    """Combine all replicates, choose, and judge the chosen candidate; or the model itself, where there is none."""
    baseline = read_result(BaselineResult, scratch, request.baseline)
    latency, load = _replicates(request, scratch)
    target = request.fingerprint.get("id")
    original = [
        *baseline.measurements,
        *timed(latency, "original", target=target),
        *loads(load, ORIGINAL, target=target),
    ]
    original_scores = read_scores(scratch / request.baseline)
    notes = (
        *request.notes,
        *_disturbances(latency),
        *_potentials(request, scratch, original),
        *compare_runtimes(original),
    )
    if request.spec.kind == "evaluate":
        evidence_of_it = alone(source=baseline.source, measurements=original, scores=original_scores, latency=latency)
        return _evaluated(request, original, evidence_of_it, notes)
    made = read_result(CandidatesResult, scratch, request.candidates)
    evidence: dict[str, Evidence] = {}
    measurements: dict[str, list[Measurement]] = {}
    for number, candidate in enumerate(made.candidates):
        progress(number / len(made.candidates), f"combining what was measured of {candidate.id}")
        scores = read_scores((scratch / request.candidates / candidate.outputs).parent)
        evidence[candidate.id], measurements[candidate.id] = gather(
            candidate.id,
            source=baseline.source,
            original=original,
            artifact=candidate.measurements,
            scores={"original": original_scores, "artifact": scores},
            latency=latency,
            target=target,
        )
        measurements[candidate.id] += loads(load, candidate.id, target=target)

    progress(0.9, "judging")
    judged = _judged(request, made, evidence)
    best = pareto(evidence)
    return GateResult(
        baseline=tuple(original),
        candidates=tuple(
            JudgedCandidate(
                id=name,
                measurements=tuple(measurements[name]),
                verdict=judged.gate if name == judged.chosen else None,
                pareto=name in best,
                comparisons=found.comparisons,
            )
            for name, found in evidence.items()
        ),
        chosen=judged.chosen,
        gate=judged.gate,
        verdicts=judged.verdicts,
        conclusion=judged.conclusion,
        drops={
            name: tuple(paired_drops(found.original_scores, found.artifact_scores)) for name, found in evidence.items()
        },
        notes=(*notes, *judged.notes),
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """What was chosen, and what came of judging it."""

    chosen: str | None = None
    gate: Gate = "none"
    verdicts: tuple[Verdict, ...] = ()
    conclusion: str = ""
    notes: tuple[str, ...] = ()


def _judged(request: GateRequest, made: CandidatesResult, evidence: Mapping[str, Evidence]) -> _Judged:
    goal = request.spec.goal
    chosen = choose(evidence, goal)
    if chosen is None:
        return _Judged()
    gate, verdicts = judge_goal(goal, evidence[chosen])
    conclusion = conclude(
        _recipe(made.candidates, chosen),
        evidence[chosen],
        gate=gate,
        verdicts=verdicts,
        fingerprint=request.fingerprint,
        asked=_asked(request.spec),
    )
    slices = slice_notes(evidence[chosen], verdicts, goal.confidence if goal is not None else 0.95)
    return _Judged(chosen, gate, verdicts, conclusion, slices)


def _evaluated(
    request: GateRequest, measurements: list[Measurement], evidence: Evidence, notes: tuple[str, ...]
) -> GateResult:
    gate, verdicts = judge_goal(request.spec.goal, evidence)
    return GateResult(
        baseline=tuple(measurements),
        candidates=(),
        chosen=None,
        gate=gate,
        verdicts=verdicts,
        conclusion=describe(evidence, gate=gate, verdicts=verdicts, fingerprint=request.fingerprint),
        notes=notes,
    )


def _replicates(request: GateRequest, scratch: Path) -> tuple[list[LatencyReplicate], list[LoadReplicate]]:
    latency: list[LatencyReplicate] = []
    load: list[LoadReplicate] = []
    for name in request.measurements:
        found = REPLICATE.validate_json((scratch / name / "result.json").read_bytes())
        if isinstance(found, LatencyReplicate):
            latency.append(found)
        else:
            load.append(found)
    return sorted(latency, key=lambda replicate: replicate.replicate), load


def _potentials(request: GateRequest, scratch: Path, original: Sequence[Measurement]) -> tuple[str, ...]:
    """What fewer bits could do for the original at most, by its roofline."""
    folder = request.profiles.get(ORIGINAL)
    found = None if folder is None else read_result(ProfileResult, scratch, folder)
    if found is None or found.roofline is None:
        return ()
    timed_like_it = next((one for one in original if one.name == "latency_p50"), None)
    p50, flags = (None, ()) if timed_like_it is None else (timed_like_it.value, timed_like_it.flags)
    return potential(found.roofline, profile_doubts(found.unprofiled_ms, p50, flags))


def _asked(spec: JobSpec) -> list[str]:
    """The metrics that the job is about, those first that its goal bounds."""
    bound = [constraint.metric for constraint in spec.goal.constraints] if spec.goal is not None else []
    named = [choice.name for choice in spec.asked_metrics()]
    return [name for name in dict.fromkeys([*bound, *named]) if name in METRICS]


def _recipe(candidates: tuple[Candidate, ...], name: str) -> dict[str, Any]:
    return next(candidate.recipe for candidate in candidates if candidate.id == name)


def _disturbances(latency: list[LatencyReplicate]) -> tuple[str, ...]:
    """How many children saw other work on the machine or a clock that jumped, and all that the first of them saw."""
    seen = [found for replicate in latency if (found := replicate.disturbances())]
    if not seen:
        return ()
    return (f"{len(seen)} of {len(latency)} timing processes were disturbed; the first of them: {', '.join(seen[0])}.",)
