"""Pages of a list, newest first. Ids sort by age, so the last id of a page is its cursor."""

from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session

from app.domain.ids import is_id
from app.errors import InvalidRequest

Row = TypeVar("Row")


def page(
    session: Session, query: Select[tuple[Row]], id_column: Any, *, prefix: str, limit: int, cursor: str | None
) -> tuple[list[Row], str | None]:
    """Read one page of `query`; returns the rows and the cursor of the next page, null at the end.

    `prefix` is that of the rows' ids. Raises `InvalidRequest` (`invalid_cursor`).
    """
    if cursor is not None:
        if not is_id(cursor, prefix):
            raise InvalidRequest(
                "This is no cursor of this list: give `next_cursor` as the page before it had it, or none.",
                code="invalid_cursor",
            )
        query = query.where(id_column < cursor)
    rows = list(session.scalars(query.order_by(id_column.desc()).limit(limit + 1)))
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, rows[-1].id if more else None  # type: ignore[attr-defined]


def refuse_unstorable(**wanted: str | None) -> None:
    """Refuse text that no row can have, on both dialects alike: Postgres would raise, and SQLite find nothing.

    Raises `InvalidRequest` (`invalid_value`).
    """
    for name, text in wanted.items():
        if text is not None and "\0" in text:
            raise InvalidRequest(f"Leave the NUL out of {name}: nothing here has one.", code="invalid_value")
