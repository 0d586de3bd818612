"""Objects in the store: each has a row before its first byte is written, and loses it last."""

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Bytes, Key, Milliseconds, Table


class Blob(Table):
    """One object. `pending` while its bytes arrive, `stored`, and `deleting` once nobody needs it.

    `sha256` is null unless stored, so that equal bytes find each other and nothing finds a blob that
    is going. `released_at` is when its last row was seen gone.
    """

    __tablename__ = "blobs"
    __table_args__ = (Index(None, "state", "released_at"),)

    id: Mapped[Key]
    location: Mapped[str] = mapped_column(String(200), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str | None] = mapped_column(String(64), unique=True)
    bytes: Mapped[Bytes]
    created_at: Mapped[Milliseconds]
    released_at: Mapped[int | None] = mapped_column(BigInteger)
