"""Every measured variant of a model, in groups that can be compared, and the best of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from app.db.repositories.paging import refuse_unstorable
from app.db.session import Database
from app.db.tables import Model
from app.domain.frontier import BadConstraint, Bound, Choice, Placed, choose, place, read_bound
from app.domain.goal import Minimizable
from app.domain.ids import is_id
from app.domain.metric import METRICS
from app.domain.variants import Data, Measured, running_conditions, running_key
from app.errors import FieldError, InvalidRequest, NotFound
from app.services.targets import builtin_targets, known_targets
from app.services.variants import measured_by, succeeded_jobs

MOST_JOBS = 200
"""The newest of a model that are looked at: each is a document of some 20 kB."""

MOST_CONSTRAINTS = 16


@dataclass(frozen=True, slots=True)
class Group:
    """Variants that were measured on one machine, on the same rows, under the same conditions.

    `conditions` are those of the latency that goals use: runtime and version, threads, rows a call, shapes. `jobs` are
    those that measured a variant, by its id, the newest, whose numbers these are, first.
    """

    target: str
    fingerprint: str | None
    data: Data
    conditions: dict[str, Any]
    axes: Sequence[str]
    placed: Sequence[Placed]
    jobs: dict[str, list[str]]
    best: Choice


@dataclass(frozen=True, slots=True)
class Frontier:
    """All groups, the one measured last first; `older` says that jobs beyond the newest were left out."""

    model: str
    minimize: Minimizable
    constraints: tuple[str, ...]
    groups: tuple[Group, ...]
    older: bool


class Frontiers:
    """Finds what is best of a model."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_model(
        self, model_id: str, *, target: str | None, minimize: Minimizable, constraints: Sequence[str]
    ) -> Frontier:
        """Group and rank every measured variant; `target` is a target's name or a machine's fingerprint.

        Of a model that one job timed on several runtimes there is a group for each. Raises `NotFound`, and
        `InvalidRequest` with every constraint that cannot be read, or for a target that there is not.
        """
        refuse_unstorable(target=target)
        bounds = _bounds(constraints)
        with self._database.read() as session:
            if not is_id(model_id, "mdl") or session.get(Model, model_id) is None:
                raise NotFound(f"There is no model {model_id}.", code="model_not_found")
            jobs = succeeded_jobs(session, model_id, most=MOST_JOBS + 1)
            variants = list(measured_by(session, jobs[:MOST_JOBS]))
            if target is not None:
                variants = [variant for variant in variants if target in (variant.target, variant.fingerprint)]
                if not variants:
                    _check_target(session, target)
        groups: dict[tuple[object, ...], list[Measured]] = {}
        for variant in variants:
            for runtime in variant.runtimes or (None,):
                found = variant.on(runtime) if len(variant.runtimes) > 1 else variant
                groups.setdefault(_kinship(found), []).append(found)
        return Frontier(
            model_id,
            minimize,
            tuple(constraints),
            tuple(_group(found, bounds, minimize) for found in groups.values()),
            len(jobs) > MOST_JOBS,
        )


def _bounds(constraints: Sequence[str]) -> list[Bound]:
    bounds: list[Bound] = []
    errors: list[FieldError] = []
    if len(constraints) > MOST_CONSTRAINTS:
        errors.append(FieldError("", "too_long", f"Give at most {MOST_CONSTRAINTS} constraints."))
    for text in constraints[:MOST_CONSTRAINTS]:
        try:
            bounds.append(read_bound(text))
        except BadConstraint as error:
            errors.append(FieldError("", error.code, error.detail))
    if errors:
        raise InvalidRequest(errors[0].detail, code=errors[0].code, errors=errors)
    return bounds


def _check_target(session: Session, target: str) -> None:
    """Raise `InvalidRequest` unless there is such a target or machine, on which this model was not measured."""
    known = known_targets(session)
    machines = {str(found.fingerprint.get("id")) for found in known}
    names = {"local"} | {found.id for found in known} | builtin_targets().keys()
    if target not in names | machines:
        detail = (
            f"There is no target {target[:100]!r}, nor a machine of that fingerprint, and nothing was measured there. "
            f"There are {', '.join(sorted(names))}."
        )
        raise InvalidRequest(detail, code="target_unknown", errors=[FieldError("", "target_unknown", detail)])


def _kinship(variant: Measured) -> tuple[object, ...]:
    """What variants must share to be comparable."""
    running = running_key(variant.measured("latency_p50"))
    return variant.fingerprint or variant.target, variant.data.source, variant.data.digest, running


def _group(variants: Sequence[Measured], bounds: Sequence[Bound], minimize: Minimizable) -> Group:
    """One group; of a variant that several jobs measured, the newest numbers count, so that none is picked for luck."""
    results: dict[str, list[Measured]] = {}
    for variant in variants:
        results.setdefault(variant.candidate or variant.id, []).append(variant)
    newest = [_with_metrics_of(found[0], found[1:]) for found in results.values()]
    placed, axes = place(newest, bounds)
    first = variants[0]
    return Group(
        target=first.target,
        fingerprint=first.fingerprint,
        data=first.data,
        conditions=running_conditions(first.measured("latency_p50")),
        axes=axes,
        placed=placed,
        jobs={found[0].id: [each.job for each in found] for found in results.values()},
        best=choose(placed, bounds, minimize),
    )


def _with_metrics_of(variant: Measured, earlier: Sequence[Measured]) -> Measured:
    """A variant with those metrics that only earlier jobs computed of the same file, on the same rows.

    A file's outputs are the same on any day. An artifact that is evaluated has no original beside it, and what it loses
    row by row is what the job that made it says.
    """
    measurements, drops = list(variant.measurements), list(variant.drops)
    for other in earlier:
        if other.id == variant.id:
            known = {found["name"] for found in measurements if found.get("value") is not None}
            measurements += [
                found for found in other.measurements if found["name"] in METRICS and found["name"] not in known
            ]
            lost = {drop["metric"] for drop in drops}
            drops += [drop for drop in other.drops if drop["metric"] not in lost]
    return replace(variant, measurements=measurements, drops=drops)
