"""Pages of a list, newest first. Ids sort by age, so the last id of a page is its cursor."""

from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

Row = TypeVar("Row")


def page(
    session: Session, query: Select[tuple[Row]], id_column: Any, *, limit: int, cursor: str | None
) -> tuple[list[Row], str | None]:
    """Read one page of `query`; returns the rows and the cursor of the next page, null at the end."""
    if cursor is not None:
        query = query.where(id_column < cursor)
    rows = list(session.scalars(query.order_by(id_column.desc()).limit(limit + 1)))
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, rows[-1].id if more else None  # type: ignore[attr-defined]
