"""What documents of several resources have in common: pages, failures, times, and the rows that were measured on."""

from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from app.domain.variants import Data

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list, newest first."""

    items: list[Item]
    next_cursor: str | None = Field(description="Give it as `cursor` to read on; null at the end.")


class Failure(BaseModel):
    """Why something failed: the fields of a problem document that describe it."""

    code: str
    detail: str
    errors: list[dict[str, Any]] = []
    stage: str | None = None
    retryable: bool = False


class MeasuredData(BaseModel):
    """The rows that metrics were computed on; only those of an evaluation dataset were held out."""

    source: Literal["evaluation", "calibration", "synthetic"]
    dataset: str | None


def moment(milliseconds: int | None) -> str | None:
    """RFC 3339 in UTC."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def measured_data(data: Data) -> dict[str, Any]:
    """The rows as the API shows them."""
    return {"source": data.source, "dataset": data.dataset}
