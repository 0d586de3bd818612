"""The declarative base, and the column types that both dialects share."""

from typing import Annotated, Any

from sqlalchemy import JSON, BigInteger, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Constraints need names, or Alembic cannot drop them again.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}

# Plain JSON on Postgres too, not JSONB: documents are read whole, and it gives them back as they were written.
Json = JSON()

Id = Annotated[str, mapped_column(String(40))]
Key = Annotated[str, mapped_column(String(40), primary_key=True)]
Milliseconds = Annotated[int, mapped_column(BigInteger)]
"""A moment: milliseconds since the epoch by the database's clock."""
Bytes = Annotated[int, mapped_column(BigInteger)]


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {dict[str, Any]: Json, list[Any]: Json}  # noqa: RUF012 - SQLAlchemy's own way


class Leased:
    """Columns of work that a worker claims: who has it, until when, and for the how-manieth time.

    `attempt` is also the fence: a writer that holds an older number writes nothing.
    """

    attempt: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[int | None] = mapped_column(BigInteger)
