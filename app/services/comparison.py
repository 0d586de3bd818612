"""Any set of artifacts and models side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from sqlalchemy.orm import Session

from app.db.session import Database
from app.db.tables import Artifact, Job, Model
from app.domain.ids import is_id
from app.domain.metric import METRICS
from app.domain.variants import Difference, Found, Measured, difference, place_of, same_place
from app.errors import Conflict, FieldError, InvalidRequest, NotFound
from app.services.variants import evaluations_of, measured_by, succeeded_jobs

LEAST, MOST = 2, 20
_JOBS_OF_A_MODEL = 20
_EVALUATIONS_OF_AN_ARTIFACT = 5


@dataclass(frozen=True, slots=True)
class Beside:
    """One value of a row: null where the variant was not measured in that; the reference differs from nothing."""

    variant: Measured
    found: Found | None
    difference: Difference | None


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement under one set of conditions, of every variant, the reference first."""

    found: Found
    values: tuple[Beside, ...]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The variants in the order they were asked for, and every measurement of any of them."""

    variants: tuple[Measured, ...]
    rows: tuple[Row, ...]


class Comparisons:
    """Compares what jobs measured."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def compare(self, ids: Sequence[str]) -> SideBySide:
        """Every measurement of these artifacts and models; the first is what the others are compared with.

        Raises `InvalidRequest`, `NotFound`, and `Conflict` (`not_measured`) for a model that no job has measured.
        """
        _check(ids)
        with self._database.read() as session:
            found = {each: self._artifact(session, each) for each in ids if is_id(each, "art")}
            beside = [variant.job for variants in found.values() for variant in variants]
            for each in ids:
                if each not in found:
                    found[each] = self._model(session, each, beside)
        variants = _best_comparable([found[each] for each in ids])
        return SideBySide(variants, tuple(_rows(variants)))

    def _artifact(self, session: Session, artifact_id: str) -> list[Measured]:
        """An artifact as jobs measured it: those that evaluated it, the newest first, and the one that made it."""
        row = session.get(Artifact, artifact_id)
        if row is None:
            raise NotFound(f"There is no artifact {artifact_id}.", code="artifact_not_found")
        jobs = evaluations_of(session, artifact_id, most=_EVALUATIONS_OF_AN_ARTIFACT)
        found = measured_by(session, [*jobs, session.get_one(Job, row.job_id)])
        return [each for each in found if each.id == artifact_id]

    def _model(self, session: Session, model_id: str, beside: Sequence[str]) -> list[Measured]:
        """A model as jobs measured it: those that made an artifact which is asked for too, then the newest."""
        if session.get(Model, model_id) is None:
            raise NotFound(f"There is no model {model_id}.", code="model_not_found")
        together = [job for job_id in beside if (job := session.get_one(Job, job_id)).model_id == model_id]
        newest = succeeded_jobs(session, model_id, most=_JOBS_OF_A_MODEL)
        jobs = {job.id: job for job in [*together, *newest]}
        found = [each for each in measured_by(session, list(jobs.values())) if each.is_original]
        if not found:
            raise Conflict(
                f"No job that succeeded has measured {model_id}. Submit one, and compare when it has ended.",
                code="not_measured",
            )
        return found


def _check(ids: Sequence[str]) -> None:
    if not LEAST <= len(ids) <= MOST:
        detail = f"Give `of` {LEAST} to {MOST} times, each an artifact (art_…) or a model (mdl_…)."
        raise InvalidRequest(detail, code="invalid_value", errors=[FieldError("", "invalid_value", detail)])
    for each in ids:
        if not is_id(each, "art") and not is_id(each, "mdl"):
            detail = f"{each[:100]!r} is no id of an artifact (art_…) or a model (mdl_…)."
            raise InvalidRequest(detail, code="invalid_id", errors=[FieldError("", "invalid_id", detail)])
    if len(set(ids)) < len(ids):
        detail = "Each artifact or model can be named once."
        raise InvalidRequest(detail, code="duplicate_id", errors=[FieldError("", "duplicate_id", detail)])


def _best_comparable(options: Sequence[Sequence[Measured]]) -> tuple[Measured, ...]:
    """Of several results of each, those of which most can be compared with the reference's; of equal ones the first."""
    if all(len(results) == 1 for results in options):
        return tuple(results[0] for results in options)
    best: tuple[tuple[int, ...], tuple[Measured, ...]] | None = None
    for reference in options[0]:
        known = [found for name in ("latency_p50", *METRICS) if (found := reference.measured(name)) is not None]
        worth = [[(_worth(reference, known, other), other) for other in others] for others in options[1:]]
        chosen = [max(scored, key=itemgetter(0)) for scored in worth]
        total = tuple(map(sum, zip(*(score for score, _ in chosen), strict=True)))
        if best is None or total > best[0]:
            best = total, (reference, *(variant for _, variant in chosen))
    assert best is not None
    return best[1]


def _worth(reference: Measured, known: Sequence[Found], variant: Measured) -> tuple[int, int, int]:
    """Of what is known of the reference, how much has the same conditions, how much is paired, how much both have."""
    told = []
    for before in known:
        after = same_place(variant, before)
        if after is not None and after.get("value") is not None:
            told.append(difference(reference, before, variant, after))
    return (
        sum(each.side != "not_comparable" for each in told),
        sum(each.basis in ("paired", "through_original") for each in told),
        len(told),
    )


def _rows(variants: Sequence[Measured]) -> list[Row]:
    """A row for each measurement of the reference, then for those that only others have.

    What a variant has of the reference's measurements under no such conditions stands beside it all the same, since
    then the conditions that differ are told.
    """
    reference = variants[0]
    rows = [_row(variants, found) for found in _in_places(reference)]
    shown = {id(beside.found) for row in rows for beside in row.values}
    names = {row.found["name"] for row in rows}
    for variant in variants[1:]:
        for found in _in_places(variant):
            if id(found) not in shown and (found.get("value") is not None or found["name"] not in names):
                rows.append(Row(found, tuple(_exactly(each, found) for each in variants)))
                shown |= {id(beside.found) for beside in rows[-1].values}
    return rows


def _in_places(variant: Measured) -> list[Found]:
    """Its measurements, the first of each name under each conditions."""
    found: dict[tuple[object, ...], Found] = {}
    for measurement in variant.measurements:
        found.setdefault(place_of(measurement), measurement)
    return list(found.values())


def _row(variants: Sequence[Measured], before: Found) -> Row:
    reference = variants[0]
    values = [Beside(reference, before, None)]
    for variant in variants[1:]:
        after = same_place(variant, before)
        values.append(Beside(variant, after, difference(reference, before, variant, after) if after else None))
    return Row(before, tuple(values))


def _exactly(variant: Measured, found: Found) -> Beside:
    same = same_place(variant, found)
    return Beside(variant, same if same is not None and place_of(same) == place_of(found) else None, None)
