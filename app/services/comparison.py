"""Any set of artifacts and models side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db.session import Database
from app.db.tables import Artifact, Job, Model
from app.domain.ids import is_id
from app.domain.variants import Difference, Found, Measured, difference, place_of, same_place
from app.errors import Conflict, FieldError, InvalidRequest, NotFound
from app.services.variants import measured_by, succeeded_jobs

LEAST, MOST = 2, 20
_JOBS_OF_A_MODEL = 20


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
            beside = [variant.job for variant in found.values()]
            for each in ids:
                if each not in found:
                    found[each] = self._model(session, each, beside)
        variants = tuple(found[each] for each in ids)
        return SideBySide(variants, tuple(_rows(variants)))

    def _artifact(self, session: Session, artifact_id: str) -> Measured:
        row = session.get(Artifact, artifact_id)
        if row is None:
            raise NotFound(f"There is no artifact {artifact_id}.", code="artifact_not_found")
        job = session.get_one(Job, row.job_id)
        return next(each for each in measured_by(session, [job]) if each.candidate == row.candidate_id)

    def _model(self, session: Session, model_id: str, beside: Sequence[str]) -> Measured:
        """A model as a job measured it: one that made an artifact which is asked for too, else the newest."""
        if session.get(Model, model_id) is None:
            raise NotFound(f"There is no model {model_id}.", code="model_not_found")
        jobs = succeeded_jobs(session, model_id, most=_JOBS_OF_A_MODEL)
        together = [job for job_id in beside if (job := session.get_one(Job, job_id)).model_id == model_id]
        found = next((each for each in measured_by(session, [*together, *jobs]) if each.is_original), None)
        if found is None:
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


def _rows(variants: Sequence[Measured]) -> list[Row]:
    """A row for each measurement of the reference, then for those that only others have."""
    reference = variants[0]
    rows: dict[tuple[object, ...], Found] = {}
    names: set[str] = set()
    for variant in variants:
        for found in variant.measurements:
            # One that others have of the reference's names stands in the reference's row, whatever its conditions.
            if variant is reference or found["name"] not in names:
                rows.setdefault(place_of(found), found)
        names |= {found["name"] for found in variant.measurements}
    made = []
    for found in rows.values():
        before = same_place(reference, found)
        values = []
        for variant in variants:
            after = same_place(variant, found)
            told = before is not None and after is not None and variant is not reference
            values.append(
                Beside(variant, after, difference(reference, before, variant, after) if told else None)  # type: ignore[arg-type]
            )
        made.append(Row(found, tuple(values)))
    return made
