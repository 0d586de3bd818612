"""Every measured variant of a model, in groups that can be compared, and the best of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.db.repositories.paging import refuse_unstorable
from app.db.session import Database
from app.db.tables import Model
from app.domain.frontier import BadConstraint, Bound, Choice, Placed, choose, place, read_bound
from app.domain.goal import Minimizable
from app.domain.ids import is_id
from app.domain.variants import Data, Found, Measured
from app.errors import FieldError, InvalidRequest, NotFound
from app.services.variants import measured_by, succeeded_jobs

MOST_JOBS = 200
"""The newest of a model that are looked at: each is a document of some 20 kB."""

MOST_CONSTRAINTS = 16


@dataclass(frozen=True, slots=True)
class Group:
    """Variants that were measured on one machine, on the same rows, with as many threads and rows a call.

    `jobs` are those that measured a variant, by its id, the newest, whose numbers these are, first.
    """

    target: str
    fingerprint: str | None
    data: Data
    threads: int | None
    batch: int | None
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

        Raises `NotFound`, and `InvalidRequest` with every constraint that cannot be read.
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
        groups: dict[tuple[object, ...], list[Measured]] = {}
        for variant in variants:
            groups.setdefault(_kinship(variant), []).append(variant)
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


def _kinship(variant: Measured) -> tuple[object, ...]:
    """What variants must share to be comparable."""
    threads, batch = _conditions(variant)
    return variant.fingerprint or variant.target, variant.data.source, variant.data.digest, threads, batch


def _conditions(variant: Measured) -> tuple[int | None, int | None]:
    """Threads and rows a call of the first latency, which is the one that goals use."""
    found: Found = variant.measured("latency_p50") or {}
    conditions = found.get("conditions") or {}
    return conditions.get("threads"), conditions.get("batch")


def _group(variants: Sequence[Measured], bounds: Sequence[Bound], minimize: Minimizable) -> Group:
    """One group; of a variant that several jobs measured, the newest numbers count, so that none is picked for luck."""
    newest: dict[object, Measured] = {}
    jobs: dict[str, list[str]] = {}
    for variant in variants:
        known = newest.setdefault(variant.candidate or variant.id, variant)
        jobs.setdefault(known.id, []).append(variant.job)
    placed, axes = place(list(newest.values()), bounds)
    first = variants[0]
    threads, batch = _conditions(first)
    return Group(
        target=first.target,
        fingerprint=first.fingerprint,
        data=first.data,
        threads=threads,
        batch=batch,
        axes=axes,
        placed=placed,
        jobs=jobs,
        best=choose(placed, bounds, minimize),
    )
